-- graphjobs.backfill.load.job_and_run_sql.RUNS.compare
--   $1 ceiling TIMESTAMP WITH TIME ZONE
--   $2 given_ordinal INTEGER[]
--   $3 given_id UUID[]
--   $4 given_tenant_id TEXT[]
--   $5 given_run_id TEXT[]
--   $6 given_policy_id TEXT[]
--   $7 given_mode SMALLINT[]
--   $8 given_priority SMALLINT[]
--   $9 given_status SMALLINT[]
--   $10 given_attempts INTEGER[]
--   $11 given_queued_at TIMESTAMP WITH TIME ZONE[]
--   $12 given_available_at TIMESTAMP WITH TIME ZONE[]
--   $13 given_last_attempt_at TIMESTAMP WITH TIME ZONE[]
--   $14 given_last_error TEXT[]
--   $15 given_submitted_at TIMESTAMP WITH TIME ZONE[]
--   $16 given_completed_at TIMESTAMP WITH TIME ZONE[]
--   $17 given_lease_owner TEXT[]
--   $18 given_lease_expires_at TIMESTAMP WITH TIME ZONE[]
--   $19 given_cancellation_requested_at TIMESTAMP WITH TIME ZONE[]
--   $20 given_cancellation_reason TEXT[]
--   $21 given_canceled_at TIMESTAMP WITH TIME ZONE[]
--   $22 given_payload TEXT[]
--   $23 given_created_at TIMESTAMP WITH TIME ZONE[]
--   $24 given_updated_at TIMESTAMP WITH TIME ZONE[]
PREPARE backfill_runs_compare AS
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
AND there.created_at = given.created_at) IS NOT true) THEN 5 WHEN (there.updated_at > given.updated_at) THEN 3 WHEN (there.updated_at <= $1::TIMESTAMP WITH TIME ZONE
AND there.status < 3
AND there.attempts <= given.attempts
AND (there.updated_at < given.updated_at OR there.attempts < given.attempts OR given.status >= 3)) THEN 2 ELSE 4 END AS anon_1, CASE WHEN (there.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN there.updated_at END AS anon_2, there.status
FROM unnest($2::INTEGER[], $3::UUID[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::SMALLINT[], $8::SMALLINT[], $9::SMALLINT[], $10::INTEGER[], $11::TIMESTAMP WITH TIME ZONE[], $12::TIMESTAMP WITH TIME ZONE[], $13::TIMESTAMP WITH TIME ZONE[], $14::TEXT[], $15::TIMESTAMP WITH TIME ZONE[], $16::TIMESTAMP WITH TIME ZONE[], $17::TEXT[], $18::TIMESTAMP WITH TIME ZONE[], $19::TIMESTAMP WITH TIME ZONE[], $20::TEXT[], $21::TIMESTAMP WITH TIME ZONE[], $22::TEXT[], $23::TIMESTAMP WITH TIME ZONE[], $24::TIMESTAMP WITH TIME ZONE[]) AS given(ordinal, id, tenant_id, run_id, policy_id, mode, priority, status, attempts, queued_at, available_at, last_attempt_at, last_error, submitted_at, completed_at, lease_owner, lease_expires_at, cancellation_requested_at, cancellation_reason, canceled_at, payload, created_at, updated_at)
LEFT OUTER JOIN LATERAL (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.run_id AS run_id, scheduler.policy_runs.policy_id AS policy_id, scheduler.policy_runs.mode AS mode, scheduler.policy_runs.priority AS priority, scheduler.policy_runs.status AS status, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.queued_at AS queued_at, scheduler.policy_runs.available_at AS available_at, scheduler.policy_runs.last_attempt_at AS last_attempt_at, scheduler.policy_runs.last_error AS last_error, scheduler.policy_runs.submitted_at AS submitted_at, scheduler.policy_runs.completed_at AS completed_at, scheduler.policy_runs.lease_owner AS lease_owner, scheduler.policy_runs.lease_expires_at AS lease_expires_at, scheduler.policy_runs.cancellation_requested_at AS cancellation_requested_at, scheduler.policy_runs.cancellation_reason AS cancellation_reason, scheduler.policy_runs.canceled_at AS canceled_at, scheduler.policy_runs.payload AS payload, scheduler.policy_runs.created_at AS created_at, scheduler.policy_runs.updated_at AS updated_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = given.id
LIMIT ALL OFFSET 0) AS there ON true;
