-- graphjobs.policy_runs.sql.expired.BRING_RUNS_FORWARD
--   $1 p_limit BIGINT
--   $2 p_after_tenant_id TEXT
--   $3 p_tenant_id TEXT
--   $4 p_lease_duration INTERVAL
PREPARE policy_runs_bring_runs_forward AS
WITH RECURSIVE waiting(tenant) AS
(SELECT least((SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > $2::VARCHAR
AND $3::VARCHAR IS NULL
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C", (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > $2::VARCHAR
AND $3::VARCHAR IS NULL
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C", (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > $2::VARCHAR
AND $3::VARCHAR IS NULL
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C") AS tenant
UNION ALL
SELECT least((SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > waiting.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") > $2::VARCHAR
AND $3::VARCHAR IS NULL
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C", (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > waiting.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") > $2::VARCHAR
AND $3::VARCHAR IS NULL
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C", (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > waiting.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") > $2::VARCHAR
AND $3::VARCHAR IS NULL
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C") AS least_1
FROM waiting
WHERE waiting.tenant IS NOT NULL),
tenants AS MATERIALIZED
(SELECT listed.tenant AS tenant_id
FROM (SELECT waiting.tenant AS tenant
FROM waiting
WHERE waiting.tenant IS NOT NULL
UNION ALL
SELECT CAST($3::VARCHAR AS TEXT) AS anon_3
WHERE $3::VARCHAR IS NOT NULL) AS listed
LIMIT $1::BIGINT),
locked AS MATERIALIZED
(SELECT scheduler.policy_runs.id AS id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = any(array((SELECT latest_0.id
FROM tenants
JOIN LATERAL (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.updated_at > now() + $4::INTERVAL
AND scheduler.policy_runs.available_at >= scheduler.policy_runs.updated_at
AND CASE WHEN (scheduler.policy_runs.available_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.policy_runs.available_at END IS NOT NULL AS is_ahead
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") = tenants.tenant_id
AND scheduler.policy_runs.available_at > now() + $4::INTERVAL
ORDER BY scheduler.policy_runs.available_at DESC
LIMIT 100) AS latest_0 ON latest_0.is_ahead
UNION ALL
SELECT latest_1.id
FROM tenants
JOIN LATERAL (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.updated_at > now() + $4::INTERVAL
AND scheduler.policy_runs.available_at >= scheduler.policy_runs.updated_at
AND CASE WHEN (scheduler.policy_runs.available_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.policy_runs.available_at END IS NOT NULL AS is_ahead
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") = tenants.tenant_id
AND scheduler.policy_runs.available_at > now() + $4::INTERVAL
ORDER BY scheduler.policy_runs.available_at DESC
LIMIT 100) AS latest_1 ON latest_1.is_ahead
UNION ALL
SELECT latest_2.id
FROM tenants
JOIN LATERAL (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.updated_at > now() + $4::INTERVAL
AND scheduler.policy_runs.available_at >= scheduler.policy_runs.updated_at
AND CASE WHEN (scheduler.policy_runs.available_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.policy_runs.available_at END IS NOT NULL AS is_ahead
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") = tenants.tenant_id
AND scheduler.policy_runs.available_at > now() + $4::INTERVAL
ORDER BY scheduler.policy_runs.available_at DESC
LIMIT 100) AS latest_2 ON latest_2.is_ahead
LIMIT $1::BIGINT)))
AND CAST(scheduler.policy_runs.status AS INTEGER) = 0
AND scheduler.policy_runs.updated_at > now() + $4::INTERVAL
AND scheduler.policy_runs.available_at >= scheduler.policy_runs.updated_at
AND CASE WHEN (scheduler.policy_runs.available_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.policy_runs.available_at END IS NOT NULL
ORDER BY scheduler.policy_runs.id
FOR NO KEY UPDATE SKIP LOCKED),
moved AS
(UPDATE scheduler.policy_runs
SET available_at=(now() + (scheduler.policy_runs.available_at - scheduler.policy_runs.updated_at)), updated_at=greatest(now(), scheduler.policy_runs.updated_at + interval '1 microsecond')
WHERE scheduler.policy_runs.id = any(array((SELECT locked.id
FROM locked)))
AND CAST(scheduler.policy_runs.status AS INTEGER) = 0
RETURNING scheduler.policy_runs.id)
SELECT CASE WHEN (part.number >= $1::BIGINT) THEN part.last END AS anon_1, (SELECT count(moved.id) AS count_1
FROM moved) AS anon_2
FROM (SELECT count(tenants.tenant_id) AS number, max(tenants.tenant_id COLLATE "C") AS last
FROM tenants) AS part;
