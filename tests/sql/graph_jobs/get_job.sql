-- graphjobs.graph_jobs.sql.single.GET_JOB
--   $1 p_job_id UUID
--   $2 p_tenant_id TEXT
--   $3 p_type SMALLINT
PREPARE graph_jobs_get_job AS
SELECT scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.type, scheduler.graph_jobs.status, CASE WHEN (scheduler.graph_jobs.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.created_at END AS anon_1, scheduler.graph_jobs.correlation_id, CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END AS anon_2, CAST(scheduler.graph_jobs.payload AS TEXT) AS payload
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = $1::UUID
AND scheduler.graph_jobs.tenant_id = ($2::VARCHAR COLLATE "C")
AND scheduler.graph_jobs.type = $3::SMALLINT;
