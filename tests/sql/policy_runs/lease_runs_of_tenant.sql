-- graphjobs.policy_runs.sql.acquire.LEASE_RUNS_OF_TENANT
--   $1 p_event_payload TEXT
--   $2 p_lease_owner TEXT
--   $3 p_lease_duration INTERVAL
--   $4 p_apart_after INTEGER
--   $5 p_rotation_offset BIGINT
--   $6 p_tenant_id TEXT
--   $7 p_limit BIGINT
--   $8 p_attempts_max INTEGER
PREPARE policy_runs_lease_runs_of_tenant AS
WITH tenant_shares AS
(SELECT CAST($6::VARCHAR AS TEXT) AS tenant_id, CAST($7::BIGINT AS BIGINT) AS share, CAST('{}' AS UUID[]) AS ids),
emergency AS MATERIALIZED
(SELECT tenant_shares.tenant_id AS tenant_id, tenant_shares.share AS share, array_cat(tenant_shares.ids, array((SELECT scheduler.policy_runs.id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 2
AND (scheduler.policy_runs.tenant_id COLLATE "C") = tenant_shares.tenant_id
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT tenant_shares.share - CASE WHEN ((SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 1
AND (scheduler.policy_runs.tenant_id COLLATE "C") = tenant_shares.tenant_id
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL OR (SELECT scheduler.policy_runs.available_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") = tenant_shares.tenant_id
AND scheduler.policy_runs.available_at <= now()
ORDER BY scheduler.policy_runs.available_at
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) IS NOT NULL) THEN (tenant_shares.share + $5::BIGINT) / 8 ELSE 0 END
FOR NO KEY UPDATE SKIP LOCKED))) AS ids
FROM tenant_shares),
overdue AS MATERIALIZED
(SELECT emergency.tenant_id AS tenant_id, emergency.share AS share, array_cat(emergency.ids, array((SELECT scheduler.policy_runs.id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.status = 0
AND scheduler.policy_runs.priority = 0
AND (scheduler.policy_runs.tenant_id COLLATE "C") = emergency.tenant_id
AND scheduler.policy_runs.available_at <= now() - interval '10 minutes' ORDER BY scheduler.policy_runs.available_at
LIMIT least(emergency.share - cardinality(emergency.ids), (emergency.share + $5::BIGINT) / 8)
FOR NO KEY UPDATE SKIP LOCKED))) AS ids
FROM emergency),
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
(SELECT ids.id AS id, normal.tenant_id AS tenant_id, ids.turn AS turn
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
AND (scheduler.policy_runs.tenant_id COLLATE "C") = $6::VARCHAR
AND CAST(scheduler.policy_runs.status AS INTEGER) = 0
RETURNING scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, scheduler.policy_runs.run_id, scheduler.policy_runs.policy_id, scheduler.policy_runs.mode, scheduler.policy_runs.priority, scheduler.policy_runs.status, scheduler.policy_runs.attempts, scheduler.policy_runs.queued_at, scheduler.policy_runs.available_at, scheduler.policy_runs.last_attempt_at, scheduler.policy_runs.last_error, scheduler.policy_runs.submitted_at, scheduler.policy_runs.completed_at, scheduler.policy_runs.lease_owner, scheduler.policy_runs.lease_expires_at, scheduler.policy_runs.cancellation_requested_at, scheduler.policy_runs.cancellation_reason, scheduler.policy_runs.canceled_at, scheduler.policy_runs.payload, scheduler.policy_runs.created_at, scheduler.policy_runs.updated_at),
logged AS
(INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload, created_at)
SELECT leased.id AS id, leased.tenant_id AS tenant_id, leased.status AS status, CAST($1::VARCHAR AS JSONB) || jsonb_build_object('attempts', leased.attempts) AS anon_1, leased.updated_at AS updated_at
FROM leased
RETURNING scheduler.policy_run_events.id)
SELECT leased.id, leased.tenant_id, leased.run_id, leased.policy_id, leased.mode, leased.priority, leased.status, leased.attempts, leased.queued_at, leased.available_at, leased.last_attempt_at, leased.last_error, leased.submitted_at, leased.completed_at, leased.lease_owner, leased.lease_expires_at, leased.cancellation_requested_at, leased.cancellation_reason, leased.canceled_at, CAST(leased.payload AS TEXT) AS payload, leased.created_at, leased.updated_at, CASE WHEN (leased.attempts >= $8::INTEGER) THEN leased.attempts - (SELECT count(scheduler.policy_run_events.id) AS count_3
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = leased.id
AND scheduler.policy_run_events.tenant_id = leased.tenant_id
AND scheduler.policy_run_events.status = 0
AND (scheduler.policy_run_events.payload ->> 'from') = 'dispatching' AND (scheduler.policy_run_events.payload -> 'error') IS NULL) ELSE leased.attempts END AS anon_2, CAST(NULL AS TEXT) AS anon_3, CAST(NULL AS TEXT) AS anon__1, apart.tenant_ids
FROM (SELECT array((SELECT DISTINCT locked.tenant_id
FROM locked
WHERE locked.size IS NULL)) AS tenant_ids) AS apart
LEFT OUTER JOIN leased ON true
WHERE leased.id IS NOT NULL OR cardinality(apart.tenant_ids) > 0
ORDER BY leased.priority DESC, leased.available_at, leased.id;
