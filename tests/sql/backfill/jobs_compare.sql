-- graphjobs.backfill.load.job_and_run_sql.JOBS.compare
--   $1 ceiling TIMESTAMP WITH TIME ZONE
--   $2 given_ordinal INTEGER[]
--   $3 given_id UUID[]
--   $4 given_tenant_id TEXT[]
--   $5 given_type SMALLINT[]
--   $6 given_status SMALLINT[]
--   $7 given_payload TEXT[]
--   $8 given_created_at TIMESTAMP WITH TIME ZONE[]
--   $9 given_updated_at TIMESTAMP WITH TIME ZONE[]
--   $10 given_correlation_id TEXT[]
PREPARE backfill_jobs_compare AS
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
AND there.created_at = given.created_at) IS NOT true) THEN 5 WHEN (there.updated_at > given.updated_at) THEN 3 WHEN (there.updated_at <= $1::TIMESTAMP WITH TIME ZONE
AND there.status < 2
AND (CAST(given.payload AS JSONB) -> 'attempts') >= (there.payload -> 'attempts')
AND (there.updated_at < given.updated_at OR (CAST(given.payload AS JSONB) -> 'attempts') > (there.payload -> 'attempts') OR given.status >= 2)) THEN 2 ELSE 4 END AS anon_1, CASE WHEN (there.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN there.updated_at END AS anon_2, there.status
FROM unnest($2::INTEGER[], $3::UUID[], $4::TEXT[], $5::SMALLINT[], $6::SMALLINT[], $7::TEXT[], $8::TIMESTAMP WITH TIME ZONE[], $9::TIMESTAMP WITH TIME ZONE[], $10::TEXT[]) AS given(ordinal, id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
LEFT OUTER JOIN LATERAL (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = given.id
LIMIT ALL OFFSET 0) AS there ON true;
