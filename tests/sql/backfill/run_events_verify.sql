-- graphjobs.backfill.load.event_sql.RUN_EVENTS.verify
--   $1 given_ordinal INTEGER[]
--   $2 given_id BIGINT[]
--   $3 given_job_id UUID[]
--   $4 given_tenant_id TEXT[]
--   $5 given_status SMALLINT[]
--   $6 given_payload TEXT[]
--   $7 given_created_at TIMESTAMP WITH TIME ZONE[]
PREPARE backfill_run_events_verify AS
WITH compared AS MATERIALIZED
(SELECT coming.ordinal AS ordinal, CASE WHEN (parent.id IS NULL) THEN 7 WHEN (entry.id IS NULL) THEN 0 WHEN entry.alike THEN 1 ELSE 5 END AS standing, entry.id AS entry_id, coming.job_id AS job_id, coming.tenant_id AS tenant_id, coming.status AS status, coming.payload AS payload, coming.created_at AS created_at
FROM (SELECT given.ordinal AS ordinal, given.id AS id, given.job_id AS job_id, given.tenant_id AS tenant_id, given.status AS status, CAST(given.payload AS JSONB) AS payload, given.created_at AS created_at
FROM unnest($1::INTEGER[], $2::BIGINT[], $3::UUID[], $4::TEXT[], $5::SMALLINT[], $6::TEXT[], $7::TIMESTAMP WITH TIME ZONE[]) AS given(ordinal, id, job_id, tenant_id, status, payload, created_at)
LIMIT ALL OFFSET 0) AS coming
LEFT OUTER JOIN LATERAL (SELECT scheduler.policy_runs.id AS id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = coming.job_id
AND (scheduler.policy_runs.tenant_id COLLATE "C") = coming.tenant_id
LIMIT ALL OFFSET 0) AS parent ON true
LEFT OUTER JOIN LATERAL (SELECT scheduler.policy_run_events.id AS id, scheduler.policy_run_events.job_id = coming.job_id
AND scheduler.policy_run_events.tenant_id = coming.tenant_id
AND scheduler.policy_run_events.status = coming.status
AND scheduler.policy_run_events.payload = coming.payload
AND scheduler.policy_run_events.created_at = coming.created_at AS alike
FROM scheduler.policy_run_events
WHERE coming.id IS NOT NULL
AND scheduler.policy_run_events.id = coming.id
UNION ALL (SELECT scheduler.policy_run_events.id AS id, true AS anon_1
FROM scheduler.policy_run_events
WHERE coming.id IS NULL
AND scheduler.policy_run_events.job_id = coming.job_id
AND scheduler.policy_run_events.tenant_id = coming.tenant_id
AND scheduler.policy_run_events.status = coming.status
AND scheduler.policy_run_events.payload = coming.payload
AND scheduler.policy_run_events.created_at = coming.created_at
ORDER BY scheduler.policy_run_events.id
LIMIT 1)) AS entry ON true),
noted AS
(INSERT INTO backfill_seen_policy_run_events (id)
SELECT DISTINCT compared.entry_id AS entry_id
FROM compared
WHERE compared.entry_id IS NOT NULL
ON CONFLICT DO NOTHING
RETURNING backfill_seen_policy_run_events.id)
SELECT compared.ordinal, compared.standing, hash_record_extended(row(compared.job_id, compared.tenant_id, compared.status, compared.payload, compared.created_at), 0) AS hash_record_extended_1, compared.entry_id IS NULL OR noted.id IS NOT NULL AS anon_2
FROM compared
LEFT OUTER JOIN noted ON compared.entry_id = noted.id;
