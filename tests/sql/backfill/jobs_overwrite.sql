-- graphjobs.backfill.load.job_and_run_sql.JOBS.overwrite
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
--   $11 p_expected_version TIMESTAMP WITH TIME ZONE[]
--   $12 p_expected_status SMALLINT[]
PREPARE backfill_jobs_overwrite AS
UPDATE scheduler.graph_jobs
SET tenant_id=input_rows.tenant_id, type=input_rows.type, status=input_rows.status, payload=CAST(input_rows.payload AS JSONB), created_at=input_rows.created_at, updated_at=least(input_rows.updated_at, $1::TIMESTAMP WITH TIME ZONE), correlation_id=input_rows.correlation_id
FROM unnest($2::INTEGER[], $3::UUID[], $4::TEXT[], $5::SMALLINT[], $6::SMALLINT[], $7::TEXT[], $8::TIMESTAMP WITH TIME ZONE[], $9::TIMESTAMP WITH TIME ZONE[], $10::TEXT[], $11::TIMESTAMP WITH TIME ZONE[], $12::SMALLINT[]) AS input_rows(ordinal, id, tenant_id, type, status, payload, created_at, updated_at, correlation_id, expected_version, expected_status)
WHERE scheduler.graph_jobs.id = any($3::UUID[])
AND scheduler.graph_jobs.id = input_rows.id
AND scheduler.graph_jobs.tenant_id = input_rows.tenant_id
AND scheduler.graph_jobs.updated_at = input_rows.expected_version
AND scheduler.graph_jobs.status = input_rows.expected_status
RETURNING scheduler.graph_jobs.id;
