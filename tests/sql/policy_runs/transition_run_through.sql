-- graphjobs.policy_runs.sql.single.TRANSITION_RUN_THROUGH
--   $1 p_through_status SMALLINT
--   $2 p_through_event_payload TEXT
--   $3 p_status SMALLINT
--   $4 p_attempts INTEGER
--   $5 p_available_at TIMESTAMP WITH TIME ZONE
--   $6 p_last_attempt_at TIMESTAMP WITH TIME ZONE
--   $7 p_last_error TEXT
--   $8 p_submitted_at TIMESTAMP WITH TIME ZONE
--   $9 p_completed_at TIMESTAMP WITH TIME ZONE
--   $10 p_lease_owner TEXT
--   $11 p_lease_expires_at TIMESTAMP WITH TIME ZONE
--   $12 p_cancellation_requested_at TIMESTAMP WITH TIME ZONE
--   $13 p_cancellation_reason TEXT
--   $14 p_canceled_at TIMESTAMP WITH TIME ZONE
--   $15 p_job_id UUID
--   $16 p_tenant_id TEXT
--   $17 p_expected_status INTEGER
--   $18 p_expected_lease_owner TEXT
--   $19 p_expected_attempts INTEGER
--   $20 p_run_id TEXT
--   $21 p_policy_id TEXT
--   $22 p_mode SMALLINT
--   $23 p_priority SMALLINT
--   $24 p_queued_at TIMESTAMP WITH TIME ZONE
--   $25 p_created_at TIMESTAMP WITH TIME ZONE
--   $26 p_payload TEXT
--   $27 p_event_payload TEXT
PREPARE policy_runs_transition_run_through AS
WITH written AS
(UPDATE scheduler.policy_runs
SET status=$3::SMALLINT, attempts=$4::INTEGER, available_at=$5::TIMESTAMP WITH TIME ZONE, last_attempt_at=$6::TIMESTAMP WITH TIME ZONE, last_error=$7::VARCHAR, submitted_at=$8::TIMESTAMP WITH TIME ZONE, completed_at=$9::TIMESTAMP WITH TIME ZONE, lease_owner=$10::VARCHAR, lease_expires_at=$11::TIMESTAMP WITH TIME ZONE, cancellation_requested_at=coalesce(scheduler.policy_runs.cancellation_requested_at, $12::TIMESTAMP WITH TIME ZONE), cancellation_reason=CASE WHEN (scheduler.policy_runs.cancellation_requested_at IS NOT NULL) THEN scheduler.policy_runs.cancellation_reason ELSE $13::VARCHAR END, canceled_at=$14::TIMESTAMP WITH TIME ZONE, updated_at=(greatest(now(), scheduler.policy_runs.updated_at + interval '1 microsecond') + interval '1 microsecond')
WHERE scheduler.policy_runs.id = $15::UUID
AND (scheduler.policy_runs.tenant_id COLLATE "C") = $16::VARCHAR
AND CAST(scheduler.policy_runs.status AS INTEGER) = $17::INTEGER
AND scheduler.policy_runs.lease_owner IS NOT DISTINCT
FROM $18::VARCHAR
AND scheduler.policy_runs.attempts = $19::INTEGER
AND (scheduler.policy_runs.run_id COLLATE "C") = $20::VARCHAR
AND scheduler.policy_runs.policy_id = $21::VARCHAR
AND scheduler.policy_runs.mode = $22::SMALLINT
AND scheduler.policy_runs.priority = $23::SMALLINT
AND scheduler.policy_runs.queued_at = $24::TIMESTAMP WITH TIME ZONE
AND scheduler.policy_runs.created_at = $25::TIMESTAMP WITH TIME ZONE
AND scheduler.policy_runs.payload = CAST($26::VARCHAR AS JSONB)
AND ($3::SMALLINT != 0 OR scheduler.policy_runs.cancellation_requested_at IS NULL)
RETURNING scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.updated_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason),
logged AS
(INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload, created_at)
SELECT written.id AS id, written.tenant_id AS tenant_id, $1::SMALLINT AS anon_2, CAST($2::VARCHAR AS JSONB) || jsonb_strip_nulls(jsonb_build_object('cancellationRequestedAt', to_char(timezone('utc', written.cancellation_requested_at), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'cancellationReason', written.cancellation_reason)) AS anon_3, written.updated_at - interval '1 microsecond' AS version
FROM written
UNION ALL
SELECT written.id AS id, written.tenant_id AS tenant_id, $3::SMALLINT AS anon_4, CAST($27::VARCHAR AS JSONB) || jsonb_strip_nulls(jsonb_build_object('cancellationRequestedAt', to_char(timezone('utc', written.cancellation_requested_at), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'cancellationReason', written.cancellation_reason)) AS anon_5, written.updated_at AS version
FROM written
ORDER BY version
RETURNING scheduler.policy_run_events.id)
SELECT written.updated_at, (SELECT max(logged.id) AS max_1
FROM logged) AS anon_1, written.cancellation_requested_at, written.cancellation_reason
FROM written;
