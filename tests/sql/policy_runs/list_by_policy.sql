-- graphjobs.policy_runs.sql.lists.LIST_BY_POLICY
--   $1 p_statuses SMALLINT[]
--   $2 p_modes SMALLINT[]
--   $3 p_tenant_id TEXT
--   $4 p_policy_id TEXT
--   $5 p_after_queued_at TIMESTAMP WITH TIME ZONE
--   $6 p_after_id UUID
--   $7 p_queued_from TIMESTAMP WITH TIME ZONE
--   $8 p_limit BIGINT
PREPARE policy_runs_list_by_policy AS
SELECT scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.run_id, scheduler.policy_runs.policy_id, scheduler.policy_runs.mode, scheduler.policy_runs.priority, scheduler.policy_runs.status, scheduler.policy_runs.attempts, scheduler.policy_runs.queued_at, scheduler.policy_runs.available_at, scheduler.policy_runs.last_attempt_at, scheduler.policy_runs.last_error, scheduler.policy_runs.submitted_at, scheduler.policy_runs.completed_at, scheduler.policy_runs.lease_owner, scheduler.policy_runs.lease_expires_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason, scheduler.policy_runs.canceled_at, CAST(scheduler.policy_runs.payload AS TEXT) AS payload, scheduler.policy_runs.created_at, scheduler.policy_runs.updated_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = any(array((SELECT newest.id
FROM unnest($1::SMALLINT[]) AS requested_statuses(status)
JOIN unnest($2::SMALLINT[]) AS requested_modes(mode) ON true
JOIN LATERAL (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.queued_at AS queued_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.tenant_id = $3::VARCHAR
AND scheduler.policy_runs.policy_id = $4::VARCHAR
AND scheduler.policy_runs.status = requested_statuses.status
AND scheduler.policy_runs.mode = requested_modes.mode
AND (scheduler.policy_runs.queued_at, scheduler.policy_runs.id) < ($5::TIMESTAMP WITH TIME ZONE, $6::UUID)
AND scheduler.policy_runs.queued_at > $7::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.policy_runs.queued_at DESC, scheduler.policy_runs.id DESC
LIMIT $8::BIGINT) AS newest ON true
ORDER BY newest.queued_at DESC, newest.id DESC
LIMIT $8::BIGINT)))
AND (scheduler.policy_runs.tenant_id COLLATE "C") = $3::VARCHAR
ORDER BY scheduler.policy_runs.queued_at DESC, scheduler.policy_runs.id DESC
LIMIT $8::BIGINT;
