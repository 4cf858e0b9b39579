-- graphjobs.backfill.scans.RUNS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.policy_runs;
