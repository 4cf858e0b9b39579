-- graphjobs.backfill.export_sql.EXPORT_JOBS.texts
--   $1 p_id UUID[]
PREPARE backfill_export_jobs_texts AS
SELECT CAST(scheduler.graph_jobs.id AS TEXT) AS id, CAST(scheduler.graph_jobs.tenant_id AS TEXT) AS tenant_id, CAST(scheduler.graph_jobs.type AS TEXT) AS type, CAST(scheduler.graph_jobs.status AS TEXT) AS status, CAST(scheduler.graph_jobs.payload AS TEXT) AS payload, CAST(scheduler.graph_jobs.created_at AS TEXT) AS created_at, CAST(scheduler.graph_jobs.updated_at AS TEXT) AS updated_at, CAST(scheduler.graph_jobs.correlation_id AS TEXT) AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = any($1::UUID[])
ORDER BY scheduler.graph_jobs.id;
