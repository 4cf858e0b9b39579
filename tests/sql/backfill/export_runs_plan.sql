-- graphjobs.backfill.export_sql.EXPORT_RUNS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.policy_runs;
