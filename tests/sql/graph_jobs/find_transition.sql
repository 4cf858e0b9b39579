-- graphjobs.graph_jobs.sql.single.FIND_TRANSITION
--   $1 p_transition_id TEXT
--   $2 p_tenant_id TEXT
--   $3 p_job_id UUID
PREPARE graph_jobs_find_transition AS
WITH server AS
(SELECT pg_is_in_recovery() AS in_recovery, pg_postmaster_start_time() AS started_at, current_setting('synchronous_standby_names') != '' AS has_standbys),
recorded AS MATERIALIZED
(SELECT scheduler.graph_job_events.id AS id, scheduler.graph_job_events.job_id AS job_id, scheduler.graph_job_events.tenant_id AS tenant_id, scheduler.graph_job_events.created_at AS created_at, scheduler.graph_job_events.payload -> 'attempts' AS attempts, scheduler.graph_job_events.payload AS payload
FROM scheduler.graph_job_events
WHERE (scheduler.graph_job_events.payload ->> 'transitionId') = $1::VARCHAR
AND length(scheduler.graph_job_events.payload ->> 'transitionId') = 36
AND scheduler.graph_job_events.tenant_id = $2::VARCHAR),
found AS
(SELECT recorded.id AS id, CAST(recorded.payload AS TEXT) AS payload, CASE WHEN (recorded.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN recorded.created_at END AS version
FROM recorded
WHERE recorded.job_id = $3::UUID
ORDER BY recorded.id DESC
LIMIT 100)
SELECT server.in_recovery, server.started_at, server.has_standbys, found.id, found.payload, found.version
FROM server
LEFT OUTER JOIN found ON true
ORDER BY found.id DESC;
