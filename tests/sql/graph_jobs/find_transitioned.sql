-- graphjobs.graph_jobs.sql.finish.FIND_TRANSITIONED
--   $1 p_job_ids UUID[]
--   $2 p_distinct_tenant_ids TEXT[]
--   $3 p_transition_id TEXT
PREPARE graph_jobs_find_transitioned AS
SELECT scheduler.graph_job_events.job_id, CASE WHEN (scheduler.graph_job_events.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_job_events.created_at END AS anon_1
FROM scheduler.graph_job_events
WHERE scheduler.graph_job_events.job_id = any($1::UUID[])
AND scheduler.graph_job_events.tenant_id = any($2::TEXT[])
AND (scheduler.graph_job_events.payload ->> 'transitionId') = $3::VARCHAR;
