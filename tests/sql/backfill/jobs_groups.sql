-- graphjobs.backfill.load.job_and_run_sql.JOBS.groups
PREPARE backfill_jobs_groups AS
SELECT scheduler.graph_jobs.tenant_id COLLATE "C" AS anon_1, scheduler.graph_jobs.type, scheduler.graph_jobs.status, count(*) AS count_1, CAST(sum(CAST(hash_record_extended(row(scheduler.graph_jobs.id, scheduler.graph_jobs.tenant_id, scheduler.graph_jobs.type, scheduler.graph_jobs.status, scheduler.graph_jobs.payload, scheduler.graph_jobs.created_at, scheduler.graph_jobs.correlation_id), 0) AS NUMERIC)) AS TEXT) AS sum_1
FROM scheduler.graph_jobs
GROUP BY scheduler.graph_jobs.tenant_id COLLATE "C", scheduler.graph_jobs.status, scheduler.graph_jobs.type;
