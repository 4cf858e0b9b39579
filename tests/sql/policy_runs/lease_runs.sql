-- graphjobs.policy_runs.sql.acquire.LEASE_RUNS
--   $1 p_event_payload TEXT
--   $2 p_lease_owner TEXT
--   $3 p_lease_duration INTERVAL
--   $4 p_limit BIGINT
--   $5 p_after_emergency_tenant_id TEXT
--   $6 p_after_tenant_id TEXT
--   $7 p_rotation_offset BIGINT
--   $8 p_attempts_max INTEGER
PREPARE policy_runs_lease_runs AS
WITH RECURSIVE urgent_onwards(tenant) AS
(SELECT (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > $5::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C" AS tenant
UNION ALL
SELECT (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > urgent_onwards.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") > $5::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C" AS anon_2
FROM urgent_onwards
WHERE urgent_onwards.tenant IS NOT NULL),
urgent_around(tenant) AS
(SELECT (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") <= $5::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C" AS tenant
UNION ALL
SELECT (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > urgent_around.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") <= $5::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C" AS anon_3
FROM urgent_around
WHERE urgent_around.tenant IS NOT NULL),
urgent AS MATERIALIZED
(SELECT urgent_listed.tenant AS tenant, row_number() OVER () AS turn
FROM (SELECT urgent_onwards.tenant AS tenant
FROM urgent_onwards
WHERE urgent_onwards.tenant IS NOT NULL
AND (SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") = urgent_onwards.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL
UNION ALL
SELECT urgent_around.tenant AS tenant
FROM urgent_around
WHERE urgent_around.tenant IS NOT NULL
AND (SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") = urgent_around.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL
LIMIT $4::BIGINT) AS urgent_listed),
urgent_shares AS MATERIALIZED
(SELECT urgent.tenant AS tenant, urgent.turn AS turn, $4::BIGINT / urgent_shares_number.number + CASE WHEN (urgent.turn <= $4::BIGINT % urgent_shares_number.number) THEN 1 ELSE 0 END AS share, urgent_shares_number.number AS number
FROM urgent
JOIN (SELECT count(urgent.tenant) AS number
FROM urgent) AS urgent_shares_number ON true),
first AS MATERIALIZED
(SELECT emergencies.id AS id
FROM urgent_shares
JOIN LATERAL (SELECT scheduler.policy_runs.id AS id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") = urgent_shares.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT urgent_shares.share
FOR NO KEY UPDATE SKIP LOCKED) AS emergencies ON true),
waiting_onwards(tenant) AS
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
WHERE NOT (EXISTS (SELECT first.id
FROM first))
UNION ALL
SELECT least((SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > waiting_onwards.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") > $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C", (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > waiting_onwards.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") > $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C") AS least_1
FROM waiting_onwards
WHERE waiting_onwards.tenant IS NOT NULL),
waiting_around(tenant) AS
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
WHERE NOT (EXISTS (SELECT first.id
FROM first))
UNION ALL
SELECT least((SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > waiting_around.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") <= $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C", (SELECT scheduler.policy_runs.tenant_id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") >= '' AND (scheduler.policy_runs.tenant_id COLLATE "C") > waiting_around.tenant
AND (scheduler.policy_runs.tenant_id COLLATE "C") <= $6::VARCHAR
ORDER BY scheduler.policy_runs.tenant_id COLLATE "C"
LIMIT 1) COLLATE "C") AS least_2
FROM waiting_around
WHERE waiting_around.tenant IS NOT NULL),
waiting AS MATERIALIZED
(SELECT waiting_listed.tenant AS tenant, row_number() OVER () AS turn
FROM (SELECT waiting_onwards.tenant AS tenant
FROM waiting_onwards
WHERE waiting_onwards.tenant IS NOT NULL
AND ((SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") = waiting_onwards.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL OR (SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") = waiting_onwards.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL)
UNION ALL
SELECT waiting_around.tenant AS tenant
FROM waiting_around
WHERE waiting_around.tenant IS NOT NULL
AND ((SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") = waiting_around.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL OR (SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") = waiting_around.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL)
LIMIT $4::BIGINT) AS waiting_listed),
shares AS MATERIALIZED
(SELECT waiting.tenant AS tenant, waiting.turn AS turn, $4::BIGINT / shares_number.number + CASE WHEN (waiting.turn <= $4::BIGINT % shares_number.number) THEN 1 ELSE 0 END AS share, shares_number.number AS number
FROM waiting
JOIN (SELECT count(waiting.tenant) AS number
FROM waiting) AS shares_number ON true),
picked AS MATERIALIZED
(SELECT first.id AS id
FROM first
UNION ALL
SELECT unnest(array_cat(array_cat(overdue.ids, high.ids), normal.ids)) AS id
FROM shares
JOIN LATERAL (SELECT array((SELECT scheduler.policy_runs.id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") = shares.tenant
AND scheduler.policy_runs.available_at <= now() - interval '10 minutes' ORDER BY scheduler.policy_runs.available_at
LIMIT least(shares.share, (shares.share + $7::BIGINT) / 8)
FOR NO KEY UPDATE SKIP LOCKED)) AS ids
LIMIT ALL OFFSET 0) AS overdue ON true
JOIN LATERAL (SELECT array((SELECT scheduler.policy_runs.id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") = shares.tenant
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT shares.share - cardinality(overdue.ids)
FOR NO KEY UPDATE SKIP LOCKED)) AS ids
LIMIT ALL OFFSET 0) AS high ON true
JOIN LATERAL (SELECT array((SELECT scheduler.policy_runs.id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") = shares.tenant
AND scheduler.policy_runs.available_at <= now()
AND scheduler.policy_runs.id != all(overdue.ids)
ORDER BY scheduler.policy_runs.available_at
LIMIT (shares.share - cardinality(overdue.ids)) - cardinality(high.ids)
FOR NO KEY UPDATE SKIP LOCKED)) AS ids
LIMIT ALL OFFSET 0) AS normal ON true),
leased AS
(UPDATE scheduler.policy_runs
SET status=1, attempts=least(scheduler.policy_runs.attempts + 1, 99999), last_attempt_at=now(), lease_owner=$2::VARCHAR, lease_expires_at=(now() + $3::INTERVAL), updated_at=greatest(now(), scheduler.policy_runs.updated_at + interval '1 microsecond')
WHERE scheduler.policy_runs.id = any(array((SELECT picked.id
FROM picked)))
AND (scheduler.policy_runs.tenant_id COLLATE "C") = any(array((SELECT served.tenant
FROM (SELECT urgent_shares.tenant AS tenant
FROM urgent_shares
UNION ALL
SELECT shares.tenant AS tenant
FROM shares) AS served)))
AND CAST(scheduler.policy_runs.status AS INTEGER) = 0
RETURNING scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.run_id, scheduler.policy_runs.policy_id, scheduler.policy_runs.mode, scheduler.policy_runs.priority, scheduler.policy_runs.status, scheduler.policy_runs.attempts, scheduler.policy_runs.queued_at, scheduler.policy_runs.available_at, scheduler.policy_runs.last_attempt_at, scheduler.policy_runs.last_error, scheduler.policy_runs.submitted_at, scheduler.policy_runs.completed_at, scheduler.policy_runs.lease_owner, scheduler.policy_runs.lease_expires_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason, scheduler.policy_runs.canceled_at, scheduler.policy_runs.payload, scheduler.policy_runs.created_at, scheduler.policy_runs.updated_at),
logged AS
(INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload, created_at)
SELECT leased.id AS id, leased.tenant_id AS tenant_id, leased.status AS status, CAST($1::VARCHAR AS JSONB) || jsonb_build_object('attempts', leased.attempts) AS anon_1, leased.updated_at AS updated_at
FROM leased
RETURNING scheduler.policy_run_events.id)
SELECT leased.id, leased.tenant_id, leased.run_id, leased.policy_id, leased.mode, leased.priority, leased.status, leased.attempts, leased.queued_at, leased.available_at, leased.last_attempt_at, leased.last_error, leased.submitted_at, leased.completed_at, leased.lease_owner, leased.lease_expires_at, leased.cancellation_requested_at, leased.cancellation_reason, leased.canceled_at, CAST(leased.payload AS TEXT) AS payload, leased.created_at, leased.updated_at, CASE WHEN (leased.attempts >= $8::INTEGER) THEN leased.attempts - (SELECT count(scheduler.policy_run_events.id) AS count_1
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = leased.id
AND scheduler.policy_run_events.tenant_id = leased.tenant_id
AND scheduler.policy_run_events.status = 0
AND (scheduler.policy_run_events.payload ->> 'from') = 'dispatching' AND (scheduler.policy_run_events.payload -> 'error') IS NULL) ELSE leased.attempts END AS anon_4, (SELECT urgent_shares.tenant
FROM urgent_shares
WHERE urgent_shares.turn = CASE WHEN (urgent_shares.number < $4::BIGINT) THEN 1 ELSE urgent_shares.number END) AS anon_5, (SELECT shares.tenant
FROM shares
WHERE shares.turn = CASE WHEN (shares.number < $4::BIGINT) THEN 1 ELSE shares.number END) AS anon_6
FROM leased
ORDER BY leased.priority DESC, leased.available_at, leased.id;
