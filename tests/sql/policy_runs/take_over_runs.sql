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
held AS MATERIALIZED
(SELECT given.given_id AS given_id, given.tenant AS tenant, given.version_seen AS version_seen, given.target AS target, given.delay AS delay, given.problem AS problem, given.entry AS entry, CASE WHEN (given.target != 2
AND locked.cancellation_requested_at IS NOT NULL) THEN 5 ELSE given.target END AS reached
FROM unnest($1::UUID[], $2::TEXT[], $3::TIMESTAMP WITH TIME ZONE[], $4::SMALLINT[], $5::INTERVAL[], $6::TEXT[], $7::TEXT[]) AS given(given_id, tenant, version_seen, target, delay, problem, entry)
JOIN locked ON locked.id = given.given_id
AND locked.tenant_id = given.tenant
AND locked.updated_at = given.version_seen),
written AS
(UPDATE scheduler.policy_runs
SET status=held.reached, available_at=CASE WHEN (held.reached = 0) THEN now() + held.delay ELSE scheduler.policy_runs.available_at END, last_error=CASE WHEN (held.reached = 5) THEN coalesce(held.problem, scheduler.policy_runs.last_error) ELSE held.problem END, submitted_at=CASE WHEN (held.reached = any(ARRAY[2])) THEN now() END, completed_at=CASE WHEN (held.reached = any(ARRAY[4])) THEN now() END, lease_owner=NULL, lease_expires_at=NULL, canceled_at=CASE WHEN (held.reached = any(ARRAY[5])) THEN now() END, updated_at=greatest(now(), scheduler.policy_runs.updated_at + interval '1 microsecond')
FROM held
WHERE scheduler.policy_runs.id = any(array((SELECT held.given_id
FROM held)))
AND scheduler.policy_runs.id = held.given_id
AND (scheduler.policy_runs.tenant_id COLLATE "C") = held.tenant
RETURNING scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.status, scheduler.policy_runs.updated_at, held.entry, held.target),
logged AS
(INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload, created_at)
SELECT written.id AS id, written.tenant_id AS tenant_id, written.status AS status, CASE WHEN (written.status != written.target) THEN CAST(written.entry AS JSONB) || jsonb_build_object('to', 'canceled') ELSE CAST(written.entry AS JSONB) END AS anon_1, written.updated_at AS updated_at
FROM written
RETURNING scheduler.policy_run_events.id)
SELECT written.id, written.updated_at, written.status
FROM written;
