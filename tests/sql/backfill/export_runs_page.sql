-- graphjobs.backfill.export_sql.EXPORT_RUNS.page
--   $1 p_from_id UUID
--   $2 p_limit BIGINT
PREPARE backfill_export_runs_page AS
SELECT scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.run_id, scheduler.policy_runs.policy_id, scheduler.policy_runs.mode, scheduler.policy_runs.priority, scheduler.policy_runs.status, scheduler.policy_runs.attempts, scheduler.policy_runs.queued_at, scheduler.policy_runs.available_at, scheduler.policy_runs.last_attempt_at, scheduler.policy_runs.last_error, scheduler.policy_runs.submitted_at, scheduler.policy_runs.completed_at, scheduler.policy_runs.lease_owner, scheduler.policy_runs.lease_expires_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason, scheduler.policy_runs.canceled_at, CAST(scheduler.policy_runs.payload AS TEXT) AS payload, scheduler.policy_runs.created_at, scheduler.policy_runs.updated_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id >= $1::UUID
ORDER BY scheduler.policy_runs.id
LIMIT $2::BIGINT;
