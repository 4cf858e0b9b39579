-- graphjobs.policy_runs.sql.lists.RUN_METRICS
--   $1 p_modes SMALLINT[]
--   $2 p_priorities SMALLINT[]
--   $3 p_tenant_id TEXT
--   $4 p_limit BIGINT
--   $5 p_all_modes SMALLINT[]
--   $6 p_window INTERVAL
--   $7 p_completed_limit BIGINT
PREPARE policy_runs_run_metrics AS
WITH depth AS
(SELECT buckets.mode AS mode, buckets.priority AS priority, count(pending.queued_at) AS pending, min(pending.queued_at) AS oldest
FROM unnest($1::SMALLINT[], $2::SMALLINT[]) AS buckets(mode, priority)
LEFT OUTER JOIN LATERAL (SELECT scheduler.policy_runs.queued_at AS queued_at
FROM scheduler.policy_runs
WHERE (scheduler.policy_runs.tenant_id COLLATE "C") = $3::VARCHAR
AND scheduler.policy_runs.status = 0
AND scheduler.policy_runs.mode = buckets.mode
AND scheduler.policy_runs.priority = buckets.priority
ORDER BY scheduler.policy_runs.queued_at
LIMIT $4::BIGINT) AS pending ON true
GROUP BY buckets.mode, buckets.priority),
latency AS
(SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY latencies.latency) AS p50, percentile_cont(0.95) WITHIN GROUP (ORDER BY latencies.latency) AS p95, percentile_cont(0.99) WITHIN GROUP (ORDER BY latencies.latency) AS p99, count(latencies.latency) AS completed
FROM (SELECT greatest(CAST(EXTRACT(epoch
FROM newest.updated_at - newest.queued_at) AS FLOAT), 0.0) AS latency
FROM unnest($5::SMALLINT[]) AS modes(mode)
JOIN LATERAL (SELECT scheduler.policy_runs.queued_at AS queued_at, scheduler.policy_runs.id AS id, scheduler.policy_runs.updated_at AS updated_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.tenant_id = $3::VARCHAR
AND scheduler.policy_runs.status = 3
AND scheduler.policy_runs.mode = modes.mode
AND scheduler.policy_runs.queued_at >= now() - $6::INTERVAL
ORDER BY scheduler.policy_runs.queued_at DESC, scheduler.policy_runs.id DESC
LIMIT $7::BIGINT) AS newest ON true
ORDER BY newest.queued_at DESC, newest.id DESC
LIMIT $7::BIGINT) AS latencies)
SELECT depth.mode, depth.priority, depth.pending, CAST(EXTRACT(epoch
FROM now() - depth.oldest) AS FLOAT) AS anon_1, latency.p50, latency.p95, latency.p99, latency.completed
FROM depth
JOIN latency ON true;
