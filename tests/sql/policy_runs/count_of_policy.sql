-- graphjobs.policy_runs.sql.lists.COUNT_OF_POLICY
--   $1 statuses SMALLINT[]
--   $2 modes SMALLINT[]
--   $3 tenant TEXT
--   $4 policy TEXT
--   $5 after_queued TIMESTAMP WITH TIME ZONE
--   $6 after_run UUID
--   $7 earliest TIMESTAMP WITH TIME ZONE
--   $8 limit_rows BIGINT
PREPARE policy_runs_count_of_policy AS
SELECT count(found.one) AS count_1
FROM (SELECT 1 AS one
FROM unnest($1::SMALLINT[]) AS asked_status(status)
JOIN unnest($2::SMALLINT[]) AS asked_mode(mode) ON true
JOIN LATERAL (SELECT scheduler.policy_runs.id AS id
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.tenant_id = $3::VARCHAR
AND scheduler.policy_runs.policy_id = $4::VARCHAR
AND scheduler.policy_runs.status = asked_status.status
AND scheduler.policy_runs.mode = asked_mode.mode
AND (scheduler.policy_runs.queued_at, scheduler.policy_runs.id) < ($5::TIMESTAMP WITH TIME ZONE, $6::UUID)
AND scheduler.policy_runs.queued_at > $7::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.policy_runs.queued_at DESC, scheduler.policy_runs.id DESC
LIMIT $8::BIGINT) AS newest ON true
LIMIT $8::BIGINT) AS found;
