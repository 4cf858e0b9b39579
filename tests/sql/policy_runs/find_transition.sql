-- graphjobs.policy_runs.sql.single.FIND_TRANSITION
--   $1 p_job_id UUID
--   $2 p_tenant_id TEXT
--   $3 p_transition_id TEXT
PREPARE policy_runs_find_transition AS
SELECT scheduler.policy_run_events.id, CAST(scheduler.policy_run_events.payload AS TEXT) AS payload, CASE WHEN (scheduler.policy_run_events.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.policy_run_events.created_at END AS anon_1
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = $1::UUID
AND scheduler.policy_run_events.tenant_id = $2::VARCHAR
AND (scheduler.policy_run_events.payload ->> 'transitionId') = $3::VARCHAR
ORDER BY scheduler.policy_run_events.created_at DESC
LIMIT 100;
