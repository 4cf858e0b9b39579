-- graphjobs.graph_jobs.sql.acquire.FIND_CLAIMED_JOBS
--   $1 p_transition_id TEXT
--   $2 p_tenant_ids TEXT[]
PREPARE graph_jobs_find_claimed_jobs AS
WITH server AS
(SELECT pg_is_in_recovery() AS in_recovery, pg_postmaster_start_time() AS started_at, current_setting('synchronous_standby_names') != '' AS has_standbys),
recorded AS MATERIALIZED
(SELECT scheduler.graph_job_events.id AS id, scheduler.graph_job_events.job_id AS job_id, scheduler.graph_job_events.tenant_id AS tenant_id, scheduler.graph_job_events.created_at AS created_at, scheduler.graph_job_events.payload -> 'attempts' AS attempts, scheduler.graph_job_events.payload AS payload
FROM scheduler.graph_job_events
WHERE (scheduler.graph_job_events.payload ->> 'transitionId') = $1::VARCHAR
AND length(scheduler.graph_job_events.payload ->> 'transitionId') = 36
AND scheduler.graph_job_events.tenant_id = any($2::TEXT[])
AND scheduler.graph_job_events.status = 1),
held AS MATERIALIZED
(SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = any(array((SELECT recorded.job_id
FROM recorded)))
AND (scheduler.graph_jobs.tenant_id COLLATE "C") = any($2::TEXT[])
AND CAST(scheduler.graph_jobs.status AS INTEGER) = 1),
found AS
(SELECT recorded.job_id AS job_id, held.id AS held_id, held.tenant_id AS held_tenant_id, held.type AS held_type, held.status AS held_status, CASE WHEN (held.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN held.created_at END AS held_created_at, held.correlation_id AS held_correlation_id, CASE WHEN (held.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN held.updated_at END AS held_updated_at, CAST(held.payload AS TEXT) AS held_payload, CAST(NULL AS TEXT[]) AS tenants_apart
FROM recorded
LEFT OUTER JOIN held ON held.id = recorded.job_id
AND held.tenant_id = recorded.tenant_id
AND coalesce(held.payload -> 'attempts', CAST('null' AS JSONB)) = recorded.attempts)
SELECT server.in_recovery, server.started_at, server.has_standbys, found.job_id, found.held_id, found.held_tenant_id, found.held_type, found.held_status, found.held_created_at, found.held_correlation_id, found.held_updated_at, found.held_payload, found.tenants_apart
FROM server
LEFT OUTER JOIN found ON true
ORDER BY found.held_created_at, found.job_id;
