-- graphjobs.policy_runs.sql.finish.GET_STATES
--   $1 p_job_ids UUID[]
--   $2 p_distinct_tenant_ids TEXT[]
PREPARE policy_runs_get_states AS
SELECT scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.status, scheduler.policy_runs.attempts, scheduler.policy_runs.lease_owner
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = any($1::UUID[])
AND (scheduler.policy_runs.tenant_id COLLATE "C") = any($2::TEXT[]);
