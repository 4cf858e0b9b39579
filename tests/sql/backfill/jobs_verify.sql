-- graphjobs.backfill.load.job_and_run_sql.JOBS.verify
--   $1 given_ordinal INTEGER[]
--   $2 given_id UUID[]
--   $3 given_tenant_id TEXT[]
--   $4 given_type SMALLINT[]
--   $5 given_status SMALLINT[]
--   $6 given_payload TEXT[]
--   $7 given_created_at TIMESTAMP WITH TIME ZONE[]
--   $8 given_updated_at TIMESTAMP WITH TIME ZONE[]
--   $9 given_correlation_id TEXT[]
--   $10 ceiling TIMESTAMP WITH TIME ZONE
PREPARE backfill_jobs_verify AS
WITH noted AS
(INSERT INTO backfill_seen_graph_jobs (id)
SELECT given.id AS id
FROM unnest($1::INTEGER[], $2::UUID[], $3::TEXT[], $4::SMALLINT[], $5::SMALLINT[], $6::TEXT[], $7::TIMESTAMP WITH TIME ZONE[], $8::TIMESTAMP WITH TIME ZONE[], $9::TEXT[]) AS given(ordinal, id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
LEFT OUTER JOIN LATERAL (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = given.id
LIMIT ALL OFFSET 0) AS there ON true
WHERE (CASE WHEN (there.id IS NULL) THEN 0 WHEN (there.id IS NOT DISTINCT
FROM given.id
AND there.tenant_id IS NOT DISTINCT
FROM given.tenant_id
AND there.type IS NOT DISTINCT
FROM given.type
AND there.status IS NOT DISTINCT
FROM given.status
AND there.payload IS NOT DISTINCT
FROM CAST(given.payload AS JSONB)
AND there.created_at IS NOT DISTINCT
FROM given.created_at
AND there.correlation_id IS NOT DISTINCT
FROM given.correlation_id) THEN 1 WHEN ((there.tenant_id = given.tenant_id
AND there.type = given.type
AND there.created_at = given.created_at) IS NOT true) THEN 5 WHEN (there.updated_at > given.updated_at) THEN 3 WHEN (there.updated_at <= $10::TIMESTAMP WITH TIME ZONE
AND there.status < 2
AND (CAST(given.payload AS JSONB) -> 'attempts') >= (there.payload -> 'attempts')
AND (there.updated_at < given.updated_at OR (CAST(given.payload AS JSONB) -> 'attempts') > (there.payload -> 'attempts') OR given.status >= 2)) THEN 2 ELSE 4 END NOT IN (5, 6))
ON CONFLICT DO NOTHING
RETURNING backfill_seen_graph_jobs.id)
SELECT given.ordinal, CASE WHEN (there.id IS NULL) THEN 0 WHEN (there.id IS NOT DISTINCT
FROM given.id
AND there.tenant_id IS NOT DISTINCT
FROM given.tenant_id
AND there.type IS NOT DISTINCT
FROM given.type
AND there.status IS NOT DISTINCT
FROM given.status
AND there.payload IS NOT DISTINCT
FROM CAST(given.payload AS JSONB)
AND there.created_at IS NOT DISTINCT
FROM given.created_at
AND there.correlation_id IS NOT DISTINCT
FROM given.correlation_id) THEN 1 WHEN ((there.tenant_id = given.tenant_id
AND there.type = given.type
AND there.created_at = given.created_at) IS NOT true) THEN 5 WHEN (there.updated_at > given.updated_at) THEN 3 WHEN (there.updated_at <= $10::TIMESTAMP WITH TIME ZONE
AND there.status < 2
AND (CAST(given.payload AS JSONB) -> 'attempts') >= (there.payload -> 'attempts')
AND (there.updated_at < given.updated_at OR (CAST(given.payload AS JSONB) -> 'attempts') > (there.payload -> 'attempts') OR given.status >= 2)) THEN 2 ELSE 4 END AS anon_1, hash_record_extended(row(given.id, given.tenant_id, given.type, given.status, CAST(given.payload AS JSONB), given.created_at, given.correlation_id), 0) AS hash_record_extended_1, noted.id IS NOT NULL AS anon_2
FROM unnest($1::INTEGER[], $2::UUID[], $3::TEXT[], $4::SMALLINT[], $5::SMALLINT[], $6::TEXT[], $7::TIMESTAMP WITH TIME ZONE[], $8::TIMESTAMP WITH TIME ZONE[], $9::TEXT[]) AS given(ordinal, id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
LEFT OUTER JOIN LATERAL (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = given.id
LIMIT ALL OFFSET 0) AS there ON true
LEFT OUTER JOIN noted ON noted.id = given.id;
