-- graphjobs.backfill.load.event_sql.RUN_EVENTS.lock
LOCK TABLE scheduler.policy_run_events IN SHARE ROW EXCLUSIVE MODE;
