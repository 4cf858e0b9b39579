-- graphjobs.backfill.export_sql.RUN_EVENTS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.policy_run_events;
