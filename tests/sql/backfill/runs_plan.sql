-- graphjobs.backfill.export_sql.RUNS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.policy_runs;
