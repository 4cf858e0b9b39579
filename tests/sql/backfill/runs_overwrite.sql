-- graphjobs.backfill.load.job_and_run_sql.RUNS.overwrite
--   $1 p_backfill_version_max TIMESTAMP WITH TIME ZONE
--   $2 p_ordinal INTEGER[]
--   $3 p_id UUID[]
--   $4 p_tenant_id TEXT[]
--   $5 p_run_id TEXT[]
--   $6 p_policy_id TEXT[]
--   $7 p_mode SMALLINT[]
--   $8 p_priority SMALLINT[]
--   $9 p_status SMALLINT[]
--   $10 p_attempts INTEGER[]
--   $11 p_queued_at TIMESTAMP WITH TIME ZONE[]
--   $12 p_available_at TIMESTAMP WITH TIME ZONE[]
--   $13 p_last_attempt_at TIMESTAMP WITH TIME ZONE[]
--   $14 p_last_error TEXT[]
--   $15 p_submitted_at TIMESTAMP WITH TIME ZONE[]
--   $16 p_completed_at TIMESTAMP WITH TIME ZONE[]
--   $17 p_lease_owner TEXT[]
--   $18 p_lease_expires_at TIMESTAMP WITH TIME ZONE[]
--   $19 p_cancellation_requested_at TIMESTAMP WITH TIME ZONE[]
--   $20 p_cancellation_reason TEXT[]
--   $21 p_canceled_at TIMESTAMP WITH TIME ZONE[]
--   $22 p_payload TEXT[]
--   $23 p_created_at TIMESTAMP WITH TIME ZONE[]
--   $24 p_updated_at TIMESTAMP WITH TIME ZONE[]
--   $25 p_expected_version TIMESTAMP WITH TIME ZONE[]
--   $26 p_expected_status SMALLINT[]
PREPARE backfill_runs_overwrite AS
UPDATE scheduler.policy_runs
SET tenant_id=input_rows.tenant_id, run_id=input_rows.run_id, policy_id=input_rows.policy_id, mode=input_rows.mode, priority=input_rows.priority, status=input_rows.status, attempts=input_rows.attempts, queued_at=input_rows.queued_at, available_at=input_rows.available_at, last_attempt_at=input_rows.last_attempt_at, last_error=input_rows.last_error, submitted_at=input_rows.submitted_at, completed_at=input_rows.completed_at, lease_owner=input_rows.lease_owner, lease_expires_at=input_rows.lease_expires_at, cancellation_requested_at=input_rows.cancellation_requested_at, cancellation_reason=input_rows.cancellation_reason, canceled_at=input_rows.canceled_at, payload=CAST(input_rows.payload AS JSONB), created_at=input_rows.created_at, updated_at=least(input_rows.updated_at, $1::TIMESTAMP WITH TIME ZONE)
FROM unnest($2::INTEGER[], $3::UUID[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::SMALLINT[], $8::SMALLINT[], $9::SMALLINT[], $10::INTEGER[], $11::TIMESTAMP WITH TIME ZONE[], $12::TIMESTAMP WITH TIME ZONE[], $13::TIMESTAMP WITH TIME ZONE[], $14::TEXT[], $15::TIMESTAMP WITH TIME ZONE[], $16::TIMESTAMP WITH TIME ZONE[], $17::TEXT[], $18::TIMESTAMP WITH TIME ZONE[], $19::TIMESTAMP WITH TIME ZONE[], $20::TEXT[], $21::TIMESTAMP WITH TIME ZONE[], $22::TEXT[], $23::TIMESTAMP WITH TIME ZONE[], $24::TIMESTAMP WITH TIME ZONE[], $25::TIMESTAMP WITH TIME ZONE[], $26::SMALLINT[]) AS input_rows(ordinal, id, tenant_id, run_id, policy_id, mode, priority, status, attempts, queued_at, available_at, last_attempt_at, last_error, submitted_at, completed_at, lease_owner, lease_expires_at, cancellation_requested_at, cancellation_reason, canceled_at, payload, created_at, updated_at, expected_version, expected_status)
WHERE scheduler.policy_runs.id = any($3::UUID[])
AND scheduler.policy_runs.id = input_rows.id
AND scheduler.policy_runs.tenant_id = input_rows.tenant_id
AND scheduler.policy_runs.updated_at = input_rows.expected_version
AND scheduler.policy_runs.status = input_rows.expected_status
RETURNING scheduler.policy_runs.id;
