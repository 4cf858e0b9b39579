-- graphjobs.backfill.load.job_and_run_sql.JOBS.insert
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
PREPARE backfill_jobs_insert AS
INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
SELECT input_rows.id, input_rows.tenant_id, input_rows.type, input_rows.status, CAST(input_rows.payload AS JSONB) AS payload, input_rows.created_at, least(input_rows.updated_at, $1::TIMESTAMP WITH TIME ZONE) AS least_1, input_rows.correlation_id
FROM unnest($2::INTEGER[], $3::UUID[], $4::TEXT[], $5::SMALLINT[], $6::SMALLINT[], $7::TEXT[], $8::TIMESTAMP WITH TIME ZONE[], $9::TIMESTAMP WITH TIME ZONE[], $10::TEXT[]) AS input_rows(ordinal, id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
ORDER BY input_rows.id
ON CONFLICT DO NOTHING
RETURNING scheduler.graph_jobs.id;
