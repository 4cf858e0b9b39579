-- graphjobs.graph_jobs.sql.lists.COUNT_BY_TYPE
--   $1 p_tenant_id TEXT
--   $2 p_type SMALLINT
--   $3 p_statuses SMALLINT[]
--   $4 p_created_from TIMESTAMP WITH TIME ZONE
--   $5 p_after_created_at TIMESTAMP WITH TIME ZONE
--   $6 p_limit BIGINT
PREPARE graph_jobs_count_by_type AS
SELECT (SELECT count(anon_2.one) AS count_1
FROM (SELECT anon_3.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = 0
AND 0 = any($3::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $4::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $5::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $6::BIGINT) AS anon_3
UNION ALL
SELECT anon_4.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = 1
AND 1 = any($3::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $4::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $5::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $6::BIGINT) AS anon_4
UNION ALL
SELECT anon_5.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = 2
AND 2 = any($3::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $4::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $5::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $6::BIGINT) AS anon_5
UNION ALL
SELECT anon_6.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = 3
AND 3 = any($3::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $4::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $5::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $6::BIGINT) AS anon_6
UNION ALL
SELECT anon_7.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = 4
AND 4 = any($3::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $4::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $5::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $6::BIGINT) AS anon_7
UNION ALL
SELECT anon_8.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status < 0
AND -1 = any($3::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $4::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $5::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.graph_jobs.status, scheduler.graph_jobs.created_at DESC
LIMIT $6::BIGINT) AS anon_8
UNION ALL
SELECT anon_9.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status > 4
AND 5 = any($3::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $4::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $5::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.graph_jobs.status, scheduler.graph_jobs.created_at DESC
LIMIT $6::BIGINT) AS anon_9
LIMIT $6::BIGINT) AS anon_2) AS anon_1;
