-- graphjobs.backfill.scans.RUN_EVENTS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.policy_run_events;
