-- graphjobs.graph_jobs.sql.single.REPLACE_JOB_AT_VERSION
--   $1 p_status SMALLINT
--   $2 p_payload TEXT
--   $3 p_correlation_id TEXT
--   $4 p_job_id UUID
--   $5 p_tenant_id TEXT
--   $6 p_type SMALLINT
--   $7 p_expected_status SMALLINT
--   $8 p_expected_attempts INTEGER
--   $9 p_created_at TIMESTAMP WITH TIME ZONE
--   $10 p_expected_version TIMESTAMP WITH TIME ZONE
PREPARE graph_jobs_replace_job_at_version AS
UPDATE scheduler.graph_jobs
SET status=$1::SMALLINT, payload=CAST($2::VARCHAR AS JSONB), updated_at=greatest(now(), scheduler.graph_jobs.updated_at + interval '1 microsecond'), correlation_id=$3::VARCHAR
WHERE scheduler.graph_jobs.id = $4::UUID
AND scheduler.graph_jobs.tenant_id = ($5::VARCHAR COLLATE "C")
AND scheduler.graph_jobs.type = $6::SMALLINT
AND scheduler.graph_jobs.status = $7::SMALLINT
AND (scheduler.graph_jobs.payload -> 'attempts') = to_jsonb($8::INTEGER)
AND scheduler.graph_jobs.created_at = $9::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.updated_at = $10::TIMESTAMP WITH TIME ZONE
RETURNING CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END AS anon_1;
