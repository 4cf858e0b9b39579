-- graphjobs.policy_runs.sql.lists.COUNT_BY_TENANT
--   $1 p_statuses SMALLINT[]
--   $2 p_modes SMALLINT[]
--   $3 p_tenant_id TEXT
--   $4 p_after_queued_at TIMESTAMP WITH TIME ZONE
--   $5 p_after_id UUID
--   $6 p_queued_from TIMESTAMP WITH TIME ZONE
--   $7 p_limit BIGINT
PREPARE policy_runs_count_by_tenant AS
SELECT count(counted.one) AS count_1
FROM (SELECT 1 AS one
FROM unnest($1::SMALLINT[]) AS requested_statuses(status)
JOIN unnest($2::SMALLINT[]) AS requested_modes(mode) ON true
JOIN LATERAL (SELECT scheduler.policy_runs.id AS id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.tenant_id = $3::VARCHAR
AND scheduler.policy_runs.status = requested_statuses.status
AND scheduler.policy_runs.mode = requested_modes.mode
AND (scheduler.policy_runs.queued_at, scheduler.policy_runs.id) < ($4::TIMESTAMP WITH TIME ZONE, $5::UUID)
AND scheduler.policy_runs.queued_at > $6::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.policy_runs.queued_at DESC, scheduler.policy_runs.id DESC
LIMIT $7::BIGINT) AS newest ON true
LIMIT $7::BIGINT) AS counted;
