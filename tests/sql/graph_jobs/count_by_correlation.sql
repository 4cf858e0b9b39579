-- graphjobs.graph_jobs.sql.lists.COUNT_BY_CORRELATION
--   $1 p_tenant_id TEXT
--   $2 p_correlation_id TEXT
--   $3 p_created_from TIMESTAMP WITH TIME ZONE
--   $4 p_after_created_at TIMESTAMP WITH TIME ZONE
--   $5 p_limit BIGINT
PREPARE graph_jobs_count_by_correlation AS
SELECT (SELECT count(anon_2.one) AS count_1
FROM (SELECT anon_3.one AS one
FROM (SELECT 1 AS one
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.correlation_id = $2::VARCHAR
AND scheduler.graph_jobs.created_at >= $3::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $4::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT $5::BIGINT) AS anon_3
LIMIT $5::BIGINT) AS anon_2) AS anon_1;
