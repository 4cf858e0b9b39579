-- graphjobs.backfill.load.job_and_run_sql.RUNS.create_seen_table
CREATE TEMPORARY TABLE backfill_seen_policy_runs (id uuid PRIMARY KEY) ON COMMIT DROP;
