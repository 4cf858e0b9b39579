-- graphjobs.policy_runs.sql.finish.FIND_TRANSITIONED
--   $1 p_job_ids UUID[]
--   $2 p_distinct_tenant_ids TEXT[]
--   $3 p_transition_id TEXT
PREPARE policy_runs_find_transitioned AS
SELECT scheduler.policy_run_events.job_id, CASE WHEN (scheduler.policy_run_events.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.policy_run_events.created_at END AS anon_1
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = any($1::UUID[])
AND scheduler.policy_run_events.tenant_id = any($2::TEXT[])
AND (scheduler.policy_run_events.payload ->> 'transitionId') = $3::VARCHAR;
