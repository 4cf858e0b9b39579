-- graphjobs.graph_jobs.sql.single.REPLACE_JOB
--   $1 target SMALLINT
--   $2 document TEXT
--   $3 correlation TEXT
--   $4 job UUID
--   $5 tenant TEXT
--   $6 kind SMALLINT
--   $7 expected SMALLINT
--   $8 expected_attempts INTEGER
--   $9 created TIMESTAMP WITH TIME ZONE
PREPARE graph_jobs_replace_job AS
UPDATE scheduler.graph_jobs
SET status=$1::SMALLINT, payload=CAST($2::VARCHAR AS JSONB), updated_at=greatest(now(), scheduler.graph_jobs.updated_at + interval '1 microsecond'), correlation_id=$3::VARCHAR
WHERE scheduler.graph_jobs.id = $4::UUID
AND scheduler.graph_jobs.tenant_id = ($5::VARCHAR COLLATE "C")
AND scheduler.graph_jobs.type = $6::SMALLINT
AND scheduler.graph_jobs.status = $7::SMALLINT
AND (scheduler.graph_jobs.payload -> 'attempts') = to_jsonb($8::INTEGER)
AND scheduler.graph_jobs.created_at = $9::TIMESTAMP WITH TIME ZONE
RETURNING CASE WHEN (scheduler.graph_jobs.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_jobs.updated_at END AS anon_1;
