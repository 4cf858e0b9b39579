-- graphjobs.policy_runs.sql.finish.RENEW_RUNS
--   $1 p_job_ids UUID[]
--   $2 p_tenant_ids TEXT[]
--   $3 p_lease_attempts INTEGER[]
--   $4 p_lease_owners TEXT[]
--   $5 p_distinct_tenant_ids TEXT[]
--   $6 p_lease_duration INTERVAL
PREPARE policy_runs_renew_runs AS
WITH snapshot AS MATERIALIZED
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
fenced AS MATERIALIZED
(SELECT inputs.job_id AS job_id, inputs.tenant_id AS tenant_id
FROM unnest($1::UUID[], $2::TEXT[], $3::INTEGER[], $4::TEXT[]) AS inputs(job_id, tenant_id, attempts, lease_owner)
JOIN locked ON locked.id = inputs.job_id
AND locked.tenant_id = inputs.tenant_id
AND locked.attempts = inputs.attempts
AND locked.lease_owner = inputs.lease_owner),
renewed AS
(UPDATE scheduler.policy_runs
SET lease_expires_at=(now() + $6::INTERVAL), updated_at=greatest(now(), scheduler.policy_runs.updated_at + interval '1 microsecond')
FROM fenced
WHERE scheduler.policy_runs.id = any(array((SELECT fenced.job_id
FROM fenced)))
AND scheduler.policy_runs.id = fenced.job_id
AND (scheduler.policy_runs.tenant_id COLLATE "C") = fenced.tenant_id
RETURNING scheduler.policy_runs.id, scheduler.policy_runs.updated_at, scheduler.policy_runs.lease_expires_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason)
SELECT snapshot.id, renewed.updated_at, renewed.lease_expires_at, renewed.cancellation_requested_at, renewed.cancellation_reason
FROM unnest($1::UUID[], $2::TEXT[], $3::INTEGER[], $4::TEXT[]) AS inputs(job_id, tenant_id, attempts, lease_owner)
JOIN snapshot ON snapshot.id = inputs.job_id
AND snapshot.tenant_id = inputs.tenant_id
AND snapshot.attempts = inputs.attempts
AND snapshot.lease_owner = inputs.lease_owner
LEFT OUTER JOIN renewed ON renewed.id = snapshot.id;
