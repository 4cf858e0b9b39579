-- graphjobs.backfill.load.event_sql.RUN_EVENTS.groups
PREPARE backfill_run_events_groups AS
SELECT scheduler.policy_run_events.tenant_id COLLATE "C" AS anon_1, 0, scheduler.policy_run_events.status, count(*) AS count_1, CAST(sum(CAST(hash_record_extended(row(scheduler.policy_run_events.job_id, scheduler.policy_run_events.tenant_id, scheduler.policy_run_events.status, scheduler.policy_run_events.payload, scheduler.policy_run_events.created_at), 0) AS NUMERIC)) AS TEXT) AS sum_1
FROM scheduler.policy_run_events
GROUP BY scheduler.policy_run_events.tenant_id COLLATE "C", scheduler.policy_run_events.status;
