-- graphjobs.graph_jobs.sql.stalled.LIST_STALLED_JOBS
--   $1 p_limit BIGINT
--   $2 p_after_tenant_id TEXT
--   $3 p_lease INTERVAL
--   $4 p_type SMALLINT
--   $5 p_after_created_at TIMESTAMP WITH TIME ZONE
PREPARE graph_jobs_list_stalled_jobs AS
WITH RECURSIVE walk(tenant, turn, number, last_created, stalled_ids) AS
(SELECT CAST($2::VARCHAR AS TEXT) AS tenant, 0 AS turn, part.number AS number, part.last_created AS last_created, part.stalled_ids AS stalled_ids
FROM LATERAL (SELECT count(running.id) AS number, max(running.created_at) AS last_created, array_agg(running.id) FILTER (WHERE running.is_stalled) AS stalled_ids
FROM LATERAL (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at < now() - $3::INTERVAL OR scheduler.graph_jobs.updated_at > now() + $3::INTERVAL AS is_stalled
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $2::VARCHAR
AND scheduler.graph_jobs.type = $4::SMALLINT
AND scheduler.graph_jobs.status = 1
AND scheduler.graph_jobs.created_at > $5::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.graph_jobs.created_at
FETCH FIRST ($1::BIGINT) ROWS WITH TIES) AS running) AS part
UNION ALL
SELECT successor.tenant AS tenant, walk.turn + 1 AS anon_6, walk.number + part.number AS anon_7, part.last_created AS last_created, part.stalled_ids AS stalled_ids
FROM walk
JOIN LATERAL (SELECT (SELECT scheduler.graph_jobs.tenant_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id >= '' AND scheduler.graph_jobs.tenant_id > walk.tenant
ORDER BY scheduler.graph_jobs.tenant_id
LIMIT 1) AS tenant) AS successor ON true
JOIN LATERAL (SELECT count(running.id) AS number, max(running.created_at) AS last_created, array_agg(running.id) FILTER (WHERE running.is_stalled) AS stalled_ids
FROM LATERAL (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at < now() - $3::INTERVAL OR scheduler.graph_jobs.updated_at > now() + $3::INTERVAL AS is_stalled
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = successor.tenant
AND scheduler.graph_jobs.type = $4::SMALLINT
AND scheduler.graph_jobs.status = 1
AND scheduler.graph_jobs.created_at > '-infinity'::timestamptz
ORDER BY scheduler.graph_jobs.created_at
FETCH FIRST ($1::BIGINT - walk.number) ROWS WITH TIES) AS running) AS part ON true
WHERE walk.number < $1::BIGINT
AND walk.turn < $1::BIGINT
AND successor.tenant IS NOT NULL),
stalled AS MATERIALIZED
(SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.payload AS payload
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = any(array((SELECT unnest(walk.stalled_ids) AS unnest_1
FROM walk)))
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = any(array((SELECT walk.tenant
FROM walk)))
AND CAST(scheduler.graph_jobs.status AS INTEGER) = 1
AND (scheduler.graph_jobs.updated_at < now() - $3::INTERVAL OR scheduler.graph_jobs.updated_at > now() + $3::INTERVAL)
FOR NO KEY UPDATE SKIP LOCKED)
SELECT CASE WHEN (last_part.number >= $1::BIGINT OR last_part.turn >= $1::BIGINT) THEN last_part.tenant END AS anon_1, CASE WHEN (last_part.last_created BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN last_part.last_created END AS anon_2, stalled.id, stalled.tenant_id, CASE WHEN (stalled.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN stalled.updated_at END AS anon_3, CASE WHEN (jsonb_typeof(stalled.payload -> 'attempts') = 'number' AND ((stalled.payload ->> 'attempts') ~ '^[0-9]{1,5}$')) THEN CAST(stalled.payload ->> 'attempts' AS INTEGER) END AS anon_4, (SELECT count(scheduler.graph_job_events.id) AS count_1
FROM scheduler.graph_job_events
WHERE scheduler.graph_job_events.job_id = stalled.id
AND scheduler.graph_job_events.tenant_id = stalled.tenant_id
AND (scheduler.graph_job_events.payload ->> 'from') = 'running' AND scheduler.graph_job_events.status = 0
AND NOT (scheduler.graph_job_events.payload ? 'rescued')) AS anon_5
FROM (SELECT walk.tenant AS tenant, walk.turn AS turn, walk.number AS number, walk.last_created AS last_created, walk.stalled_ids AS stalled_ids
FROM walk
ORDER BY walk.turn DESC
LIMIT 1) AS last_part
LEFT OUTER JOIN stalled ON true;
