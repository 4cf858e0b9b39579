-- graphjobs.backfill.load.job_and_run_sql.JOBS.verify
--   $1 p_ordinal INTEGER[]
--   $2 p_id UUID[]
--   $3 p_tenant_id TEXT[]
--   $4 p_type SMALLINT[]
--   $5 p_status SMALLINT[]
--   $6 p_payload TEXT[]
--   $7 p_created_at TIMESTAMP WITH TIME ZONE[]
--   $8 p_updated_at TIMESTAMP WITH TIME ZONE[]
--   $9 p_correlation_id TEXT[]
--   $10 p_backfill_version_max TIMESTAMP WITH TIME ZONE
PREPARE backfill_jobs_verify AS
WITH newly_seen AS
(INSERT INTO backfill_seen_graph_jobs (id)
SELECT input_rows.id AS id
FROM unnest($1::INTEGER[], $2::UUID[], $3::TEXT[], $4::SMALLINT[], $5::SMALLINT[], $6::TEXT[], $7::TIMESTAMP WITH TIME ZONE[], $8::TIMESTAMP WITH TIME ZONE[], $9::TEXT[]) AS input_rows(ordinal, id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
LEFT OUTER JOIN LATERAL (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = input_rows.id
LIMIT ALL OFFSET 0) AS stored ON true
WHERE (CASE WHEN (stored.id IS NULL) THEN 0 WHEN (stored.id IS NOT DISTINCT
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
AND stored.created_at = input_rows.created_at) IS NOT true) THEN 5 WHEN (stored.updated_at > input_rows.updated_at) THEN 3 WHEN (stored.updated_at <= $10::TIMESTAMP WITH TIME ZONE
AND stored.status < 2
AND (CAST(input_rows.payload AS JSONB) -> 'attempts') >= (stored.payload -> 'attempts')
AND (stored.updated_at < input_rows.updated_at OR (CAST(input_rows.payload AS JSONB) -> 'attempts') > (stored.payload -> 'attempts') OR input_rows.status >= 2)) THEN 2 ELSE 4 END NOT IN (5, 6))
ON CONFLICT DO NOTHING
RETURNING backfill_seen_graph_jobs.id)
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
AND stored.created_at = input_rows.created_at) IS NOT true) THEN 5 WHEN (stored.updated_at > input_rows.updated_at) THEN 3 WHEN (stored.updated_at <= $10::TIMESTAMP WITH TIME ZONE
AND stored.status < 2
AND (CAST(input_rows.payload AS JSONB) -> 'attempts') >= (stored.payload -> 'attempts')
AND (stored.updated_at < input_rows.updated_at OR (CAST(input_rows.payload AS JSONB) -> 'attempts') > (stored.payload -> 'attempts') OR input_rows.status >= 2)) THEN 2 ELSE 4 END AS anon_1, hash_record_extended(row(input_rows.id, input_rows.tenant_id, input_rows.type, input_rows.status, CAST(input_rows.payload AS JSONB), input_rows.created_at, input_rows.correlation_id), 0) AS hash_record_extended_1, newly_seen.id IS NOT NULL AS anon_2
FROM unnest($1::INTEGER[], $2::UUID[], $3::TEXT[], $4::SMALLINT[], $5::SMALLINT[], $6::TEXT[], $7::TIMESTAMP WITH TIME ZONE[], $8::TIMESTAMP WITH TIME ZONE[], $9::TEXT[]) AS input_rows(ordinal, id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
LEFT OUTER JOIN LATERAL (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = input_rows.id
LIMIT ALL OFFSET 0) AS stored ON true
LEFT OUTER JOIN newly_seen ON newly_seen.id = input_rows.id;
