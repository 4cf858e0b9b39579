-- graphjobs.policy_runs.sql.finish.RENEW_RUNS
--   $1 p_job_ids UUID[]
--   $2 p_tenant_ids TEXT[]
--   $3 p_lease_attempts INTEGER[]
--   $4 p_lease_owners TEXT[]
--   $5 p_distinct_tenant_ids TEXT[]
--   $6 p_lease_duration INTERVAL
PREPARE policy_runs_renew_runs AS
WITH as_seen AS MATERIALIZED
(SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.lease_owner AS lease_owner
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = any($1::UUID[])
AND (scheduler.policy_runs.tenant_id COLLATE "C") = any($5::TEXT[])
AND CAST(scheduler.policy_runs.status AS INTEGER) = 1),
locked AS MATERIALIZED
(SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.lease_owner AS lease_owner, scheduler.policy_runs.updated_at AS updated_at, scheduler.policy_runs.cancellation_requested_at AS cancellation_requested_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = any($1::UUID[])
AND (scheduler.policy_runs.tenant_id COLLATE "C") = any($5::TEXT[])
AND CAST(scheduler.policy_runs.status AS INTEGER) = 1
ORDER BY scheduler.policy_runs.id
FOR NO KEY UPDATE SKIP LOCKED),
held AS MATERIALIZED
(SELECT given.given_id AS given_id, given.tenant AS tenant
FROM unnest($1::UUID[], $2::TEXT[], $3::INTEGER[], $4::TEXT[]) AS given(given_id, tenant, attempts_held, owner)
JOIN locked ON locked.id = given.given_id
AND locked.tenant_id = given.tenant
AND locked.attempts = given.attempts_held
AND locked.lease_owner = given.owner),
renewed AS
(UPDATE scheduler.policy_runs
SET lease_expires_at=(now() + $6::INTERVAL), updated_at=greatest(now(), scheduler.policy_runs.updated_at + interval '1 microsecond')
FROM held
WHERE scheduler.policy_runs.id = any(array((SELECT held.given_id
FROM held)))
AND scheduler.policy_runs.id = held.given_id
AND (scheduler.policy_runs.tenant_id COLLATE "C") = held.tenant
RETURNING scheduler.policy_runs.id, scheduler.policy_runs.updated_at, scheduler.policy_runs.lease_expires_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason)
SELECT as_seen.id, renewed.updated_at, renewed.lease_expires_at, renewed.cancellation_requested_at, renewed.cancellation_reason
FROM unnest($1::UUID[], $2::TEXT[], $3::INTEGER[], $4::TEXT[]) AS given(given_id, tenant, attempts_held, owner)
JOIN as_seen ON as_seen.id = given.given_id
AND as_seen.tenant_id = given.tenant
AND as_seen.attempts = given.attempts_held
AND as_seen.lease_owner = given.owner
LEFT OUTER JOIN renewed ON renewed.id = as_seen.id;
