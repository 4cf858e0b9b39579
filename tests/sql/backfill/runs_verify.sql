-- graphjobs.backfill.load.job_and_run_sql.RUNS.verify
--   $1 given_ordinal INTEGER[]
--   $2 given_id UUID[]
--   $3 given_tenant_id TEXT[]
--   $4 given_run_id TEXT[]
--   $5 given_policy_id TEXT[]
--   $6 given_mode SMALLINT[]
--   $7 given_priority SMALLINT[]
--   $8 given_status SMALLINT[]
--   $9 given_attempts INTEGER[]
--   $10 given_queued_at TIMESTAMP WITH TIME ZONE[]
--   $11 given_available_at TIMESTAMP WITH TIME ZONE[]
--   $12 given_last_attempt_at TIMESTAMP WITH TIME ZONE[]
--   $13 given_last_error TEXT[]
--   $14 given_submitted_at TIMESTAMP WITH TIME ZONE[]
--   $15 given_completed_at TIMESTAMP WITH TIME ZONE[]
--   $16 given_lease_owner TEXT[]
--   $17 given_lease_expires_at TIMESTAMP WITH TIME ZONE[]
--   $18 given_cancellation_requested_at TIMESTAMP WITH TIME ZONE[]
--   $19 given_cancellation_reason TEXT[]
--   $20 given_canceled_at TIMESTAMP WITH TIME ZONE[]
--   $21 given_payload TEXT[]
--   $22 given_created_at TIMESTAMP WITH TIME ZONE[]
--   $23 given_updated_at TIMESTAMP WITH TIME ZONE[]
--   $24 ceiling TIMESTAMP WITH TIME ZONE
PREPARE backfill_runs_verify AS
WITH noted AS
(INSERT INTO backfill_seen_policy_runs (id)
SELECT given.id AS id
FROM unnest($1::INTEGER[], $2::UUID[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::SMALLINT[], $7::SMALLINT[], $8::SMALLINT[], $9::INTEGER[], $10::TIMESTAMP WITH TIME ZONE[], $11::TIMESTAMP WITH TIME ZONE[], $12::TIMESTAMP WITH TIME ZONE[], $13::TEXT[], $14::TIMESTAMP WITH TIME ZONE[], $15::TIMESTAMP WITH TIME ZONE[], $16::TEXT[], $17::TIMESTAMP WITH TIME ZONE[], $18::TIMESTAMP WITH TIME ZONE[], $19::TEXT[], $20::TIMESTAMP WITH TIME ZONE[], $21::TEXT[], $22::TIMESTAMP WITH TIME ZONE[], $23::TIMESTAMP WITH TIME ZONE[]) AS given(ordinal, id, tenant_id, run_id, policy_id, mode, priority, status, attempts, queued_at, available_at, last_attempt_at, last_error, submitted_at, completed_at, lease_owner, lease_expires_at, cancellation_requested_at, cancellation_reason, canceled_at, payload, created_at, updated_at)
LEFT OUTER JOIN LATERAL (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.run_id AS run_id, scheduler.policy_runs.policy_id AS policy_id, scheduler.policy_runs.mode AS mode, scheduler.policy_runs.priority AS priority, scheduler.policy_runs.status AS status, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.queued_at AS queued_at, scheduler.policy_runs.available_at AS available_at, scheduler.policy_runs.last_attempt_at AS last_attempt_at, scheduler.policy_runs.last_error AS last_error, scheduler.policy_runs.submitted_at AS submitted_at, scheduler.policy_runs.completed_at AS completed_at, scheduler.policy_runs.lease_owner AS lease_owner, scheduler.policy_runs.lease_expires_at AS lease_expires_at, scheduler.policy_runs.cancellation_requested_at AS cancellation_requested_at, scheduler.policy_runs.cancellation_reason AS cancellation_reason, scheduler.policy_runs.canceled_at AS canceled_at, scheduler.policy_runs.payload AS payload, scheduler.policy_runs.created_at AS created_at, scheduler.policy_runs.updated_at AS updated_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = given.id
LIMIT ALL OFFSET 0) AS there ON true
WHERE (CASE WHEN (there.id IS NULL) THEN CASE WHEN (EXISTS (SELECT *
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.run_id = given.run_id
AND (scheduler.policy_runs.tenant_id COLLATE "C") = given.tenant_id
AND scheduler.policy_runs.id != given.id)) THEN 6 ELSE 0 END WHEN (there.id IS NOT DISTINCT
FROM given.id
AND there.tenant_id IS NOT DISTINCT
FROM given.tenant_id
AND there.run_id IS NOT DISTINCT
FROM given.run_id
AND there.policy_id IS NOT DISTINCT
FROM given.policy_id
AND there.mode IS NOT DISTINCT
FROM given.mode
AND there.priority IS NOT DISTINCT
FROM given.priority
AND there.status IS NOT DISTINCT
FROM given.status
AND there.attempts IS NOT DISTINCT
FROM given.attempts
AND there.queued_at IS NOT DISTINCT
FROM given.queued_at
AND there.available_at IS NOT DISTINCT
FROM given.available_at
AND there.last_attempt_at IS NOT DISTINCT
FROM given.last_attempt_at
AND there.last_error IS NOT DISTINCT
FROM given.last_error
AND there.submitted_at IS NOT DISTINCT
FROM given.submitted_at
AND there.completed_at IS NOT DISTINCT
FROM given.completed_at
AND there.lease_owner IS NOT DISTINCT
FROM given.lease_owner
AND there.lease_expires_at IS NOT DISTINCT
FROM given.lease_expires_at
AND there.cancellation_requested_at IS NOT DISTINCT
FROM given.cancellation_requested_at
AND there.cancellation_reason IS NOT DISTINCT
FROM given.cancellation_reason
AND there.canceled_at IS NOT DISTINCT
FROM given.canceled_at
AND there.payload IS NOT DISTINCT
FROM CAST(given.payload AS JSONB)
AND there.created_at IS NOT DISTINCT
FROM given.created_at) THEN 1 WHEN ((there.tenant_id = given.tenant_id
AND there.run_id = given.run_id
AND there.created_at = given.created_at) IS NOT true) THEN 5 WHEN (there.updated_at > given.updated_at) THEN 3 WHEN (there.updated_at <= $24::TIMESTAMP WITH TIME ZONE
AND there.status < 3
AND there.attempts <= given.attempts
AND (there.updated_at < given.updated_at OR there.attempts < given.attempts OR given.status >= 3)) THEN 2 ELSE 4 END NOT IN (5, 6))
ON CONFLICT DO NOTHING
RETURNING backfill_seen_policy_runs.id)
SELECT given.ordinal, CASE WHEN (there.id IS NULL) THEN CASE WHEN (EXISTS (SELECT *
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.run_id = given.run_id
AND (scheduler.policy_runs.tenant_id COLLATE "C") = given.tenant_id
AND scheduler.policy_runs.id != given.id)) THEN 6 ELSE 0 END WHEN (there.id IS NOT DISTINCT
FROM given.id
AND there.tenant_id IS NOT DISTINCT
FROM given.tenant_id
AND there.run_id IS NOT DISTINCT
FROM given.run_id
AND there.policy_id IS NOT DISTINCT
FROM given.policy_id
AND there.mode IS NOT DISTINCT
FROM given.mode
AND there.priority IS NOT DISTINCT
FROM given.priority
AND there.status IS NOT DISTINCT
FROM given.status
AND there.attempts IS NOT DISTINCT
FROM given.attempts
AND there.queued_at IS NOT DISTINCT
FROM given.queued_at
AND there.available_at IS NOT DISTINCT
FROM given.available_at
AND there.last_attempt_at IS NOT DISTINCT
FROM given.last_attempt_at
AND there.last_error IS NOT DISTINCT
FROM given.last_error
AND there.submitted_at IS NOT DISTINCT
FROM given.submitted_at
AND there.completed_at IS NOT DISTINCT
FROM given.completed_at
AND there.lease_owner IS NOT DISTINCT
FROM given.lease_owner
AND there.lease_expires_at IS NOT DISTINCT
FROM given.lease_expires_at
AND there.cancellation_requested_at IS NOT DISTINCT
FROM given.cancellation_requested_at
AND there.cancellation_reason IS NOT DISTINCT
FROM given.cancellation_reason
AND there.canceled_at IS NOT DISTINCT
FROM given.canceled_at
AND there.payload IS NOT DISTINCT
FROM CAST(given.payload AS JSONB)
AND there.created_at IS NOT DISTINCT
FROM given.created_at) THEN 1 WHEN ((there.tenant_id = given.tenant_id
AND there.run_id = given.run_id
AND there.created_at = given.created_at) IS NOT true) THEN 5 WHEN (there.updated_at > given.updated_at) THEN 3 WHEN (there.updated_at <= $24::TIMESTAMP WITH TIME ZONE
AND there.status < 3
AND there.attempts <= given.attempts
AND (there.updated_at < given.updated_at OR there.attempts < given.attempts OR given.status >= 3)) THEN 2 ELSE 4 END AS anon_1, hash_record_extended(row(given.id, given.tenant_id, given.run_id, given.policy_id, given.mode, given.priority, given.status, given.attempts, given.queued_at, given.available_at, given.last_attempt_at, given.last_error, given.submitted_at, given.completed_at, given.lease_owner, given.lease_expires_at, given.cancellation_requested_at, given.cancellation_reason, given.canceled_at, CAST(given.payload AS JSONB), given.created_at), 0) AS hash_record_extended_1, noted.id IS NOT NULL AS anon_2
FROM unnest($1::INTEGER[], $2::UUID[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::SMALLINT[], $7::SMALLINT[], $8::SMALLINT[], $9::INTEGER[], $10::TIMESTAMP WITH TIME ZONE[], $11::TIMESTAMP WITH TIME ZONE[], $12::TIMESTAMP WITH TIME ZONE[], $13::TEXT[], $14::TIMESTAMP WITH TIME ZONE[], $15::TIMESTAMP WITH TIME ZONE[], $16::TEXT[], $17::TIMESTAMP WITH TIME ZONE[], $18::TIMESTAMP WITH TIME ZONE[], $19::TEXT[], $20::TIMESTAMP WITH TIME ZONE[], $21::TEXT[], $22::TIMESTAMP WITH TIME ZONE[], $23::TIMESTAMP WITH TIME ZONE[]) AS given(ordinal, id, tenant_id, run_id, policy_id, mode, priority, status, attempts, queued_at, available_at, last_attempt_at, last_error, submitted_at, completed_at, lease_owner, lease_expires_at, cancellation_requested_at, cancellation_reason, canceled_at, payload, created_at, updated_at)
LEFT OUTER JOIN LATERAL (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.run_id AS run_id, scheduler.policy_runs.policy_id AS policy_id, scheduler.policy_runs.mode AS mode, scheduler.policy_runs.priority AS priority, scheduler.policy_runs.status AS status, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.queued_at AS queued_at, scheduler.policy_runs.available_at AS available_at, scheduler.policy_runs.last_attempt_at AS last_attempt_at, scheduler.policy_runs.last_error AS last_error, scheduler.policy_runs.submitted_at AS submitted_at, scheduler.policy_runs.completed_at AS completed_at, scheduler.policy_runs.lease_owner AS lease_owner, scheduler.policy_runs.lease_expires_at AS lease_expires_at, scheduler.policy_runs.cancellation_requested_at AS cancellation_requested_at, scheduler.policy_runs.cancellation_reason AS cancellation_reason, scheduler.policy_runs.canceled_at AS canceled_at, scheduler.policy_runs.payload AS payload, scheduler.policy_runs.created_at AS created_at, scheduler.policy_runs.updated_at AS updated_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = given.id
LIMIT ALL OFFSET 0) AS there ON true
LEFT OUTER JOIN noted ON noted.id = given.id;
