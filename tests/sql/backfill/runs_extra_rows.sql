-- graphjobs.backfill.load.job_and_run_sql.RUNS.extra_rows
--   $1 p_limit INTEGER
PREPARE backfill_runs_extra_rows AS
SELECT scheduler.policy_runs.id, scheduler.policy_runs.tenant_id, 0, scheduler.policy_runs.status
FROM scheduler.policy_runs
WHERE NOT (EXISTS (SELECT *
FROM backfill_seen_policy_runs
WHERE scheduler.policy_runs.id = backfill_seen_policy_runs.id))
LIMIT $1::INTEGER;
