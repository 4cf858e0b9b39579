-- graphjobs.backfill.load.job_and_run_sql.JOBS.only_here
--   $1 limit_rows INTEGER
PREPARE backfill_jobs_only_here AS
SELECT scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.type, scheduler.graph_jobs.status
FROM scheduler.graph_jobs
WHERE NOT (EXISTS (SELECT *
FROM backfill_seen_graph_jobs
WHERE scheduler.graph_jobs.id = backfill_seen_graph_jobs.id))
LIMIT $1::INTEGER;
