-- graphjobs.backfill.load.job_and_run_sql.RUNS.verify
--   $1 p_ordinal INTEGER[]
--   $2 p_id UUID[]
--   $3 p_tenant_id TEXT[]
--   $4 p_run_id TEXT[]
--   $5 p_policy_id TEXT[]
--   $6 p_mode SMALLINT[]
--   $7 p_priority SMALLINT[]
--   $8 p_status SMALLINT[]
--   $9 p_attempts INTEGER[]
--   $10 p_queued_at TIMESTAMP WITH TIME ZONE[]
--   $11 p_available_at TIMESTAMP WITH TIME ZONE[]
--   $12 p_last_attempt_at TIMESTAMP WITH TIME ZONE[]
--   $13 p_last_error TEXT[]
--   $14 p_submitted_at TIMESTAMP WITH TIME ZONE[]
--   $15 p_completed_at TIMESTAMP WITH TIME ZONE[]
--   $16 p_lease_owner TEXT[]
--   $17 p_lease_expires_at TIMESTAMP WITH TIME ZONE[]
--   $18 p_cancellation_requested_at TIMESTAMP WITH TIME ZONE[]
--   $19 p_cancellation_reason TEXT[]
--   $20 p_canceled_at TIMESTAMP WITH TIME ZONE[]
--   $21 p_payload TEXT[]
--   $22 p_created_at TIMESTAMP WITH TIME ZONE[]
--   $23 p_updated_at TIMESTAMP WITH TIME ZONE[]
--   $24 p_backfill_version_max TIMESTAMP WITH TIME ZONE
PREPARE backfill_runs_verify AS
WITH newly_seen AS
(INSERT INTO backfill_seen_policy_runs (id)
SELECT input_rows.id AS id
FROM unnest($1::INTEGER[], $2::UUID[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::SMALLINT[], $7::SMALLINT[], $8::SMALLINT[], $9::INTEGER[], $10::TIMESTAMP WITH TIME ZONE[], $11::TIMESTAMP WITH TIME ZONE[], $12::TIMESTAMP WITH TIME ZONE[], $13::TEXT[], $14::TIMESTAMP WITH TIME ZONE[], $15::TIMESTAMP WITH TIME ZONE[], $16::TEXT[], $17::TIMESTAMP WITH TIME ZONE[], $18::TIMESTAMP WITH TIME ZONE[], $19::TEXT[], $20::TIMESTAMP WITH TIME ZONE[], $21::TEXT[], $22::TIMESTAMP WITH TIME ZONE[], $23::TIMESTAMP WITH TIME ZONE[]) AS input_rows(ordinal, id, tenant_id, run_id, policy_id, mode, priority, status, attempts, queued_at, available_at, last_attempt_at, last_error, submitted_at, completed_at, lease_owner, lease_expires_at, cancellation_requested_at, cancellation_reason, canceled_at, payload, created_at, updated_at)
LEFT OUTER JOIN LATERAL (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.run_id AS run_id, scheduler.policy_runs.policy_id AS policy_id, scheduler.policy_runs.mode AS mode, scheduler.policy_runs.priority AS priority, scheduler.policy_runs.status AS status, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.queued_at AS queued_at, scheduler.policy_runs.available_at AS available_at, scheduler.policy_runs.last_attempt_at AS last_attempt_at, scheduler.policy_runs.last_error AS last_error, scheduler.policy_runs.submitted_at AS submitted_at, scheduler.policy_runs.completed_at AS completed_at, scheduler.policy_runs.lease_owner AS lease_owner, scheduler.policy_runs.lease_expires_at AS lease_expires_at, scheduler.policy_runs.cancellation_requested_at AS cancellation_requested_at, scheduler.policy_runs.cancellation_reason AS cancellation_reason, scheduler.policy_runs.canceled_at AS canceled_at, scheduler.policy_runs.payload AS payload, scheduler.policy_runs.created_at AS created_at, scheduler.policy_runs.updated_at AS updated_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = input_rows.id
LIMIT ALL OFFSET 0) AS stored ON true
WHERE (CASE WHEN (stored.id IS NULL) THEN CASE WHEN (EXISTS (SELECT *
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.run_id = input_rows.run_id
AND (scheduler.policy_runs.tenant_id COLLATE "C") = input_rows.tenant_id
AND scheduler.policy_runs.id != input_rows.id)) THEN 6 ELSE 0 END WHEN (stored.id IS NOT DISTINCT
FROM input_rows.id
AND stored.tenant_id IS NOT DISTINCT
FROM input_rows.tenant_id
AND stored.run_id IS NOT DISTINCT
FROM input_rows.run_id
AND stored.policy_id IS NOT DISTINCT
FROM input_rows.policy_id
AND stored.mode IS NOT DISTINCT
FROM input_rows.mode
AND stored.priority IS NOT DISTINCT
FROM input_rows.priority
AND stored.status IS NOT DISTINCT
FROM input_rows.status
AND stored.attempts IS NOT DISTINCT
FROM input_rows.attempts
AND stored.queued_at IS NOT DISTINCT
FROM input_rows.queued_at
AND stored.available_at IS NOT DISTINCT
FROM input_rows.available_at
AND stored.last_attempt_at IS NOT DISTINCT
FROM input_rows.last_attempt_at
AND stored.last_error IS NOT DISTINCT
FROM input_rows.last_error
AND stored.submitted_at IS NOT DISTINCT
FROM input_rows.submitted_at
AND stored.completed_at IS NOT DISTINCT
FROM input_rows.completed_at
AND stored.lease_owner IS NOT DISTINCT
FROM input_rows.lease_owner
AND stored.lease_expires_at IS NOT DISTINCT
FROM input_rows.lease_expires_at
AND stored.cancellation_requested_at IS NOT DISTINCT
FROM input_rows.cancellation_requested_at
AND stored.cancellation_reason IS NOT DISTINCT
FROM input_rows.cancellation_reason
AND stored.canceled_at IS NOT DISTINCT
FROM input_rows.canceled_at
AND stored.payload IS NOT DISTINCT
FROM CAST(input_rows.payload AS JSONB)
AND stored.created_at IS NOT DISTINCT
FROM input_rows.created_at) THEN 1 WHEN ((stored.tenant_id = input_rows.tenant_id
AND stored.run_id = input_rows.run_id
AND stored.created_at = input_rows.created_at) IS NOT true) THEN 5 WHEN (stored.updated_at > input_rows.updated_at) THEN 3 WHEN (stored.updated_at <= $24::TIMESTAMP WITH TIME ZONE
AND stored.status < 3
AND stored.attempts <= input_rows.attempts
AND (stored.updated_at < input_rows.updated_at OR stored.attempts < input_rows.attempts OR input_rows.status >= 3)) THEN 2 ELSE 4 END NOT IN (5, 6))
ON CONFLICT DO NOTHING
RETURNING backfill_seen_policy_runs.id)
SELECT input_rows.ordinal, CASE WHEN (stored.id IS NULL) THEN CASE WHEN (EXISTS (SELECT *
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.run_id = input_rows.run_id
AND (scheduler.policy_runs.tenant_id COLLATE "C") = input_rows.tenant_id
AND scheduler.policy_runs.id != input_rows.id)) THEN 6 ELSE 0 END WHEN (stored.id IS NOT DISTINCT
FROM input_rows.id
AND stored.tenant_id IS NOT DISTINCT
FROM input_rows.tenant_id
AND stored.run_id IS NOT DISTINCT
FROM input_rows.run_id
AND stored.policy_id IS NOT DISTINCT
FROM input_rows.policy_id
AND stored.mode IS NOT DISTINCT
FROM input_rows.mode
AND stored.priority IS NOT DISTINCT
FROM input_rows.priority
AND stored.status IS NOT DISTINCT
FROM input_rows.status
AND stored.attempts IS NOT DISTINCT
FROM input_rows.attempts
AND stored.queued_at IS NOT DISTINCT
FROM input_rows.queued_at
AND stored.available_at IS NOT DISTINCT
FROM input_rows.available_at
AND stored.last_attempt_at IS NOT DISTINCT
FROM input_rows.last_attempt_at
AND stored.last_error IS NOT DISTINCT
FROM input_rows.last_error
AND stored.submitted_at IS NOT DISTINCT
FROM input_rows.submitted_at
AND stored.completed_at IS NOT DISTINCT
FROM input_rows.completed_at
AND stored.lease_owner IS NOT DISTINCT
FROM input_rows.lease_owner
AND stored.lease_expires_at IS NOT DISTINCT
FROM input_rows.lease_expires_at
AND stored.cancellation_requested_at IS NOT DISTINCT
FROM input_rows.cancellation_requested_at
AND stored.cancellation_reason IS NOT DISTINCT
FROM input_rows.cancellation_reason
AND stored.canceled_at IS NOT DISTINCT
FROM input_rows.canceled_at
AND stored.payload IS NOT DISTINCT
FROM CAST(input_rows.payload AS JSONB)
AND stored.created_at IS NOT DISTINCT
FROM input_rows.created_at) THEN 1 WHEN ((stored.tenant_id = input_rows.tenant_id
AND stored.run_id = input_rows.run_id
AND stored.created_at = input_rows.created_at) IS NOT true) THEN 5 WHEN (stored.updated_at > input_rows.updated_at) THEN 3 WHEN (stored.updated_at <= $24::TIMESTAMP WITH TIME ZONE
AND stored.status < 3
AND stored.attempts <= input_rows.attempts
AND (stored.updated_at < input_rows.updated_at OR stored.attempts < input_rows.attempts OR input_rows.status >= 3)) THEN 2 ELSE 4 END AS anon_1, hash_record_extended(row(input_rows.id, input_rows.tenant_id, input_rows.run_id, input_rows.policy_id, input_rows.mode, input_rows.priority, input_rows.status, input_rows.attempts, input_rows.queued_at, input_rows.available_at, input_rows.last_attempt_at, input_rows.last_error, input_rows.submitted_at, input_rows.completed_at, input_rows.lease_owner, input_rows.lease_expires_at, input_rows.cancellation_requested_at, input_rows.cancellation_reason, input_rows.canceled_at, CAST(input_rows.payload AS JSONB), input_rows.created_at), 0) AS hash_record_extended_1, newly_seen.id IS NOT NULL AS anon_2
FROM unnest($1::INTEGER[], $2::UUID[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::SMALLINT[], $7::SMALLINT[], $8::SMALLINT[], $9::INTEGER[], $10::TIMESTAMP WITH TIME ZONE[], $11::TIMESTAMP WITH TIME ZONE[], $12::TIMESTAMP WITH TIME ZONE[], $13::TEXT[], $14::TIMESTAMP WITH TIME ZONE[], $15::TIMESTAMP WITH TIME ZONE[], $16::TEXT[], $17::TIMESTAMP WITH TIME ZONE[], $18::TIMESTAMP WITH TIME ZONE[], $19::TEXT[], $20::TIMESTAMP WITH TIME ZONE[], $21::TEXT[], $22::TIMESTAMP WITH TIME ZONE[], $23::TIMESTAMP WITH TIME ZONE[]) AS input_rows(ordinal, id, tenant_id, run_id, policy_id, mode, priority, status, attempts, queued_at, available_at, last_attempt_at, last_error, submitted_at, completed_at, lease_owner, lease_expires_at, cancellation_requested_at, cancellation_reason, canceled_at, payload, created_at, updated_at)
LEFT OUTER JOIN LATERAL (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.run_id AS run_id, scheduler.policy_runs.policy_id AS policy_id, scheduler.policy_runs.mode AS mode, scheduler.policy_runs.priority AS priority, scheduler.policy_runs.status AS status, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.queued_at AS queued_at, scheduler.policy_runs.available_at AS available_at, scheduler.policy_runs.last_attempt_at AS last_attempt_at, scheduler.policy_runs.last_error AS last_error, scheduler.policy_runs.submitted_at AS submitted_at, scheduler.policy_runs.completed_at AS completed_at, scheduler.policy_runs.lease_owner AS lease_owner, scheduler.policy_runs.lease_expires_at AS lease_expires_at, scheduler.policy_runs.cancellation_requested_at AS cancellation_requested_at, scheduler.policy_runs.cancellation_reason AS cancellation_reason, scheduler.policy_runs.canceled_at AS canceled_at, scheduler.policy_runs.payload AS payload, scheduler.policy_runs.created_at AS created_at, scheduler.policy_runs.updated_at AS updated_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = input_rows.id
LIMIT ALL OFFSET 0) AS stored ON true
LEFT OUTER JOIN newly_seen ON newly_seen.id = input_rows.id;
