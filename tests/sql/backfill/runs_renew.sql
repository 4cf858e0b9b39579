-- graphjobs.backfill.load.job_and_run_sql.RUNS.renew
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
--   $25 given_seen TIMESTAMP WITH TIME ZONE[]
--   $26 given_expected SMALLINT[]
PREPARE backfill_runs_renew AS
UPDATE scheduler.policy_runs
SET tenant_id=given.tenant_id, run_id=given.run_id, policy_id=given.policy_id, mode=given.mode, priority=given.priority, status=given.status, attempts=given.attempts, queued_at=given.queued_at, available_at=given.available_at, last_attempt_at=given.last_attempt_at, last_error=given.last_error, submitted_at=given.submitted_at, completed_at=given.completed_at, lease_owner=given.lease_owner, lease_expires_at=given.lease_expires_at, cancellation_requested_at=given.cancellation_requested_at, cancellation_reason=given.cancellation_reason, canceled_at=given.canceled_at, payload=CAST(given.payload AS JSONB), created_at=given.created_at, updated_at=least(given.updated_at, $1::TIMESTAMP WITH TIME ZONE)
FROM unnest($2::INTEGER[], $3::UUID[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::SMALLINT[], $8::SMALLINT[], $9::SMALLINT[], $10::INTEGER[], $11::TIMESTAMP WITH TIME ZONE[], $12::TIMESTAMP WITH TIME ZONE[], $13::TIMESTAMP WITH TIME ZONE[], $14::TEXT[], $15::TIMESTAMP WITH TIME ZONE[], $16::TIMESTAMP WITH TIME ZONE[], $17::TEXT[], $18::TIMESTAMP WITH TIME ZONE[], $19::TIMESTAMP WITH TIME ZONE[], $20::TEXT[], $21::TIMESTAMP WITH TIME ZONE[], $22::TEXT[], $23::TIMESTAMP WITH TIME ZONE[], $24::TIMESTAMP WITH TIME ZONE[], $25::TIMESTAMP WITH TIME ZONE[], $26::SMALLINT[]) AS given(ordinal, id, tenant_id, run_id, policy_id, mode, priority, status, attempts, queued_at, available_at, last_attempt_at, last_error, submitted_at, completed_at, lease_owner, lease_expires_at, cancellation_requested_at, cancellation_reason, canceled_at, payload, created_at, updated_at, seen, expected)
WHERE scheduler.policy_runs.id = any($3::UUID[])
AND scheduler.policy_runs.id = given.id
AND scheduler.policy_runs.tenant_id = given.tenant_id
AND scheduler.policy_runs.updated_at = given.seen
AND scheduler.policy_runs.status = given.expected
RETURNING scheduler.policy_runs.id;
