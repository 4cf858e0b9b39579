-- graphjobs.backfill.load.event_sql.RUN_EVENTS.insert
--   $1 p_ordinal INTEGER[]
--   $2 p_id BIGINT[]
--   $3 p_job_id UUID[]
--   $4 p_tenant_id TEXT[]
--   $5 p_status SMALLINT[]
--   $6 p_payload TEXT[]
--   $7 p_created_at TIMESTAMP WITH TIME ZONE[]
PREPARE backfill_run_events_insert AS
INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload, created_at)
SELECT input.job_id, input.tenant_id, input.status, input.payload, input.created_at
FROM (SELECT input_rows.ordinal AS ordinal, input_rows.id AS id, input_rows.job_id AS job_id, input_rows.tenant_id AS tenant_id, input_rows.status AS status, CAST(input_rows.payload AS JSONB) AS payload, input_rows.created_at AS created_at
FROM unnest($1::INTEGER[], $2::BIGINT[], $3::UUID[], $4::TEXT[], $5::SMALLINT[], $6::TEXT[], $7::TIMESTAMP WITH TIME ZONE[]) AS input_rows(ordinal, id, job_id, tenant_id, status, payload, created_at)
LIMIT ALL OFFSET 0) AS input
JOIN LATERAL (SELECT scheduler.policy_runs.id AS id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = input.job_id
AND (scheduler.policy_runs.tenant_id COLLATE "C") = input.tenant_id
LIMIT ALL OFFSET 0) AS parent ON true
ORDER BY input.ordinal
RETURNING scheduler.policy_run_events.id;
