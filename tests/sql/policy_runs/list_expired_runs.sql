-- graphjobs.policy_runs.sql.expired.LIST_EXPIRED_RUNS
--   $1 p_limit BIGINT
--   $2 p_after_attempt_at TIMESTAMP WITH TIME ZONE
--   $3 p_tenant_id TEXT
PREPARE policy_runs_list_expired_runs AS
WITH part AS MATERIALIZED
(SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.last_attempt_at AS last_attempt_at, scheduler.policy_runs.lease_expires_at < now() OR scheduler.policy_runs.lease_expires_at > scheduler.policy_runs.updated_at
AND scheduler.policy_runs.updated_at - now() > scheduler.policy_runs.lease_expires_at - scheduler.policy_runs.updated_at AS is_expired
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 1
AND scheduler.policy_runs.last_attempt_at > $2::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.policy_runs.last_attempt_at
FETCH FIRST ($1::BIGINT) ROWS WITH TIES),
timeless AS MATERIALIZED
(SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.last_attempt_at AS last_attempt_at, scheduler.policy_runs.lease_expires_at < now() OR scheduler.policy_runs.lease_expires_at > scheduler.policy_runs.updated_at
AND scheduler.policy_runs.updated_at - now() > scheduler.policy_runs.lease_expires_at - scheduler.policy_runs.updated_at AS is_expired
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 1
AND scheduler.policy_runs.last_attempt_at IS NULL
ORDER BY scheduler.policy_runs.last_attempt_at
LIMIT $1::BIGINT),
expired AS MATERIALIZED
(SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.updated_at AS updated_at, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.last_attempt_at AS last_attempt_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = any(array((SELECT read.id
FROM (SELECT part.id AS id, part.tenant_id AS tenant_id, part.last_attempt_at AS last_attempt_at, part.is_expired AS is_expired
FROM part
UNION ALL
SELECT timeless.id AS id, timeless.tenant_id AS tenant_id, timeless.last_attempt_at AS last_attempt_at, timeless.is_expired AS is_expired
FROM timeless) AS read
WHERE read.is_expired
AND ($3::VARCHAR IS NULL OR read.tenant_id = $3::VARCHAR))))
AND CAST(scheduler.policy_runs.status AS INTEGER) = 1
AND (scheduler.policy_runs.lease_expires_at < now() OR scheduler.policy_runs.lease_expires_at > scheduler.policy_runs.updated_at
AND scheduler.policy_runs.updated_at - now() > scheduler.policy_runs.lease_expires_at - scheduler.policy_runs.updated_at)
FOR NO KEY UPDATE SKIP LOCKED)
SELECT CASE WHEN (last_part.number >= $1::BIGINT) THEN last_part.last END AS anon_1, expired.id, expired.tenant_id, expired.updated_at, expired.attempts, (SELECT count(scheduler.policy_run_events.id) AS count_1
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = expired.id
AND scheduler.policy_run_events.tenant_id = expired.tenant_id
AND scheduler.policy_run_events.status = 0
AND (scheduler.policy_run_events.payload ->> 'from') = 'dispatching' AND (scheduler.policy_run_events.payload -> 'error') IS NULL) AS anon_2, (SELECT count(scheduler.policy_run_events.id) AS count_2
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = expired.id
AND scheduler.policy_run_events.tenant_id = expired.tenant_id
AND scheduler.policy_run_events.status = 0
AND (scheduler.policy_run_events.payload ->> 'from') = 'dispatching' AND (scheduler.policy_run_events.payload ? 'rescued')) > 0 AS anon_3
FROM (SELECT count(part.id) AS number, max(part.last_attempt_at) AS last
FROM part) AS last_part
LEFT OUTER JOIN expired ON true
ORDER BY expired.last_attempt_at;
