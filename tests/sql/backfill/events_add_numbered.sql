-- graphjobs.backfill.load.event_sql.EVENTS.add_numbered
--   $1 given_ordinal INTEGER[]
--   $2 given_id BIGINT[]
--   $3 given_job_id UUID[]
--   $4 given_tenant_id TEXT[]
--   $5 given_status SMALLINT[]
--   $6 given_payload TEXT[]
--   $7 given_created_at TIMESTAMP WITH TIME ZONE[]
PREPARE backfill_events_add_numbered AS
INSERT INTO scheduler.graph_job_events (id, job_id, tenant_id, status, payload, created_at)
SELECT coming.id, coming.job_id, coming.tenant_id, coming.status, coming.payload, coming.created_at
FROM (SELECT given.ordinal AS ordinal, given.id AS id, given.job_id AS job_id, given.tenant_id AS tenant_id, given.status AS status, CAST(given.payload AS JSONB) AS payload, given.created_at AS created_at
FROM unnest($1::INTEGER[], $2::BIGINT[], $3::UUID[], $4::TEXT[], $5::SMALLINT[], $6::TEXT[], $7::TIMESTAMP WITH TIME ZONE[]) AS given(ordinal, id, job_id, tenant_id, status, payload, created_at)
LIMIT ALL OFFSET 0) AS coming
JOIN LATERAL (SELECT scheduler.graph_jobs.id AS id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = coming.job_id
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = coming.tenant_id
LIMIT ALL OFFSET 0) AS parent ON true
ORDER BY coming.id
ON CONFLICT DO NOTHING
RETURNING scheduler.graph_job_events.id;
