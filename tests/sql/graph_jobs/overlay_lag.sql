-- graphjobs.graph_jobs.sql.lists.OVERLAY_LAG
--   $1 p_tenant_id TEXT
--   $2 p_limit BIGINT
--   $3 p_window INTERVAL
--   $4 p_completed_limit BIGINT
PREPARE graph_jobs_overlay_lag AS
SELECT (SELECT count(anon_2.one) AS count_1
FROM (SELECT anon_3.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = 1
AND scheduler.graph_jobs.status = 0
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $2::BIGINT) AS anon_3
LIMIT $2::BIGINT) AS anon_2) AS anon_1, (SELECT count(anon_5.one) AS count_2
FROM (SELECT anon_6.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = 1
AND scheduler.graph_jobs.status = 1
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $2::BIGINT) AS anon_6
LIMIT $2::BIGINT) AS anon_5) AS anon_4, (SELECT count(anon_8.one) AS count_3
FROM (SELECT anon_9.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = 1
AND scheduler.graph_jobs.status = 2
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $2::BIGINT) AS anon_9
LIMIT $2::BIGINT) AS anon_8) AS anon_7, (SELECT count(anon_11.one) AS count_4
FROM (SELECT anon_12.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = 1
AND scheduler.graph_jobs.status = 3
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $2::BIGINT) AS anon_12
LIMIT $2::BIGINT) AS anon_11) AS anon_10, (SELECT count(anon_14.one) AS count_5
FROM (SELECT anon_15.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = 1
AND scheduler.graph_jobs.status = 4
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $2::BIGINT) AS anon_15
LIMIT $2::BIGINT) AS anon_14) AS anon_13, CAST(EXTRACT(epoch
FROM now() - (SELECT scheduler.graph_jobs.created_at
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = 1
AND scheduler.graph_jobs.status = 0
AND CASE WHEN (scheduler.graph_jobs.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.created_at END IS NOT NULL
ORDER BY scheduler.graph_jobs.created_at
LIMIT 1)) AS FLOAT) AS anon_16, percentile_cont(0.5) WITHIN GROUP (ORDER BY anon_17.latency) AS p50, percentile_cont(0.95) WITHIN GROUP (ORDER BY anon_17.latency) AS p95, count(anon_17.latency) AS count_6
FROM (SELECT greatest(CAST(EXTRACT(epoch
FROM scheduler.graph_jobs.updated_at - scheduler.graph_jobs.created_at) AS FLOAT), 0.0) AS latency
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = 1
AND scheduler.graph_jobs.status = 2
AND scheduler.graph_jobs.created_at >= now() - $3::INTERVAL
AND CASE WHEN (scheduler.graph_jobs.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.created_at END IS NOT NULL
AND CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END IS NOT NULL
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $4::BIGINT) AS anon_17;
