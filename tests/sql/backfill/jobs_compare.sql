-- graphjobs.backfill.load.job_and_run_sql.JOBS.compare
--   $1 p_backfill_version_max TIMESTAMP WITH TIME ZONE
--   $2 p_ordinal INTEGER[]
--   $3 p_id UUID[]
--   $4 p_tenant_id TEXT[]
--   $5 p_type SMALLINT[]
--   $6 p_status SMALLINT[]
--   $7 p_payload TEXT[]
--   $8 p_created_at TIMESTAMP WITH TIME ZONE[]
--   $9 p_updated_at TIMESTAMP WITH TIME ZONE[]
--   $10 p_correlation_id TEXT[]
PREPARE backfill_jobs_compare AS
SELECT input_rows.ordinal, CASE WHEN (stored.id IS NULL) THEN 0 WHEN (stored.id IS NOT DISTINCT
FROM input_rows.id
AND stored.tenant_id IS NOT DISTINCT
FROM input_rows.tenant_id
AND stored.type IS NOT DISTINCT
FROM input_rows.type
AND stored.status IS NOT DISTINCT
FROM input_rows.status
AND stored.payload IS NOT DISTINCT
FROM CAST(input_rows.payload AS JSONB)
AND stored.created_at IS NOT DISTINCT
FROM input_rows.created_at
AND stored.correlation_id IS NOT DISTINCT
FROM input_rows.correlation_id) THEN 1 WHEN ((stored.tenant_id = input_rows.tenant_id
AND stored.type = input_rows.type
AND stored.created_at = input_rows.created_at) IS NOT true) THEN 5 WHEN (stored.updated_at > input_rows.updated_at) THEN 3 WHEN (stored.updated_at <= $1::TIMESTAMP WITH TIME ZONE
AND stored.status < 2
AND (CAST(input_rows.payload AS JSONB) -> 'attempts') >= (stored.payload -> 'attempts')
AND (stored.updated_at < input_rows.updated_at OR (CAST(input_rows.payload AS JSONB) -> 'attempts') > (stored.payload -> 'attempts') OR input_rows.status >= 2)) THEN 2 ELSE 4 END AS anon_1, CASE WHEN (stored.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN stored.updated_at END AS anon_2, stored.status
FROM unnest($2::INTEGER[], $3::UUID[], $4::TEXT[], $5::SMALLINT[], $6::SMALLINT[], $7::TEXT[], $8::TIMESTAMP WITH TIME ZONE[], $9::TIMESTAMP WITH TIME ZONE[], $10::TEXT[]) AS input_rows(ordinal, id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
LEFT OUTER JOIN LATERAL (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = input_rows.id
LIMIT ALL OFFSET 0) AS stored ON true;
