-- graphjobs.policy_runs.sql.single.FIND_RUN_BY_RUN_ID
--   $1 p_tenant_id TEXT
--   $2 p_run_id TEXT
PREPARE policy_runs_find_run_by_run_id AS
WITH server AS
(SELECT pg_is_in_recovery() AS in_recovery, pg_postmaster_start_time() AS started_at, current_setting('synchronous_standby_names') != '' AS has_standbys),
found AS
(SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.run_id AS run_id, scheduler.policy_runs.policy_id AS policy_id, scheduler.policy_runs.mode AS mode, scheduler.policy_runs.priority AS priority, scheduler.policy_runs.status AS status, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.queued_at AS queued_at, scheduler.policy_runs.available_at AS available_at, scheduler.policy_runs.last_attempt_at AS last_attempt_at, scheduler.policy_runs.last_error AS last_error, scheduler.policy_runs.submitted_at AS submitted_at, scheduler.policy_runs.completed_at AS completed_at, scheduler.policy_runs.lease_owner AS lease_owner, scheduler.policy_runs.lease_expires_at AS lease_expires_at, scheduler.policy_runs.cancellation_requested_at AS cancellation_requested_at, scheduler.policy_runs.cancellation_reason AS cancellation_reason, scheduler.policy_runs.canceled_at AS canceled_at, CAST(scheduler.policy_runs.payload AS TEXT) AS payload, scheduler.policy_runs.created_at AS created_at, scheduler.policy_runs.updated_at AS updated_at
FROM scheduler.policy_runs
WHERE (scheduler.policy_runs.tenant_id COLLATE "C") = $1::VARCHAR
AND scheduler.policy_runs.run_id = $2::VARCHAR)
SELECT server.in_recovery, server.started_at, server.has_standbys, found.id, found.tenant_id, found.run_id, found.policy_id, found.mode, found.priority, found.status, found.attempts, found.queued_at, found.available_at, found.last_attempt_at, found.last_error, found.submitted_at, found.completed_at, found.lease_owner, found.lease_expires_at, found.cancellation_requested_at, found.cancellation_reason, found.canceled_at, found.payload, found.created_at, found.updated_at
FROM server
LEFT OUTER JOIN found ON true;
