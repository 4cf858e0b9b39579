-- graphjobs.policy_runs.sql.single.LIST_EVENTS
--   $1 job UUID
--   $2 tenant TEXT
--   $3 after_event BIGINT
--   $4 limit_rows BIGINT
PREPARE policy_runs_list_events AS
SELECT scheduler.policy_run_events.id, scheduler.policy_run_events.job_id, scheduler.policy_run_events.tenant_id, scheduler.policy_run_events.status, CAST(scheduler.policy_run_events.payload AS TEXT) AS payload, CASE WHEN (scheduler.policy_run_events.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.policy_run_events.created_at END AS anon_1
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.job_id = $1::UUID
AND scheduler.policy_run_events.tenant_id = $2::VARCHAR
AND scheduler.policy_run_events.id + 0 > $3::BIGINT
ORDER BY scheduler.policy_run_events.id + 0
LIMIT $4::BIGINT;
