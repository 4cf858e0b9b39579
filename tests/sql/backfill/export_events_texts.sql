-- graphjobs.backfill.export_sql.EXPORT_EVENTS.texts
--   $1 p_id BIGINT[]
PREPARE backfill_export_events_texts AS
SELECT CAST(scheduler.graph_job_events.id AS TEXT) AS id, CAST(scheduler.graph_job_events.job_id AS TEXT) AS job_id, CAST(scheduler.graph_job_events.tenant_id AS TEXT) AS tenant_id, CAST(scheduler.graph_job_events.status AS TEXT) AS status, CAST(scheduler.graph_job_events.payload AS TEXT) AS payload, CAST(scheduler.graph_job_events.created_at AS TEXT) AS created_at
FROM scheduler.graph_job_events
WHERE scheduler.graph_job_events.id = any($1::BIGINT[])
ORDER BY scheduler.graph_job_events.id;
