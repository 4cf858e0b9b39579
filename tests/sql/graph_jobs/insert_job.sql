-- graphjobs.graph_jobs.sql.single.INSERT_JOB
--   $1 p_job_id UUID
--   $2 p_tenant_id TEXT
--   $3 p_type SMALLINT
--   $4 p_status SMALLINT
--   $5 p_payload TEXT
--   $6 p_created_at TIMESTAMP WITH TIME ZONE
--   $7 p_correlation_id TEXT
PREPARE graph_jobs_insert_job AS
INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, correlation_id)
VALUES ($1::UUID, $2::VARCHAR, $3::SMALLINT, $4::SMALLINT, CAST($5::VARCHAR AS JSONB), $6::TIMESTAMP WITH TIME ZONE, $7::VARCHAR)
ON CONFLICT (id) DO NOTHING
RETURNING CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END AS anon_1;
