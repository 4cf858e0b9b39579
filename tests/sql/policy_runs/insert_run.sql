-- graphjobs.policy_runs.sql.single.INSERT_RUN
--   $1 p_event_payload TEXT
--   $2 p_job_id UUID
--   $3 p_tenant_id TEXT
--   $4 p_run_id TEXT
--   $5 p_policy_id TEXT
--   $6 p_mode SMALLINT
--   $7 p_priority SMALLINT
--   $8 p_status SMALLINT
--   $9 p_attempts INTEGER
--   $10 p_queued_at TIMESTAMP WITH TIME ZONE
--   $11 p_available_at TIMESTAMP WITH TIME ZONE
--   $12 p_created_at TIMESTAMP WITH TIME ZONE
--   $13 p_last_attempt_at TIMESTAMP WITH TIME ZONE
--   $14 p_last_error TEXT
--   $15 p_submitted_at TIMESTAMP WITH TIME ZONE
--   $16 p_completed_at TIMESTAMP WITH TIME ZONE
--   $17 p_lease_owner TEXT
--   $18 p_lease_expires_at TIMESTAMP WITH TIME ZONE
--   $19 p_cancellation_requested_at TIMESTAMP WITH TIME ZONE
--   $20 p_cancellation_reason TEXT
--   $21 p_canceled_at TIMESTAMP WITH TIME ZONE
--   $22 p_payload TEXT
PREPARE policy_runs_insert_run AS
WITH written AS
(INSERT INTO scheduler.policy_runs (id, tenant_id, run_id, policy_id, mode, priority, status, attempts, queued_at, available_at, last_attempt_at, last_error, submitted_at, completed_at, lease_owner, lease_expires_at, cancellation_requested_at, cancellation_reason, canceled_at, payload, created_at)
VALUES ($2::UUID, $3::VARCHAR, $4::VARCHAR, $5::VARCHAR, $6::SMALLINT, $7::SMALLINT, $8::SMALLINT, $9::INTEGER, $10::TIMESTAMP WITH TIME ZONE, CASE WHEN ($11::TIMESTAMP WITH TIME ZONE = $12::TIMESTAMP WITH TIME ZONE
AND $8::SMALLINT = 0) THEN now() ELSE $11::TIMESTAMP WITH TIME ZONE END, $13::TIMESTAMP WITH TIME ZONE, $14::VARCHAR, $15::TIMESTAMP WITH TIME ZONE, $16::TIMESTAMP WITH TIME ZONE, $17::VARCHAR, $18::TIMESTAMP WITH TIME ZONE, $19::TIMESTAMP WITH TIME ZONE, $20::VARCHAR, $21::TIMESTAMP WITH TIME ZONE, CAST($22::VARCHAR AS JSONB), $12::TIMESTAMP WITH TIME ZONE)
ON CONFLICT DO NOTHING
RETURNING scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.run_id, scheduler.policy_runs.policy_id, scheduler.policy_runs.mode, scheduler.policy_runs.priority, scheduler.policy_runs.status, scheduler.policy_runs.attempts, scheduler.policy_runs.queued_at, scheduler.policy_runs.available_at, scheduler.policy_runs.last_attempt_at, scheduler.policy_runs.last_error, scheduler.policy_runs.submitted_at, scheduler.policy_runs.completed_at, scheduler.policy_runs.lease_owner, scheduler.policy_runs.lease_expires_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason, scheduler.policy_runs.canceled_at, scheduler.policy_runs.payload, scheduler.policy_runs.created_at, scheduler.policy_runs.updated_at),
logged AS
(INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload, created_at)
SELECT written.id AS id, written.tenant_id AS tenant_id, written.status AS status, CAST($1::VARCHAR AS JSONB) AS anon_1, written.updated_at AS updated_at
FROM written
RETURNING scheduler.policy_run_events.id)
SELECT written.id, written.tenant_id, written.run_id, written.policy_id, written.mode, written.priority, written.status, written.attempts, written.queued_at, written.available_at, written.last_attempt_at, written.last_error, written.submitted_at, written.completed_at, written.lease_owner, written.lease_expires_at, written.cancellation_requested_at, written.cancellation_reason, written.canceled_at, CAST(written.payload AS TEXT) AS payload, written.created_at, written.updated_at, true AS anon_2, false AS anon_3
FROM written
UNION ALL
SELECT scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.run_id, scheduler.policy_runs.policy_id, scheduler.policy_runs.mode, scheduler.policy_runs.priority, scheduler.policy_runs.status, scheduler.policy_runs.attempts, scheduler.policy_runs.queued_at, scheduler.policy_runs.available_at, scheduler.policy_runs.last_attempt_at, scheduler.policy_runs.last_error, scheduler.policy_runs.submitted_at, scheduler.policy_runs.completed_at, scheduler.policy_runs.lease_owner, scheduler.policy_runs.lease_expires_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason, scheduler.policy_runs.canceled_at, CAST(scheduler.policy_runs.payload AS TEXT) AS payload, scheduler.policy_runs.created_at, scheduler.policy_runs.updated_at, false AS anon_3, current_setting('synchronous_standby_names') != '' AS anon_4
FROM scheduler.policy_runs
WHERE (scheduler.policy_runs.tenant_id COLLATE "C") = $3::VARCHAR
AND scheduler.policy_runs.run_id = $4::VARCHAR
AND NOT (EXISTS (SELECT written.id
FROM written));
