-- graphjobs.policy_runs.sql.acquire.FIND_LEASED_RUNS
--   $1 p_attempts_max INTEGER
--   $2 p_lease_owner TEXT
--   $3 p_transition_id TEXT
PREPARE policy_runs_find_leased_runs AS
SELECT scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.run_id, scheduler.policy_runs.policy_id, scheduler.policy_runs.mode, scheduler.policy_runs.priority, scheduler.policy_runs.status, scheduler.policy_runs.attempts, scheduler.policy_runs.queued_at, scheduler.policy_runs.available_at, scheduler.policy_runs.last_attempt_at, scheduler.policy_runs.last_error, scheduler.policy_runs.submitted_at, scheduler.policy_runs.completed_at, scheduler.policy_runs.lease_owner, scheduler.policy_runs.lease_expires_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason, scheduler.policy_runs.canceled_at, CAST(scheduler.policy_runs.payload AS TEXT) AS payload, scheduler.policy_runs.created_at, scheduler.policy_runs.updated_at, CASE WHEN (scheduler.policy_runs.attempts >= $1::INTEGER) THEN scheduler.policy_runs.attempts - (SELECT count(scheduler.policy_run_events.id) AS count_1
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = scheduler.policy_runs.id
AND scheduler.policy_run_events.tenant_id = scheduler.policy_runs.tenant_id
AND scheduler.policy_run_events.status = 0
AND (scheduler.policy_run_events.payload ->> 'from') = 'dispatching' AND (scheduler.policy_run_events.payload -> 'error') IS NULL) ELSE scheduler.policy_runs.attempts END AS anon_1, CAST(NULL AS TEXT) AS anon_2, CAST(NULL AS TEXT) AS anon__1
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 1
AND scheduler.policy_runs.lease_owner = $2::VARCHAR
AND (SELECT scheduler.policy_run_events.payload ->> 'transitionId' AS anon_3
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = scheduler.policy_runs.id
AND scheduler.policy_run_events.tenant_id = scheduler.policy_runs.tenant_id
AND scheduler.policy_run_events.status = 1
AND (scheduler.policy_run_events.payload ->> 'from') = 'pending' ORDER BY scheduler.policy_run_events.created_at DESC
LIMIT 1) = $3::VARCHAR
ORDER BY scheduler.policy_runs.priority DESC, scheduler.policy_runs.available_at, scheduler.policy_runs.id;
