-- graphjobs.graph_jobs.sql.single.TRANSITION_JOB
--   $1 p_status SMALLINT
--   $2 p_event_payload TEXT
--   $3 p_payload TEXT
--   $4 p_correlation_id TEXT
--   $5 p_job_id UUID
--   $6 p_tenant_id TEXT
--   $7 p_type SMALLINT
--   $8 p_expected_status SMALLINT
--   $9 p_expected_attempts INTEGER
--   $10 p_created_at TIMESTAMP WITH TIME ZONE
PREPARE graph_jobs_transition_job AS
WITH written AS
(UPDATE scheduler.graph_jobs
SET status=$1::SMALLINT, payload=CAST($3::VARCHAR AS JSONB), updated_at=greatest(now(), scheduler.graph_jobs.updated_at + interval '1 microsecond'), correlation_id=$4::VARCHAR
WHERE scheduler.graph_jobs.id = $5::UUID
AND scheduler.graph_jobs.tenant_id = ($6::VARCHAR COLLATE "C")
AND scheduler.graph_jobs.type = $7::SMALLINT
AND scheduler.graph_jobs.status = $8::SMALLINT
AND (scheduler.graph_jobs.payload -> 'attempts') = to_jsonb($9::INTEGER)
AND scheduler.graph_jobs.created_at = $10::TIMESTAMP WITH TIME ZONE
RETURNING scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.updated_at),
logged AS
(INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload, created_at)
SELECT written.id AS id, written.tenant_id AS tenant_id, $1::SMALLINT AS anon_3, CAST($2::VARCHAR AS JSONB) AS anon_4, written.updated_at AS updated_at
FROM written
RETURNING scheduler.graph_job_events.id)
SELECT CASE WHEN (written.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN written.updated_at END AS anon_1, (SELECT logged.id
FROM logged) AS anon_2
FROM written;
