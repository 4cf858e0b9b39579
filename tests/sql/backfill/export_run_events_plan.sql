-- graphjobs.backfill.export_sql.EXPORT_RUN_EVENTS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.policy_run_events;
