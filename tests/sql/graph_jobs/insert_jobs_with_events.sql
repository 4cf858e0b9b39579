-- graphjobs.graph_jobs.sql.single.INSERT_JOBS_WITH_EVENTS
--   $1 p_tenant_id TEXT
--   $2 p_job_ids UUID[]
--   $3 p_types SMALLINT[]
--   $4 p_new_statuses SMALLINT[]
--   $5 p_payloads TEXT[]
--   $6 p_created_ats TIMESTAMP WITH TIME ZONE[]
--   $7 p_correlation_ids TEXT[]
--   $8 p_event_payloads TEXT[]
PREPARE graph_jobs_insert_jobs_with_events AS
WITH written AS
(INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, correlation_id)
SELECT inputs.job_id AS job_id, CAST($1::VARCHAR AS TEXT) AS anon_1, inputs.type AS type, inputs.status AS status, CAST(inputs.payload AS JSONB) AS payload, inputs.created_at AS created_at, inputs.correlation_id AS correlation_id
FROM unnest($2::UUID[], $3::SMALLINT[], $4::SMALLINT[], $5::TEXT[], $6::TIMESTAMP WITH TIME ZONE[], $7::TEXT[], $8::TEXT[]) AS inputs(job_id, type, status, payload, created_at, correlation_id, event_payload)
ORDER BY inputs.job_id
ON CONFLICT (id) DO NOTHING
RETURNING scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.updated_at, scheduler.graph_jobs.status),
logged AS
(INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload, created_at)
SELECT written.id AS id, written.tenant_id AS tenant_id, written.status AS status, CAST(inputs.event_payload AS JSONB) AS event_payload, written.updated_at AS updated_at
FROM written
JOIN unnest($2::UUID[], $3::SMALLINT[], $4::SMALLINT[], $5::TEXT[], $6::TIMESTAMP WITH TIME ZONE[], $7::TEXT[], $8::TEXT[]) AS inputs(job_id, type, status, payload, created_at, correlation_id, event_payload) ON written.id = inputs.job_id
RETURNING scheduler.graph_job_events.id)
SELECT written.id, CASE WHEN (written.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN written.updated_at END AS anon_2
FROM written;
