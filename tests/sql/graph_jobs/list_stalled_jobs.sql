-- graphjobs.graph_jobs.sql.acquire.LIST_STALLED_JOBS
--   $1 p_tenant_ids TEXT[]
--   $2 p_shares BIGINT[]
--   $3 p_type SMALLINT
--   $4 p_lease INTERVAL
PREPARE graph_jobs_list_stalled_jobs AS
SELECT stalled.id, stalled.tenant_id, CASE WHEN (stalled.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN stalled.updated_at END AS anon_1, CASE WHEN (jsonb_typeof(stalled.payload -> 'attempts') = 'number' AND ((stalled.payload ->> 'attempts') ~ '^[0-9]{1,5}$')) THEN CAST(stalled.payload ->> 'attempts' AS INTEGER) END AS anon_2, (SELECT count(scheduler.graph_job_events.id) AS count_1
FROM scheduler.graph_job_events
WHERE scheduler.graph_job_events.job_id = stalled.id
AND scheduler.graph_job_events.tenant_id = stalled.tenant_id
AND (scheduler.graph_job_events.payload ->> 'from') = 'running' AND scheduler.graph_job_events.status = 0
AND NOT (scheduler.graph_job_events.payload ? 'rescued')) AS anon_3
FROM unnest($1::TEXT[], $2::BIGINT[]) AS tenant_shares(tenant_id, share)
JOIN LATERAL (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.payload AS payload
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = tenant_shares.tenant_id
AND scheduler.graph_jobs.type = $3::SMALLINT
AND scheduler.graph_jobs.status = 1
AND (scheduler.graph_jobs.updated_at < now() - $4::INTERVAL OR scheduler.graph_jobs.updated_at > now() + $4::INTERVAL)
ORDER BY scheduler.graph_jobs.created_at
LIMIT tenant_shares.share
FOR NO KEY UPDATE SKIP LOCKED) AS stalled ON true;
