-- graphjobs.policy_runs.sql.single.GET_RUN
--   $1 p_job_id UUID
--   $2 p_tenant_id TEXT
PREPARE policy_runs_get_run AS
SELECT scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.run_id, scheduler.policy_runs.policy_id, scheduler.policy_runs.mode, scheduler.policy_runs.priority, scheduler.policy_runs.status, scheduler.policy_runs.attempts, scheduler.policy_runs.queued_at, scheduler.policy_runs.available_at, scheduler.policy_runs.last_attempt_at, scheduler.policy_runs.last_error, scheduler.policy_runs.submitted_at, scheduler.policy_runs.completed_at, scheduler.policy_runs.lease_owner, scheduler.policy_runs.lease_expires_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason, scheduler.policy_runs.canceled_at, CAST(scheduler.policy_runs.payload AS TEXT) AS payload, scheduler.policy_runs.created_at, scheduler.policy_runs.updated_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = $1::UUID
AND (scheduler.policy_runs.tenant_id COLLATE "C") = $2::VARCHAR;
