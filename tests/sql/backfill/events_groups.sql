-- graphjobs.backfill.load.event_sql.EVENTS.groups
PREPARE backfill_events_groups AS
SELECT scheduler.graph_job_events.tenant_id COLLATE "C" AS anon_1, 0, scheduler.graph_job_events.status, count(*) AS count_1, CAST(sum(CAST(hash_record_extended(row(scheduler.graph_job_events.job_id, scheduler.graph_job_events.tenant_id, scheduler.graph_job_events.status, scheduler.graph_job_events.payload, scheduler.graph_job_events.created_at), 0) AS NUMERIC)) AS TEXT) AS sum_1
FROM scheduler.graph_job_events
GROUP BY scheduler.graph_job_events.tenant_id COLLATE "C", scheduler.graph_job_events.status;
