-- graphjobs.graph_jobs.sql.acquire.FIND_CLAIMED_JOBS
--   $1 p_tenant_ids TEXT[]
--   $2 p_type SMALLINT
--   $3 p_transition_id TEXT
PREPARE graph_jobs_find_claimed_jobs AS
SELECT scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.type, scheduler.graph_jobs.status, CASE WHEN (scheduler.graph_jobs.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.created_at END AS anon_1, scheduler.graph_jobs.correlation_id, CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END AS anon_2, CAST(scheduler.graph_jobs.payload AS TEXT) AS payload
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = any($1::TEXT[])
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = 1
AND (SELECT scheduler.graph_job_events.payload ->> 'transitionId' AS anon_3
FROM scheduler.graph_job_events
WHERE scheduler.graph_job_events.job_id = scheduler.graph_jobs.id
AND scheduler.graph_job_events.tenant_id = scheduler.graph_jobs.tenant_id
AND scheduler.graph_job_events.created_at = scheduler.graph_jobs.updated_at
ORDER BY scheduler.graph_job_events.created_at DESC
LIMIT 1) = $3::VARCHAR
ORDER BY scheduler.graph_jobs.created_at, scheduler.graph_jobs.id;
