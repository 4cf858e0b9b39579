-- graphjobs.policy_runs.sql.acquire.LEASE_RUNS
--   $1 p_event_payload TEXT
--   $2 p_lease_owner TEXT
--   $3 p_lease_duration INTERVAL
--   $4 p_apart_after INTEGER
--   $5 p_limit BIGINT
--   $6 p_after_tenant_id TEXT
--   $7 p_after_emergency_tenant_id TEXT
--   $8 p_rotation_offset BIGINT
--   $9 p_attempts_max INTEGER
PREPARE policy_runs_lease_runs AS
WITH RECURSIVE tenants_onwards(tenant) AS
(SELECT least((SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C", (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C") AS tenant
UNION ALL
SELECT least((SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > tenants_onwards.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") > $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C", (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > tenants_onwards.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") > $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C") AS least_1
FROM tenants_onwards
WHERE tenants_onwards.tenant IS NOT NULL),
tenants_around(tenant) AS
(SELECT least((SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") <= $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C", (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") <= $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C") AS tenant
UNION ALL
SELECT least((SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > tenants_around.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") <= $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C", (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > tenants_around.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") <= $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C") AS least_2
FROM tenants_around
WHERE tenants_around.tenant IS NOT NULL),
emergency_tenants_onwards(tenant) AS
(SELECT (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > $7::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C" AS tenant
UNION ALL
SELECT (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > emergency_tenants_onwards.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") > $7::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C" AS anon_2
FROM emergency_tenants_onwards
WHERE tenant IS NOT NULL),
emergency_tenants_around(tenant) AS
(SELECT (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") <= $7::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C" AS tenant
UNION ALL
SELECT (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > emergency_tenants_around.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") <= $7::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C" AS anon_3
FROM emergency_tenants_around
WHERE tenant IS NOT NULL),
emergency_tenants AS MATERIALIZED
(SELECT emergency_tenants_listed.tenant AS tenant_id, row_number() OVER () AS turn
FROM (SELECT emergency_tenants_onwards.tenant AS tenant
FROM emergency_tenants_onwards
WHERE tenant IS NOT NULL
AND (SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE status = 0
AND priority = 2
AND (tenant_id COLLATE "C") = tenant
AND available_at <= now()
ORDER BY available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL
UNION ALL
SELECT emergency_tenants_around.tenant AS tenant
FROM emergency_tenants_around
WHERE tenant IS NOT NULL
AND (SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE status = 0
AND priority = 2
AND (tenant_id COLLATE "C") = tenant
AND available_at <= now()
ORDER BY available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL
LIMIT $5::BIGINT) AS emergency_tenants_listed),
tenants AS MATERIALIZED
(SELECT tenants_listed.tenant AS tenant_id, row_number() OVER () AS turn
FROM (SELECT tenants_onwards.tenant AS tenant
FROM tenants_onwards
WHERE tenants_onwards.tenant IS NOT NULL
AND ((SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") = tenants_onwards.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL OR (SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") = tenants_onwards.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL)
UNION ALL
SELECT tenants_around.tenant AS tenant
FROM tenants_around
WHERE tenants_around.tenant IS NOT NULL
AND ((SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") = tenants_around.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL OR (SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") = tenants_around.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL)
LIMIT CASE WHEN (EXISTS (SELECT emergency_tenants.turn
FROM emergency_tenants)) THEN ($5::BIGINT + $8::BIGINT) / 8 ELSE $5::BIGINT END) AS tenants_listed),
emergency_shares AS MATERIALIZED
(SELECT emergency_tenants.tenant_id AS tenant_id, emergency_tenants.turn AS turn, ($5::BIGINT - CASE WHEN (EXISTS (SELECT tenants.turn
FROM tenants)) THEN ($5::BIGINT + $8::BIGINT) / 8 ELSE 0 END) / emergency_shares_counted.tenant_count + CASE WHEN (emergency_tenants.turn <= ($5::BIGINT - CASE WHEN (EXISTS (SELECT tenants.turn
FROM tenants)) THEN ($5::BIGINT + $8::BIGINT) / 8 ELSE 0 END) % emergency_shares_counted.tenant_count) THEN 1 ELSE 0 END AS share, emergency_shares_counted.tenant_count AS tenant_count, $5::BIGINT - CASE WHEN (EXISTS (SELECT tenants.turn
FROM tenants)) THEN ($5::BIGINT + $8::BIGINT) / 8 ELSE 0 END AS taken, CAST('{}' AS UUID[]) AS ids
FROM emergency_tenants
JOIN (SELECT count(emergency_tenants.tenant_id) AS tenant_count
FROM emergency_tenants) AS emergency_shares_counted ON true),
emergencies AS MATERIALIZED
(SELECT candidates.id AS id, emergency_shares.tenant_id AS tenant_id, row_number() OVER (PARTITION BY emergency_shares.tenant_id
ORDER BY candidates.available_at) AS turn
FROM emergency_shares
JOIN LATERAL (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.available_at AS available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") = emergency_shares.tenant_id
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT emergency_shares.share
FOR NO KEY UPDATE SKIP LOCKED) AS candidates ON true),
tenant_shares AS MATERIALIZED
(SELECT tenants.tenant_id AS tenant_id, tenants.turn AS turn, CASE WHEN (EXISTS (SELECT emergency_tenants.turn
FROM emergency_tenants)) THEN ($5::BIGINT + $8::BIGINT) / 8 ELSE $5::BIGINT END / tenant_shares_counted.tenant_count + CASE WHEN (tenants.turn <= CASE WHEN (EXISTS (SELECT emergency_tenants.turn
FROM emergency_tenants)) THEN ($5::BIGINT + $8::BIGINT) / 8 ELSE $5::BIGINT END % tenant_shares_counted.tenant_count) THEN 1 ELSE 0 END AS share, tenant_shares_counted.tenant_count AS tenant_count, CASE WHEN (EXISTS (SELECT emergency_tenants.turn
FROM emergency_tenants)) THEN ($5::BIGINT + $8::BIGINT) / 8 ELSE $5::BIGINT END AS taken, CAST('{}' AS UUID[]) AS ids
FROM tenants
JOIN (SELECT count(tenants.tenant_id) AS tenant_count
FROM tenants) AS tenant_shares_counted ON true),
overdue AS MATERIALIZED
(SELECT tenant_shares.tenant_id AS tenant_id, tenant_shares.share AS share, array_cat(tenant_shares.ids, array((SELECT scheduler.policy_runs.id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") = tenant_shares.tenant_id
AND scheduler.policy_runs.available_at <= now() - interval '10 minutes' ORDER BY scheduler.policy_runs.available_at
LIMIT least(tenant_shares.share - cardinality(tenant_shares.ids), (tenant_shares.share + $8::BIGINT) / 8)
FOR NO KEY UPDATE SKIP LOCKED))) AS ids
FROM tenant_shares),
high AS MATERIALIZED
(SELECT overdue.tenant_id AS tenant_id, overdue.share AS share, array_cat(overdue.ids, array((SELECT scheduler.policy_runs.id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") = overdue.tenant_id
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT overdue.share - cardinality(overdue.ids)
FOR NO KEY UPDATE SKIP LOCKED))) AS ids
FROM overdue),
normal AS MATERIALIZED
(SELECT high.tenant_id AS tenant_id, high.share AS share, array_cat(high.ids, array((SELECT scheduler.policy_runs.id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") = high.tenant_id
AND scheduler.policy_runs.available_at <= now()
AND scheduler.policy_runs.id != all(high.ids)
ORDER BY scheduler.policy_runs.available_at
LIMIT high.share - cardinality(high.ids)
FOR NO KEY UPDATE SKIP LOCKED))) AS ids
FROM high),
turns AS MATERIALIZED
(SELECT emergencies.id AS id, emergencies.tenant_id AS tenant_id, emergencies.turn AS turn
FROM emergencies
UNION ALL
SELECT ids.id AS id, normal.tenant_id AS tenant_id, ids.turn AS turn
FROM normal
JOIN unnest(normal.ids) WITH ORDINALITY AS ids(id, turn) ON true),
locked AS MATERIALIZED
(SELECT turns.id AS id, turns.tenant_id AS tenant_id, turns.turn AS turn, (SELECT CASE WHEN ((scheduler.policy_runs.attempts >= $4::INTEGER) IS NOT true) THEN octet_length(CAST(scheduler.policy_runs.payload AS TEXT)) WHEN (scheduler.policy_runs.attempts - (SELECT count(scheduler.policy_run_events.id) AS count_1
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = scheduler.policy_runs.id
AND scheduler.policy_run_events.tenant_id = scheduler.policy_runs.tenant_id
AND scheduler.policy_run_events.status = 0
AND (scheduler.policy_run_events.payload ->> 'from') = 'dispatching' AND (scheduler.policy_run_events.payload -> 'error') IS NULL) >= $4::INTEGER
AND (SELECT count(scheduler.policy_run_events.id) AS count_2
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = scheduler.policy_runs.id
AND scheduler.policy_run_events.tenant_id = scheduler.policy_runs.tenant_id
AND scheduler.policy_run_events.status = 0
AND (scheduler.policy_run_events.payload ->> 'from') = 'dispatching' AND (scheduler.policy_run_events.payload ? 'rescued')) > 0) THEN NULL ELSE octet_length(CAST(scheduler.policy_runs.payload AS TEXT)) END AS size
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = turns.id
AND (scheduler.policy_runs.tenant_id COLLATE "C") = turns.tenant_id) AS size
FROM turns),
locked_ids AS MATERIALIZED
(SELECT chosen.id AS id
FROM (SELECT locked.id AS id, sum(locked.size) OVER (ORDER BY locked.turn, locked.tenant_id, locked.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) > greatest(8388608, locked.size) AS is_over
FROM locked
WHERE locked.size IS NOT NULL) AS chosen
WHERE NOT chosen.is_over),
leased AS
(UPDATE scheduler.policy_runs
SET status=1, attempts=least(scheduler.policy_runs.attempts + 1, 99999), last_attempt_at=now(), lease_owner=$2::VARCHAR, lease_expires_at=(now() + $3::INTERVAL), updated_at=greatest(now(), scheduler.policy_runs.updated_at + interval '1 microsecond')
WHERE scheduler.policy_runs.id = any(array((SELECT locked_ids.id
FROM locked_ids)))
AND (scheduler.policy_runs.tenant_id COLLATE "C") = any(array((SELECT served.tenant_id
FROM (SELECT emergency_shares.tenant_id AS tenant_id
FROM emergency_shares
UNION ALL
SELECT tenant_shares.tenant_id AS tenant_id
FROM tenant_shares) AS served)))
AND CAST(scheduler.policy_runs.status AS INTEGER) = 0
RETURNING scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.run_id, scheduler.policy_runs.policy_id, scheduler.policy_runs.mode, scheduler.policy_runs.priority, scheduler.policy_runs.status, scheduler.policy_runs.attempts, scheduler.policy_runs.queued_at, scheduler.policy_runs.available_at, scheduler.policy_runs.last_attempt_at, scheduler.policy_runs.last_error, scheduler.policy_runs.submitted_at, scheduler.policy_runs.completed_at, scheduler.policy_runs.lease_owner, scheduler.policy_runs.lease_expires_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason, scheduler.policy_runs.canceled_at, scheduler.policy_runs.payload, scheduler.policy_runs.created_at, scheduler.policy_runs.updated_at),
logged AS
(INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload, created_at)
SELECT leased.id AS id, leased.tenant_id AS tenant_id, leased.status AS status, CAST($1::VARCHAR AS JSONB) || jsonb_build_object('attempts', leased.attempts) AS anon_1, leased.updated_at AS updated_at
FROM leased
RETURNING scheduler.policy_run_events.id)
SELECT leased.id, leased.tenant_id, leased.run_id, leased.policy_id, leased.mode, leased.priority, leased.status, leased.attempts, leased.queued_at, leased.available_at, leased.last_attempt_at, leased.last_error, leased.submitted_at, leased.completed_at, leased.lease_owner, leased.lease_expires_at, leased.cancellation_requested_at, leased.cancellation_reason, leased.canceled_at, CAST(leased.payload AS TEXT) AS payload, leased.created_at, leased.updated_at, CASE WHEN (leased.attempts >= $9::INTEGER) THEN leased.attempts - (SELECT count(scheduler.policy_run_events.id) AS count_3
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = leased.id
AND scheduler.policy_run_events.tenant_id = leased.tenant_id
AND scheduler.policy_run_events.status = 0
AND (scheduler.policy_run_events.payload ->> 'from') = 'dispatching' AND (scheduler.policy_run_events.payload -> 'error') IS NULL) ELSE leased.attempts END AS anon_4, (SELECT emergency_shares.tenant_id
FROM emergency_shares
WHERE emergency_shares.turn = CASE WHEN (emergency_shares.tenant_count < emergency_shares.taken) THEN 1 ELSE emergency_shares.taken END) AS anon_5, (SELECT tenant_shares.tenant_id
FROM tenant_shares
WHERE tenant_shares.turn = CASE WHEN (tenant_shares.tenant_count < tenant_shares.taken) THEN 1 ELSE tenant_shares.taken END) AS anon_6, apart.tenant_ids
FROM (SELECT array((SELECT DISTINCT locked.tenant_id
FROM locked
WHERE locked.size IS NULL)) AS tenant_ids) AS apart
LEFT OUTER JOIN leased ON true
WHERE leased.id IS NOT NULL OR cardinality(apart.tenant_ids) > 0
ORDER BY leased.priority DESC, leased.available_at, leased.id;
