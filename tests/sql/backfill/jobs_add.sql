-- graphjobs.backfill.load.job_and_run_sql.JOBS.add
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
PREPARE backfill_jobs_add AS
INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
SELECT given.id, given.tenant_id, given.type, given.status, CAST(given.payload AS JSONB) AS payload, given.created_at, least(given.updated_at, $1::TIMESTAMP WITH TIME ZONE) AS least_1, given.correlation_id
FROM unnest($2::INTEGER[], $3::UUID[], $4::TEXT[], $5::SMALLINT[], $6::SMALLINT[], $7::TEXT[], $8::TIMESTAMP WITH TIME ZONE[], $9::TIMESTAMP WITH TIME ZONE[], $10::TEXT[]) AS given(ordinal, id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
ORDER BY given.id
ON CONFLICT DO NOTHING
RETURNING scheduler.graph_jobs.id;
