-- graphjobs.backfill.scans.JOBS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.graph_jobs;
