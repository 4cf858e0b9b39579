-- graphjobs.backfill.load.job_and_run_sql.JOBS.renew
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
--   $11 given_seen TIMESTAMP WITH TIME ZONE[]
--   $12 given_expected SMALLINT[]
PREPARE backfill_jobs_renew AS
UPDATE scheduler.graph_jobs
SET tenant_id=given.tenant_id, type=given.type, status=given.status, payload=CAST(given.payload AS JSONB), created_at=given.created_at, updated_at=least(given.updated_at, $1::TIMESTAMP WITH TIME ZONE), correlation_id=given.correlation_id
FROM unnest($2::INTEGER[], $3::UUID[], $4::TEXT[], $5::SMALLINT[], $6::SMALLINT[], $7::TEXT[], $8::TIMESTAMP WITH TIME ZONE[], $9::TIMESTAMP WITH TIME ZONE[], $10::TEXT[], $11::TIMESTAMP WITH TIME ZONE[], $12::SMALLINT[]) AS given(ordinal, id, tenant_id, type, status, payload, created_at, updated_at, correlation_id, seen, expected)
WHERE scheduler.graph_jobs.id = any($3::UUID[])
AND scheduler.graph_jobs.id = given.id
AND scheduler.graph_jobs.tenant_id = given.tenant_id
AND scheduler.graph_jobs.updated_at = given.seen
AND scheduler.graph_jobs.status = given.expected
RETURNING scheduler.graph_jobs.id;
