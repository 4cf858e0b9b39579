-- graphjobs.backfill.load.event_sql.EVENTS.verify
--   $1 p_ordinal INTEGER[]
--   $2 p_id BIGINT[]
--   $3 p_job_id UUID[]
--   $4 p_tenant_id TEXT[]
--   $5 p_status SMALLINT[]
--   $6 p_payload TEXT[]
--   $7 p_created_at TIMESTAMP WITH TIME ZONE[]
PREPARE backfill_events_verify AS
WITH compared AS MATERIALIZED
(SELECT input.ordinal AS ordinal, CASE WHEN (parent.id IS NULL) THEN 7 WHEN (stored.id IS NULL) THEN 0 WHEN stored.is_equal THEN 1 ELSE 5 END AS state, stored.id AS stored_id, input.job_id AS job_id, input.tenant_id AS tenant_id, input.status AS status, input.payload AS payload, input.created_at AS created_at
FROM (SELECT input_rows.ordinal AS ordinal, input_rows.id AS id, input_rows.job_id AS job_id, input_rows.tenant_id AS tenant_id, input_rows.status AS status, CAST(input_rows.payload AS JSONB) AS payload, input_rows.created_at AS created_at
FROM unnest($1::INTEGER[], $2::BIGINT[], $3::UUID[], $4::TEXT[], $5::SMALLINT[], $6::TEXT[], $7::TIMESTAMP WITH TIME ZONE[]) AS input_rows(ordinal, id, job_id, tenant_id, status, payload, created_at)
LIMIT ALL OFFSET 0) AS input
LEFT OUTER JOIN LATERAL (SELECT scheduler.graph_jobs.id AS id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = input.job_id
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = input.tenant_id
LIMIT ALL OFFSET 0) AS parent ON true
LEFT OUTER JOIN LATERAL (SELECT scheduler.graph_job_events.id AS id, scheduler.graph_job_events.job_id = input.job_id
AND scheduler.graph_job_events.tenant_id = input.tenant_id
AND scheduler.graph_job_events.status = input.status
AND scheduler.graph_job_events.payload = input.payload
AND scheduler.graph_job_events.created_at = input.created_at AS is_equal
FROM scheduler.graph_job_events
WHERE input.id IS NOT NULL
AND scheduler.graph_job_events.id = input.id
UNION ALL (SELECT scheduler.graph_job_events.id AS id, true AS anon_1
FROM scheduler.graph_job_events
WHERE input.id IS NULL
AND scheduler.graph_job_events.job_id = input.job_id
AND scheduler.graph_job_events.tenant_id = input.tenant_id
AND scheduler.graph_job_events.status = input.status
AND scheduler.graph_job_events.payload = input.payload
AND scheduler.graph_job_events.created_at = input.created_at
ORDER BY scheduler.graph_job_events.id
LIMIT 1)) AS stored ON true),
newly_seen AS
(INSERT INTO backfill_seen_graph_job_events (id)
SELECT DISTINCT compared.stored_id AS stored_id
FROM compared
WHERE compared.stored_id IS NOT NULL
ON CONFLICT DO NOTHING
RETURNING backfill_seen_graph_job_events.id)
SELECT compared.ordinal, compared.state, hash_record_extended(row(compared.job_id, compared.tenant_id, compared.status, compared.payload, compared.created_at), 0) AS hash_record_extended_1, compared.stored_id IS NULL OR newly_seen.id IS NOT NULL AS anon_2
FROM compared
LEFT OUTER JOIN newly_seen ON compared.stored_id = newly_seen.id;
