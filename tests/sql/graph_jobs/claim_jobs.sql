-- graphjobs.graph_jobs.sql.acquire.CLAIM_JOBS
--   $1 p_event_payload TEXT
--   $2 p_apart_after INTEGER
--   $3 p_tenant_ids TEXT[]
--   $4 p_shares BIGINT[]
--   $5 p_type SMALLINT
PREPARE graph_jobs_claim_jobs AS
WITH db_now AS MATERIALIZED
(SELECT to_char(timezone('utc', now()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS utc_text),
locked AS MATERIALIZED
(SELECT candidates.id AS id, CASE WHEN ((candidates.attempts >= $2::INTEGER) IS NOT true) THEN candidates.size WHEN (candidates.attempts - (SELECT count(scheduler.graph_job_events.id) AS count_1
FROM scheduler.graph_job_events
WHERE scheduler.graph_job_events.job_id = candidates.id
AND scheduler.graph_job_events.tenant_id = candidates.tenant_id
AND (scheduler.graph_job_events.payload ->> 'from') = 'running' AND scheduler.graph_job_events.status = 0
AND NOT (scheduler.graph_job_events.payload ? 'rescued')) >= $2::INTEGER) THEN NULL ELSE candidates.size END AS size, tenant_shares.tenant_id AS tenant_id, row_number() OVER (PARTITION BY tenant_shares.tenant_id
ORDER BY candidates.created_at) AS turn
FROM unnest($3::TEXT[], $4::BIGINT[]) AS tenant_shares(tenant_id, share)
JOIN LATERAL (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.created_at AS created_at, octet_length(CAST(scheduler.graph_jobs.payload AS TEXT)) AS size, CASE WHEN (jsonb_typeof(scheduler.graph_jobs.payload -> 'attempts') = 'number' AND ((scheduler.graph_jobs.payload ->> 'attempts') ~ '^[0-9]{1,5}$')) THEN CAST(scheduler.graph_jobs.payload ->> 'attempts' AS INTEGER) END AS attempts
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = tenant_shares.tenant_id
AND scheduler.graph_jobs.type = $5::SMALLINT
AND scheduler.graph_jobs.status = 0
ORDER BY scheduler.graph_jobs.created_at
LIMIT tenant_shares.share
FOR NO KEY UPDATE SKIP LOCKED) AS candidates ON true),
locked_ids AS MATERIALIZED
(SELECT chosen.id AS id
FROM (SELECT locked.id AS id, sum(locked.size) OVER (ORDER BY locked.turn, locked.tenant_id, locked.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) > greatest(8388608, locked.size) AS is_over
FROM locked
WHERE locked.size IS NOT NULL) AS chosen
WHERE NOT chosen.is_over),
claimed AS
(UPDATE scheduler.graph_jobs
SET status=1, payload=CASE WHEN (jsonb_typeof(scheduler.graph_jobs.payload) = 'object' AND CASE WHEN (jsonb_typeof(scheduler.graph_jobs.payload -> 'attempts') = 'number' AND ((scheduler.graph_jobs.payload ->> 'attempts') ~ '^[0-9]{1,5}$')) THEN CAST(scheduler.graph_jobs.payload ->> 'attempts' AS INTEGER) END < 99999) THEN CASE WHEN (scheduler.graph_jobs.payload ? 'error') THEN scheduler.graph_jobs.payload - 'error' ELSE scheduler.graph_jobs.payload END || jsonb_build_object('status', 'running', 'attempts', CASE WHEN (jsonb_typeof(scheduler.graph_jobs.payload -> 'attempts') = 'number' AND ((scheduler.graph_jobs.payload ->> 'attempts') ~ '^[0-9]{1,5}$')) THEN CAST(scheduler.graph_jobs.payload ->> 'attempts' AS INTEGER) END + 1, 'startedAt', (SELECT db_now.utc_text
FROM db_now)) ELSE scheduler.graph_jobs.payload END, updated_at=CASE WHEN (CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END IS NOT NULL) THEN greatest(now(), scheduler.graph_jobs.updated_at + interval '1 microsecond') ELSE now() END
WHERE scheduler.graph_jobs.id = any(array((SELECT locked_ids.id
FROM locked_ids)))
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = any($3::TEXT[])
RETURNING scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.type, scheduler.graph_jobs.status, scheduler.graph_jobs.payload, scheduler.graph_jobs.created_at, scheduler.graph_jobs.updated_at, scheduler.graph_jobs.correlation_id),
logged AS
(INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload, created_at)
SELECT claimed.id AS id, claimed.tenant_id AS tenant_id, claimed.status AS status, CAST($1::VARCHAR AS JSONB) || jsonb_build_object('attempts', claimed.payload -> 'attempts') AS anon_1, claimed.updated_at AS updated_at
FROM claimed
RETURNING scheduler.graph_job_events.id)
SELECT claimed.id, claimed.tenant_id, claimed.type, claimed.status, CASE WHEN (claimed.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN claimed.created_at END AS anon_2, claimed.correlation_id, CASE WHEN (claimed.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN claimed.updated_at END AS anon_3, CAST(claimed.payload AS TEXT) AS payload, apart.tenant_ids
FROM (SELECT array((SELECT DISTINCT locked.tenant_id
FROM locked
WHERE locked.size IS NULL)) AS tenant_ids) AS apart
LEFT OUTER JOIN claimed ON true
WHERE claimed.id IS NOT NULL OR cardinality(apart.tenant_ids) > 0
ORDER BY claimed.created_at, claimed.id;
