-- graphjobs.graph_jobs.sql.finish.RENEW_JOBS
--   $1 p_job_ids UUID[]
--   $2 p_tenant_ids TEXT[]
--   $3 p_attempts INTEGER[]
--   $4 p_distinct_tenant_ids TEXT[]
PREPARE graph_jobs_renew_jobs AS
WITH snapshot AS MATERIALIZED
(SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.payload -> 'attempts' AS attempts
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = any($1::UUID[])
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = any($4::TEXT[])
AND CAST(scheduler.graph_jobs.status AS INTEGER) = 1),
locked AS MATERIALIZED
(SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END AS version, scheduler.graph_jobs.payload -> 'attempts' AS attempts
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = any($1::UUID[])
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = any($4::TEXT[])
AND CAST(scheduler.graph_jobs.status AS INTEGER) = 1
ORDER BY scheduler.graph_jobs.id
FOR NO KEY UPDATE SKIP LOCKED),
fenced AS MATERIALIZED
(SELECT inputs.job_id AS job_id, inputs.tenant_id AS tenant_id
FROM unnest($1::UUID[], $2::TEXT[], $3::INTEGER[]) AS inputs(job_id, tenant_id, attempts)
JOIN locked ON locked.id = inputs.job_id
AND locked.tenant_id = inputs.tenant_id
AND locked.attempts = to_jsonb(inputs.attempts)),
renewed AS
(UPDATE scheduler.graph_jobs
SET updated_at=CASE WHEN (CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END IS NOT NULL) THEN greatest(now(), scheduler.graph_jobs.updated_at + interval '1 microsecond') ELSE now() END
FROM fenced
WHERE scheduler.graph_jobs.id = any(array((SELECT fenced.job_id
FROM fenced)))
AND scheduler.graph_jobs.id = fenced.job_id
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = fenced.tenant_id
RETURNING scheduler.graph_jobs.id, scheduler.graph_jobs.updated_at)
SELECT snapshot.id, CASE WHEN (renewed.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN renewed.updated_at END AS anon_1
FROM unnest($1::UUID[], $2::TEXT[], $3::INTEGER[]) AS inputs(job_id, tenant_id, attempts)
JOIN snapshot ON snapshot.id = inputs.job_id
AND snapshot.tenant_id = inputs.tenant_id
AND snapshot.attempts = to_jsonb(inputs.attempts)
LEFT OUTER JOIN renewed ON renewed.id = snapshot.id;
