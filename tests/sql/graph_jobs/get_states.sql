-- graphjobs.graph_jobs.sql.finish.GET_STATES
--   $1 p_job_ids UUID[]
--   $2 p_distinct_tenant_ids TEXT[]
PREPARE graph_jobs_get_states AS
SELECT scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.status, CASE WHEN (jsonb_typeof(scheduler.graph_jobs.payload -> 'attempts') = 'number' AND ((scheduler.graph_jobs.payload ->> 'attempts') ~ '^[0-9]{1,5}$')) THEN CAST(scheduler.graph_jobs.payload ->> 'attempts' AS INTEGER) END AS anon_1
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = any($1::UUID[])
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = any($2::TEXT[]);
