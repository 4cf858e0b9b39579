-- graphjobs.policy_runs.sql.acquire.FIND_LEASED_RUNS
--   $1 p_attempts_max INTEGER
--   $2 p_transition_id TEXT
--   $3 p_lease_owner TEXT
PREPARE policy_runs_find_leased_runs AS
WITH server AS
(SELECT pg_is_in_recovery() AS in_recovery, pg_postmaster_start_time() AS started_at, current_setting('synchronous_standby_names') != '' AS has_standbys),
recorded AS MATERIALIZED
(SELECT scheduler.policy_run_events.id AS id, scheduler.policy_run_events.job_id AS job_id, scheduler.policy_run_events.tenant_id AS tenant_id, scheduler.policy_run_events.created_at AS created_at, scheduler.policy_run_events.payload -> 'attempts' AS attempts, scheduler.policy_run_events.payload AS payload
FROM scheduler.policy_run_events
WHERE (scheduler.policy_run_events.payload ->> 'transitionId') = $2::VARCHAR
AND length(scheduler.policy_run_events.payload ->> 'transitionId') = 36
AND scheduler.policy_run_events.status = 1),
held AS MATERIALIZED
(SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.run_id AS run_id, scheduler.policy_runs.policy_id AS policy_id, scheduler.policy_runs.mode AS mode, scheduler.policy_runs.priority AS priority, scheduler.policy_runs.status AS status, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.queued_at AS queued_at, scheduler.policy_runs.available_at AS available_at, scheduler.policy_runs.last_attempt_at AS last_attempt_at, scheduler.policy_runs.last_error AS last_error, scheduler.policy_runs.submitted_at AS submitted_at, scheduler.policy_runs.completed_at AS completed_at, scheduler.policy_runs.lease_owner AS lease_owner, scheduler.policy_runs.lease_expires_at AS lease_expires_at, scheduler.policy_runs.cancellation_requested_at AS cancellation_requested_at, scheduler.policy_runs.cancellation_reason AS cancellation_reason, scheduler.policy_runs.canceled_at AS canceled_at, scheduler.policy_runs.payload AS payload, scheduler.policy_runs.created_at AS created_at, scheduler.policy_runs.updated_at AS updated_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = any(array((SELECT recorded.job_id
FROM recorded)))
AND CAST(scheduler.policy_runs.status AS INTEGER) = 1
AND scheduler.policy_runs.lease_owner = $3::VARCHAR),
found AS
(SELECT recorded.job_id AS job_id, held.id AS held_id, held.tenant_id AS held_tenant_id, held.run_id AS held_run_id, held.policy_id AS held_policy_id, held.mode AS held_mode, held.priority AS held_priority, held.status AS held_status, held.attempts AS held_attempts, held.queued_at AS held_queued_at, held.available_at AS held_available_at, held.last_attempt_at AS held_last_attempt_at, held.last_error AS held_last_error, held.submitted_at AS held_submitted_at, held.completed_at AS held_completed_at, held.lease_owner AS held_lease_owner, held.lease_expires_at AS held_lease_expires_at, held.cancellation_requested_at AS held_cancellation_requested_at, held.cancellation_reason AS held_cancellation_reason, held.canceled_at AS held_canceled_at, CAST(held.payload AS TEXT) AS held_payload, held.created_at AS held_created_at, held.updated_at AS held_updated_at, CASE WHEN (held.attempts >= $1::INTEGER) THEN held.attempts - (SELECT count(scheduler.policy_run_events.id) AS count_1
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = held.id
AND scheduler.policy_run_events.tenant_id = held.tenant_id
AND scheduler.policy_run_events.status = 0
AND (scheduler.policy_run_events.payload ->> 'from') = 'dispatching' AND (scheduler.policy_run_events.payload -> 'error') IS NULL) ELSE held.attempts END AS counted_attempts, CAST(NULL AS TEXT) AS cursor_0, CAST(NULL AS TEXT) AS cursor_1, CAST(NULL AS TEXT[]) AS tenants_apart
FROM recorded
LEFT OUTER JOIN held ON held.id = recorded.job_id
AND held.tenant_id = recorded.tenant_id
AND to_jsonb(held.attempts) = recorded.attempts)
SELECT server.in_recovery, server.started_at, server.has_standbys, found.job_id, found.held_id, found.held_tenant_id, found.held_run_id, found.held_policy_id, found.held_mode, found.held_priority, found.held_status, found.held_attempts, found.held_queued_at, found.held_available_at, found.held_last_attempt_at, found.held_last_error, found.held_submitted_at, found.held_completed_at, found.held_lease_owner, found.held_lease_expires_at, found.held_cancellation_requested_at, found.held_cancellation_reason, found.held_canceled_at, found.held_payload, found.held_created_at, found.held_updated_at, found.counted_attempts, found.cursor_0, found.cursor_1, found.tenants_apart
FROM server
LEFT OUTER JOIN found ON true
ORDER BY found.held_priority DESC, found.held_available_at, found.job_id;
