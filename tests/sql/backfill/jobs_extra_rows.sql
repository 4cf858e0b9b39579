-- graphjobs.backfill.load.job_and_run_sql.JOBS.extra_rows
--   $1 p_limit INTEGER
PREPARE backfill_jobs_extra_rows AS
SELECT scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.type, scheduler.graph_jobs.status
FROM scheduler.graph_jobs
WHERE NOT (EXISTS (SELECT *
FROM backfill_seen_graph_jobs
WHERE scheduler.graph_jobs.id = backfill_seen_graph_jobs.id))
LIMIT $1::INTEGER;
