-- graphjobs.policy_runs.sql.finish.TAKE_OVER_RUNS
--   $1 p_job_ids UUID[]
--   $2 p_tenant_ids TEXT[]
--   $3 p_versions TIMESTAMP WITH TIME ZONE[]
--   $4 p_new_statuses SMALLINT[]
--   $5 p_delays INTERVAL[]
--   $6 p_last_errors TEXT[]
--   $7 p_event_payloads TEXT[]
--   $8 p_distinct_tenant_ids TEXT[]
PREPARE policy_runs_take_over_runs AS
WITH locked AS MATERIALIZED
(SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.lease_owner AS lease_owner, scheduler.policy_runs.updated_at AS updated_at, scheduler.policy_runs.cancellation_requested_at AS cancellation_requested_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = any($1::UUID[])
AND (scheduler.policy_runs.tenant_id COLLATE "C") = any($8::TEXT[])
AND CAST(scheduler.policy_runs.status AS INTEGER) = 1
ORDER BY scheduler.policy_runs.id
FOR NO KEY UPDATE SKIP LOCKED),
fenced AS MATERIALIZED
(SELECT inputs.job_id AS job_id, inputs.tenant_id AS tenant_id, inputs.version AS version, inputs.requested_status AS requested_status, inputs.delay AS delay, inputs.last_error AS last_error, inputs.event_payload AS event_payload, CASE WHEN (inputs.requested_status != 2
AND locked.cancellation_requested_at IS NOT NULL) THEN 5 ELSE inputs.requested_status END AS status
FROM unnest($1::UUID[], $2::TEXT[], $3::TIMESTAMP WITH TIME ZONE[], $4::SMALLINT[], $5::INTERVAL[], $6::TEXT[], $7::TEXT[]) AS inputs(job_id, tenant_id, version, requested_status, delay, last_error, event_payload)
JOIN locked ON locked.id = inputs.job_id
AND locked.tenant_id = inputs.tenant_id
AND locked.updated_at = inputs.version),
updated AS
(UPDATE scheduler.policy_runs
SET status=fenced.status, available_at=CASE WHEN (fenced.status = 0) THEN now() + fenced.delay ELSE scheduler.policy_runs.available_at END, last_error=CASE WHEN (fenced.status = 5) THEN coalesce(fenced.last_error, scheduler.policy_runs.last_error) ELSE fenced.last_error END, submitted_at=CASE WHEN (fenced.status = any(ARRAY[2])) THEN now() END, completed_at=CASE WHEN (fenced.status = any(ARRAY[4])) THEN now() END, lease_owner=NULL, lease_expires_at=NULL, canceled_at=CASE WHEN (fenced.status = any(ARRAY[5])) THEN now() END, updated_at=greatest(now(), scheduler.policy_runs.updated_at + interval '1 microsecond')
FROM fenced
WHERE scheduler.policy_runs.id = any(array((SELECT fenced.job_id
FROM fenced)))
AND scheduler.policy_runs.id = fenced.job_id
AND (scheduler.policy_runs.tenant_id COLLATE "C") = fenced.tenant_id
RETURNING scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.status, scheduler.policy_runs.updated_at, fenced.event_payload, fenced.requested_status),
logged AS
(INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload, created_at)
SELECT updated.id AS id, updated.tenant_id AS tenant_id, updated.status AS status, CASE WHEN (updated.status != updated.requested_status) THEN CAST(updated.event_payload AS JSONB) || jsonb_build_object('to', 'canceled') ELSE CAST(updated.event_payload AS JSONB) END AS anon_1, updated.updated_at AS updated_at
FROM updated
RETURNING scheduler.policy_run_events.id)
SELECT updated.id, updated.updated_at, updated.status
FROM updated;
