-- graphjobs.backfill.export_sql.EXPORT_RUN_EVENTS.texts
--   $1 p_id BIGINT[]
PREPARE backfill_export_run_events_texts AS
SELECT CAST(scheduler.policy_run_events.id AS TEXT) AS id, CAST(scheduler.policy_run_events.job_id AS TEXT) AS job_id, CAST(scheduler.policy_run_events.tenant_id AS TEXT) AS tenant_id, CAST(scheduler.policy_run_events.status AS TEXT) AS status, CAST(scheduler.policy_run_events.payload AS TEXT) AS payload, CAST(scheduler.policy_run_events.created_at AS TEXT) AS created_at
FROM scheduler.policy_run_events
WHERE scheduler.policy_run_events.id = any($1::BIGINT[])
ORDER BY scheduler.policy_run_events.id;
