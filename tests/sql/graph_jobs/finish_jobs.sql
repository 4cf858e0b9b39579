-- graphjobs.graph_jobs.sql.finish.FINISH_JOBS
--   $1 p_job_ids UUID[]
--   $2 p_tenant_ids TEXT[]
--   $3 p_attempts INTEGER[]
--   $4 p_new_statuses SMALLINT[]
--   $5 p_payloads TEXT[]
--   $6 p_event_payloads TEXT[]
--   $7 p_distinct_tenant_ids TEXT[]
PREPARE graph_jobs_finish_jobs AS
WITH clock AS MATERIALIZED
(SELECT to_char(timezone('utc', now()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS told),
locked AS MATERIALIZED
(SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END AS version, scheduler.graph_jobs.payload -> 'attempts' AS attempts
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = any($1::UUID[])
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = any($7::TEXT[])
AND CAST(scheduler.graph_jobs.status AS INTEGER) = 1
ORDER BY scheduler.graph_jobs.id
FOR NO KEY UPDATE SKIP LOCKED),
held AS MATERIALIZED
(SELECT given.given_id AS given_id, given.tenant AS tenant, given.attempts_held AS attempts_held, given.target AS target, given.patch AS patch, given.entry AS entry
FROM unnest($1::UUID[], $2::TEXT[], $3::INTEGER[], $4::SMALLINT[], $5::TEXT[], $6::TEXT[]) AS given(given_id, tenant, attempts_held, target, patch, entry)
JOIN locked ON locked.id = given.given_id
AND locked.tenant_id = given.tenant
AND locked.attempts = to_jsonb(given.attempts_held)),
written AS
(UPDATE scheduler.graph_jobs
SET status=held.target, payload=CASE WHEN (jsonb_typeof(scheduler.graph_jobs.payload) = 'object') THEN CASE WHEN (scheduler.graph_jobs.payload ? 'error') THEN scheduler.graph_jobs.payload - 'error' ELSE scheduler.graph_jobs.payload END || (CAST(held.patch AS JSONB) || CASE WHEN (held.target > 1) THEN (SELECT jsonb_build_object('completedAt', clock.told) AS told
FROM clock) ELSE CAST('{}' AS JSONB) END) ELSE scheduler.graph_jobs.payload END, updated_at=CASE WHEN (CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END IS NOT NULL) THEN greatest(now(), scheduler.graph_jobs.updated_at + interval '1 microsecond') ELSE now() END
FROM held
WHERE scheduler.graph_jobs.id = any(array((SELECT held.given_id
FROM held)))
AND scheduler.graph_jobs.id = held.given_id
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = held.tenant
RETURNING scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.status, scheduler.graph_jobs.updated_at, held.entry),
logged AS
(INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload, created_at)
SELECT written.id AS id, written.tenant_id AS tenant_id, written.status AS status, CAST(written.entry AS JSONB) AS entry, written.updated_at AS updated_at
FROM written
RETURNING scheduler.graph_job_events.id)
SELECT written.id, CASE WHEN (written.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN written.updated_at END AS anon_1
FROM written;
