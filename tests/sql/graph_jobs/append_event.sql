-- graphjobs.graph_jobs.sql.single.APPEND_EVENT
--   $1 p_status SMALLINT
--   $2 p_payload TEXT
--   $3 p_created_at TIMESTAMP WITH TIME ZONE
--   $4 p_job_id UUID
--   $5 p_tenant_id TEXT
PREPARE graph_jobs_append_event AS
WITH locked_job AS MATERIALIZED
(SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = $4::UUID
AND scheduler.graph_jobs.tenant_id = ($5::VARCHAR COLLATE "C")
FOR NO KEY UPDATE)
 INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload, created_at)
SELECT locked_job.id, locked_job.tenant_id, $1::SMALLINT AS anon_1, CAST($2::VARCHAR AS JSONB) AS anon_2, $3::TIMESTAMP WITH TIME ZONE AS anon_3
FROM locked_job
RETURNING scheduler.graph_job_events.id;
