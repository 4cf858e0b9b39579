-- graphjobs.policy_runs.sql.finish.STATES_OF
--   $1 jobs UUID[]
--   $2 whose TEXT[]
PREPARE policy_runs_states_of AS
SELECT scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.status, scheduler.policy_runs.attempts, scheduler.policy_runs.lease_owner
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = any($1::UUID[])
AND (scheduler.policy_runs.tenant_id COLLATE "C") = any($2::TEXT[]);
