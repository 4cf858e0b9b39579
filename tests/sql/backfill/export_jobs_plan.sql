-- graphjobs.backfill.export_sql.EXPORT_JOBS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.graph_jobs;
