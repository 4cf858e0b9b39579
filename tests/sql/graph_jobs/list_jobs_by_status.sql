-- graphjobs.graph_jobs.sql.lists.LIST_JOBS_BY_STATUS
--   $1 p_tenant_id TEXT
--   $2 p_type SMALLINT
--   $3 p_status SMALLINT
--   $4 p_limit BIGINT
PREPARE graph_jobs_list_jobs_by_status AS
SELECT anon_1.id, anon_1.tenant_id, anon_1.type, anon_1.status, CASE WHEN (anon_1.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN anon_1.created_at END AS anon_2, anon_1.correlation_id, CASE WHEN (anon_1.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN anon_1.updated_at END AS anon_3, CAST(anon_1.payload AS TEXT) AS payload
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = $3::SMALLINT
ORDER BY scheduler.graph_jobs.created_at DESC
FETCH FIRST ($4::BIGINT) ROWS WITH TIES) AS anon_1
ORDER BY anon_1.created_at DESC, anon_1.id DESC
LIMIT $4::BIGINT;
