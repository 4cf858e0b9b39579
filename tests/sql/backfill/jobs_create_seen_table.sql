-- graphjobs.backfill.load.job_and_run_sql.JOBS.create_seen_table
CREATE TEMPORARY TABLE backfill_seen_graph_jobs (id uuid PRIMARY KEY) ON COMMIT DROP;
