-- graphjobs.backfill.export_sql.EXPORT_JOBS.page
--   $1 p_from_id UUID
--   $2 p_limit BIGINT
PREPARE backfill_export_jobs_page AS
SELECT scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.type, scheduler.graph_jobs.status, CASE WHEN (scheduler.graph_jobs.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.created_at END AS anon_1, scheduler.graph_jobs.correlation_id, CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END AS anon_2, CAST(scheduler.graph_jobs.payload AS TEXT) AS payload
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id >= $1::UUID
ORDER BY scheduler.graph_jobs.id
LIMIT $2::BIGINT;
