-- graphjobs.backfill.export_sql.JOBS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.graph_jobs;
