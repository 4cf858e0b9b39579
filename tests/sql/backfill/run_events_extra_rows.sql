-- graphjobs.backfill.load.event_sql.RUN_EVENTS.extra_rows
--   $1 p_limit INTEGER
PREPARE backfill_run_events_extra_rows AS
SELECT scheduler.policy_run_events.id, scheduler.policy_run_events.tenant_id, 0, scheduler.policy_run_events.status
FROM scheduler.policy_run_events
WHERE NOT (EXISTS (SELECT *
FROM backfill_seen_policy_run_events
WHERE scheduler.policy_run_events.id = backfill_seen_policy_run_events.id))
LIMIT $1::INTEGER;
