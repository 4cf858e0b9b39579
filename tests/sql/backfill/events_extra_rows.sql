-- graphjobs.backfill.load.event_sql.EVENTS.extra_rows
--   $1 p_limit INTEGER
PREPARE backfill_events_extra_rows AS
SELECT scheduler.graph_job_events.id, scheduler.graph_job_events.tenant_id, 0, scheduler.graph_job_events.status
FROM scheduler.graph_job_events
WHERE NOT (EXISTS (SELECT *
FROM backfill_seen_graph_job_events
WHERE scheduler.graph_job_events.id = backfill_seen_graph_job_events.id))
LIMIT $1::INTEGER;
