-- graphjobs.policy_runs.sql.single.LIST_EVENTS
--   $1 p_job_id UUID
--   $2 p_tenant_id TEXT
--   $3 p_after_event_id BIGINT
--   $4 p_limit BIGINT
PREPARE policy_runs_list_events AS
SELECT scheduler.policy_run_events.id, scheduler.policy_run_events.job_id, scheduler.policy_run_events.tenant_id, scheduler.policy_run_events.status, CAST(scheduler.policy_run_events.payload AS TEXT) AS payload, CASE WHEN (scheduler.policy_run_events.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.policy_run_events.created_at END AS anon_1
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = $1::UUID
AND scheduler.policy_run_events.tenant_id = $2::VARCHAR
AND scheduler.policy_run_events.id + 0 > $3::BIGINT
ORDER BY scheduler.policy_run_events.id + 0
LIMIT $4::BIGINT;
