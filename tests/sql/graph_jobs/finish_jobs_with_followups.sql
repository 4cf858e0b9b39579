-- graphjobs.graph_jobs.sql.finish.FINISH_JOBS_WITH_FOLLOWUPS
--   $1 p_job_ids UUID[]
--   $2 p_tenant_ids TEXT[]
--   $3 p_attempts INTEGER[]
--   $4 p_new_statuses SMALLINT[]
--   $5 p_payloads TEXT[]
--   $6 p_event_payloads TEXT[]
--   $7 p_distinct_tenant_ids TEXT[]
--   $8 p_parent_ids UUID[]
--   $9 p_followup_ids UUID[]
--   $10 p_types SMALLINT[]
--   $11 p_followup_payloads TEXT[]
--   $12 p_created_ats TIMESTAMP WITH TIME ZONE[]
--   $13 p_correlation_ids TEXT[]
--   $14 p_followup_event_payloads TEXT[]
PREPARE graph_jobs_finish_jobs_with_followups AS
WITH db_now AS MATERIALIZED
(SELECT to_char(timezone('utc', now()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS utc_text),
locked AS MATERIALIZED
(SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END AS version, scheduler.graph_jobs.payload -> 'attempts' AS attempts
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = any($1::UUID[])
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = any($7::TEXT[])
AND CAST(scheduler.graph_jobs.status AS INTEGER) = 1
ORDER BY scheduler.graph_jobs.id
FOR NO KEY UPDATE SKIP LOCKED),
fenced AS MATERIALIZED
(SELECT inputs.job_id AS job_id, inputs.tenant_id AS tenant_id, inputs.attempts AS attempts, inputs.status AS status, inputs.patch AS patch, inputs.event_payload AS event_payload
FROM unnest($1::UUID[], $2::TEXT[], $3::INTEGER[], $4::SMALLINT[], $5::TEXT[], $6::TEXT[]) AS inputs(job_id, tenant_id, attempts, status, patch, event_payload)
JOIN locked ON locked.id = inputs.job_id
AND locked.tenant_id = inputs.tenant_id
AND locked.attempts = to_jsonb(inputs.attempts)),
refused AS MATERIALIZED
(SELECT DISTINCT fenced.job_id AS job_id
FROM fenced
JOIN unnest($8::UUID[], $9::UUID[], $10::SMALLINT[], $11::TEXT[], $12::TIMESTAMP WITH TIME ZONE[], $13::TEXT[], $14::TEXT[]) AS followups(parent_id, job_id, type, payload, created_at, correlation_id, event_payload) ON followups.parent_id = fenced.job_id
WHERE (SELECT scheduler.graph_jobs.id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = followups.job_id
AND ((scheduler.graph_jobs.tenant_id COLLATE "C") = fenced.tenant_id) IS false) IS NOT NULL),
storable AS MATERIALIZED
(SELECT fenced.job_id AS job_id, fenced.tenant_id AS tenant_id, fenced.attempts AS attempts, fenced.status AS status, fenced.patch AS patch, fenced.event_payload AS event_payload
FROM fenced
WHERE (fenced.job_id NOT IN (SELECT refused.job_id
FROM refused))),
updated AS
(UPDATE scheduler.graph_jobs
SET status=storable.status, payload=CASE WHEN (jsonb_typeof(scheduler.graph_jobs.payload) = 'object') THEN CASE WHEN (scheduler.graph_jobs.payload ? 'error') THEN scheduler.graph_jobs.payload - 'error' ELSE scheduler.graph_jobs.payload END || (CAST(storable.patch AS JSONB) || CASE WHEN (storable.status > 1) THEN (SELECT jsonb_build_object('completedAt', db_now.utc_text) AS patch
FROM db_now) ELSE CAST('{}' AS JSONB) END) ELSE scheduler.graph_jobs.payload END, updated_at=CASE WHEN (CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END IS NOT NULL) THEN greatest(now(), scheduler.graph_jobs.updated_at + interval '1 microsecond') ELSE now() END
FROM storable
WHERE scheduler.graph_jobs.id = any(array((SELECT storable.job_id
FROM storable)))
AND scheduler.graph_jobs.id = storable.job_id
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = storable.tenant_id
RETURNING scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.status, scheduler.graph_jobs.updated_at, storable.event_payload),
logged AS
(INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload, created_at)
SELECT updated.id AS id, updated.tenant_id AS tenant_id, updated.status AS status, CAST(updated.event_payload AS JSONB) AS event_payload, updated.updated_at AS updated_at
FROM updated
RETURNING scheduler.graph_job_events.id),
added AS
(INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, correlation_id)
SELECT followups.job_id AS job_id, updated.tenant_id AS tenant_id, followups.type AS type, 0, CAST(followups.payload AS JSONB) AS payload, followups.created_at AS created_at, followups.correlation_id AS correlation_id
FROM unnest($8::UUID[], $9::UUID[], $10::SMALLINT[], $11::TEXT[], $12::TIMESTAMP WITH TIME ZONE[], $13::TEXT[], $14::TEXT[]) AS followups(parent_id, job_id, type, payload, created_at, correlation_id, event_payload)
JOIN updated ON updated.id = followups.parent_id
ORDER BY followups.job_id
ON CONFLICT (id) DO NOTHING
RETURNING scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.status, scheduler.graph_jobs.updated_at),
added_events AS
(SELECT added.id AS id, added.tenant_id AS tenant_id, added.status AS status, added.updated_at AS updated_at, followups.event_payload AS event_payload
FROM added
JOIN unnest($8::UUID[], $9::UUID[], $10::SMALLINT[], $11::TEXT[], $12::TIMESTAMP WITH TIME ZONE[], $13::TEXT[], $14::TEXT[]) AS followups(parent_id, job_id, type, payload, created_at, correlation_id, event_payload) ON added.id = followups.job_id),
added_log AS
(INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload, created_at)
SELECT added_events.id AS id, added_events.tenant_id AS tenant_id, added_events.status AS status, CAST(added_events.event_payload AS JSONB) AS event_payload, added_events.updated_at AS updated_at
FROM added_events
RETURNING scheduler.graph_job_events.id)
SELECT updated.id, CASE WHEN (updated.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN updated.updated_at END AS anon_1
FROM updated
UNION ALL
SELECT refused.job_id, NULL AS anon_2
FROM refused;
