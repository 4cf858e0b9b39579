-- graphjobs.backfill.load.event_sql.RUN_EVENTS.set_sequence
PREPARE backfill_run_events_set_sequence AS
SELECT setval(pg_get_serial_sequence('scheduler.policy_run_events', 'id'), (SELECT max(scheduler.policy_run_events.id) AS max_1
FROM scheduler.policy_run_events)) AS setval_1;
