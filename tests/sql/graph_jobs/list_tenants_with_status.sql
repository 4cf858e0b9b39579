-- graphjobs.graph_jobs.sql.acquire.LIST_TENANTS_WITH_STATUS
--   $1 p_after_tenant_id TEXT
--   $2 p_type SMALLINT
--   $3 p_status SMALLINT
--   $4 p_limit BIGINT
PREPARE graph_jobs_list_tenants_with_status AS
WITH RECURSIVE tenants_onwards(tenant) AS
(SELECT (SELECT scheduler.graph_jobs.tenant_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id >= '' AND scheduler.graph_jobs.tenant_id > $1::VARCHAR
ORDER BY scheduler.graph_jobs.tenant_id
LIMIT 1) AS tenant
UNION ALL
SELECT (SELECT scheduler.graph_jobs.tenant_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id >= '' AND scheduler.graph_jobs.tenant_id > tenants_onwards.tenant
AND scheduler.graph_jobs.tenant_id > $1::VARCHAR
ORDER BY scheduler.graph_jobs.tenant_id
LIMIT 1) AS anon_1
FROM tenants_onwards
WHERE tenants_onwards.tenant IS NOT NULL),
tenants_around(tenant) AS
(SELECT (SELECT scheduler.graph_jobs.tenant_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id >= '' AND scheduler.graph_jobs.tenant_id <= $1::VARCHAR
ORDER BY scheduler.graph_jobs.tenant_id
LIMIT 1) AS tenant
UNION ALL
SELECT (SELECT scheduler.graph_jobs.tenant_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id >= '' AND scheduler.graph_jobs.tenant_id > tenants_around.tenant
AND scheduler.graph_jobs.tenant_id <= $1::VARCHAR
ORDER BY scheduler.graph_jobs.tenant_id
LIMIT 1) AS anon_2
FROM tenants_around
WHERE tenants_around.tenant IS NOT NULL)
SELECT tenants_onwards.tenant
FROM tenants_onwards
WHERE tenants_onwards.tenant IS NOT NULL
AND (SELECT scheduler.graph_jobs.created_at
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = tenants_onwards.tenant
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = $3::SMALLINT
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT 1) IS NOT NULL
UNION ALL
SELECT tenants_around.tenant
FROM tenants_around
WHERE tenants_around.tenant IS NOT NULL
AND (SELECT scheduler.graph_jobs.created_at
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = tenants_around.tenant
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = $3::SMALLINT
ORDER BY scheduler.graph_jobs.created_at DESC
LIMIT 1) IS NOT NULL
LIMIT $4::BIGINT;
