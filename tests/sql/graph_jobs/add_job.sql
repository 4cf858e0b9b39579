-- graphjobs.graph_jobs.sql.single.ADD_JOB
--   $1 target SMALLINT
--   $2 entry TEXT
--   $3 job UUID
--   $4 tenant TEXT
--   $5 kind SMALLINT
--   $6 document TEXT
--   $7 created TIMESTAMP WITH TIME ZONE
--   $8 correlation TEXT
PREPARE graph_jobs_add_job AS
WITH written AS
(INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, correlation_id)
VALUES ($3::UUID, $4::VARCHAR, $5::SMALLINT, $1::SMALLINT, CAST($6::VARCHAR AS JSONB), $7::TIMESTAMP WITH TIME ZONE, $8::VARCHAR)
ON CONFLICT (id) DO NOTHING
RETURNING scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.updated_at),
logged AS
(INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload, created_at)
SELECT written.id AS id, written.tenant_id AS tenant_id, $1::SMALLINT AS anon_3, CAST($2::VARCHAR AS JSONB) AS anon_4, written.updated_at AS updated_at
FROM written
RETURNING scheduler.graph_job_events.id)
SELECT CASE WHEN (written.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN written.updated_at END AS anon_1, (SELECT logged.id
FROM logged) AS anon_2
FROM written;
