-- graphjobs.policy_runs.sql.finish.FIND_TRANSITIONED
--   $1 p_transition_id TEXT
--   $2 p_distinct_tenant_ids TEXT[]
--   $3 p_job_ids UUID[]
PREPARE policy_runs_find_transitioned AS
WITH server AS
(SELECT pg_is_in_recovery() AS in_recovery, pg_postmaster_start_time() AS started_at, current_setting('synchronous_standby_names') != '' AS has_standbys),
recorded AS MATERIALIZED
(SELECT scheduler.policy_run_events.id AS id, scheduler.policy_run_events.job_id AS job_id, scheduler.policy_run_events.tenant_id AS tenant_id, scheduler.policy_run_events.created_at AS created_at, scheduler.policy_run_events.payload -> 'attempts' AS attempts, scheduler.policy_run_events.payload AS payload
FROM scheduler.policy_run_events
WHERE (scheduler.policy_run_events.payload ->> 'transitionId') = $1::VARCHAR
AND length(scheduler.policy_run_events.payload ->> 'transitionId') = 36
AND scheduler.policy_run_events.tenant_id = any($2::TEXT[])),
found AS
(SELECT recorded.job_id AS job_id, CASE WHEN (recorded.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN recorded.created_at END AS version
FROM recorded
WHERE recorded.job_id = any($3::UUID[]))
SELECT server.in_recovery, server.started_at, server.has_standbys, found.job_id, found.version
FROM server
LEFT OUTER JOIN found ON true;
