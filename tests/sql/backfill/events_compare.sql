-- graphjobs.backfill.load.event_sql.EVENTS.compare
--   $1 given_ordinal INTEGER[]
--   $2 given_id BIGINT[]
--   $3 given_job_id UUID[]
--   $4 given_tenant_id TEXT[]
--   $5 given_status SMALLINT[]
--   $6 given_payload TEXT[]
--   $7 given_created_at TIMESTAMP WITH TIME ZONE[]
PREPARE backfill_events_compare AS
SELECT coming.ordinal, CASE WHEN (parent.id IS NULL) THEN 7 WHEN (entry.id IS NULL) THEN 0 WHEN entry.alike THEN 1 ELSE 5 END AS anon_1
FROM (SELECT given.ordinal AS ordinal, given.id AS id, given.job_id AS job_id, given.tenant_id AS tenant_id, given.status AS status, CAST(given.payload AS JSONB) AS payload, given.created_at AS created_at
FROM unnest($1::INTEGER[], $2::BIGINT[], $3::UUID[], $4::TEXT[], $5::SMALLINT[], $6::TEXT[], $7::TIMESTAMP WITH TIME ZONE[]) AS given(ordinal, id, job_id, tenant_id, status, payload, created_at)
LIMIT ALL OFFSET 0) AS coming
LEFT OUTER JOIN LATERAL (SELECT scheduler.graph_jobs.id AS id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = coming.job_id
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = coming.tenant_id
LIMIT ALL OFFSET 0) AS parent ON true
LEFT OUTER JOIN LATERAL (SELECT scheduler.graph_job_events.id AS id, scheduler.graph_job_events.job_id = coming.job_id
AND scheduler.graph_job_events.tenant_id = coming.tenant_id
AND scheduler.graph_job_events.status = coming.status
AND scheduler.graph_job_events.payload = coming.payload
AND scheduler.graph_job_events.created_at = coming.created_at AS alike
FROM scheduler.graph_job_events
WHERE coming.id IS NOT NULL
AND scheduler.graph_job_events.id = coming.id
UNION ALL (SELECT scheduler.graph_job_events.id AS id, true AS anon_2
FROM scheduler.graph_job_events
WHERE coming.id IS NULL
AND scheduler.graph_job_events.job_id = coming.job_id
AND scheduler.graph_job_events.tenant_id = coming.tenant_id
AND scheduler.graph_job_events.status = coming.status
AND scheduler.graph_job_events.payload = coming.payload
AND scheduler.graph_job_events.created_at = coming.created_at
ORDER BY scheduler.graph_job_events.id
LIMIT 1)) AS entry ON true;
