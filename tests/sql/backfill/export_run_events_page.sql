-- graphjobs.backfill.export_sql.EXPORT_RUN_EVENTS.page
--   $1 p_from_id BIGINT
--   $2 p_limit BIGINT
PREPARE backfill_export_run_events_page AS
SELECT scheduler.policy_run_events.id, scheduler.policy_run_events.job_id, scheduler.policy_run_events.tenant_id, scheduler.policy_run_events.status, CAST(scheduler.policy_run_events.payload AS TEXT) AS payload, CASE WHEN (scheduler.policy_run_events.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.policy_run_events.created_at END AS anon_1
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.id >= $1::BIGINT
ORDER BY scheduler.policy_run_events.id
LIMIT $2::BIGINT;
