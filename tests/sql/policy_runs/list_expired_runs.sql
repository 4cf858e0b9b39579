-- graphjobs.policy_runs.sql.acquire.LIST_EXPIRED_RUNS
--   $1 p_tenant_id TEXT
--   $2 p_limit BIGINT
PREPARE policy_runs_list_expired_runs AS
WITH expired AS MATERIALIZED
(SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.updated_at AS updated_at, scheduler.policy_runs.attempts AS attempts
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 1
AND (scheduler.policy_runs.lease_expires_at < now() OR scheduler.policy_runs.lease_expires_at > scheduler.policy_runs.updated_at
AND scheduler.policy_runs.updated_at - now() > scheduler.policy_runs.lease_expires_at - scheduler.policy_runs.updated_at)
AND ($1::VARCHAR IS NULL OR scheduler.policy_runs.tenant_id = $1::VARCHAR)
ORDER BY scheduler.policy_runs.last_attempt_at
LIMIT $2::BIGINT
FOR NO KEY UPDATE SKIP LOCKED)
SELECT expired.id, expired.tenant_id, expired.updated_at, expired.attempts, (SELECT count(scheduler.policy_run_events.id) AS count_1
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = expired.id
AND scheduler.policy_run_events.tenant_id = expired.tenant_id
AND scheduler.policy_run_events.status = 0
AND (scheduler.policy_run_events.payload ->> 'from') = 'dispatching' AND (scheduler.policy_run_events.payload -> 'error') IS NULL) AS anon_1
FROM expired;
