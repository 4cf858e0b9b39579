-- graphjobs.policy_runs.sql.lists.LIST_BY_TENANT
--   $1 p_statuses SMALLINT[]
--   $2 p_modes SMALLINT[]
--   $3 p_tenant_id TEXT
--   $4 p_after_queued_at TIMESTAMP WITH TIME ZONE
--   $5 p_after_id UUID
--   $6 p_queued_from TIMESTAMP WITH TIME ZONE
--   $7 p_limit BIGINT
PREPARE policy_runs_list_by_tenant AS
SELECT CASE WHEN NOT page.is_over THEN page.id END AS anon_1, page.tenant_id, page.run_id, page.policy_id, page.mode, page.priority, page.status, page.attempts, page.queued_at, page.available_at, page.last_attempt_at, page.last_error, page.submitted_at, page.completed_at, page.lease_owner, page.lease_expires_at, page.cancellation_requested_at, page.cancellation_reason, page.canceled_at, CAST(page.payload AS TEXT) AS payload, page.created_at, page.updated_at
FROM (SELECT summed.id AS id, summed.tenant_id AS tenant_id, summed.run_id AS run_id, summed.policy_id AS policy_id, summed.mode AS mode, summed.priority AS priority, summed.status AS status, summed.attempts AS attempts, summed.queued_at AS queued_at, summed.available_at AS available_at, summed.last_attempt_at AS last_attempt_at, summed.last_error AS last_error, summed.submitted_at AS submitted_at, summed.completed_at AS completed_at, summed.lease_owner AS lease_owner, summed.lease_expires_at AS lease_expires_at, summed.cancellation_requested_at AS cancellation_requested_at, summed.cancellation_reason AS cancellation_reason, summed.canceled_at AS canceled_at, CASE WHEN NOT summed.is_over THEN summed.payload END AS payload, summed.created_at AS created_at, summed.updated_at AS updated_at, summed.is_over AS is_over, count(CASE WHEN summed.is_over THEN 1 END) OVER (ORDER BY summed.queued_at DESC, summed.id DESC ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) AS "over"
FROM (SELECT as_text.id AS id, as_text.tenant_id AS tenant_id, as_text.run_id AS run_id, as_text.policy_id AS policy_id, as_text.mode AS mode, as_text.priority AS priority, as_text.status AS status, as_text.attempts AS attempts, as_text.queued_at AS queued_at, as_text.available_at AS available_at, as_text.last_attempt_at AS last_attempt_at, as_text.last_error AS last_error, as_text.submitted_at AS submitted_at, as_text.completed_at AS completed_at, as_text.lease_owner AS lease_owner, as_text.lease_expires_at AS lease_expires_at, as_text.cancellation_requested_at AS cancellation_requested_at, as_text.cancellation_reason AS cancellation_reason, as_text.canceled_at AS canceled_at, as_text.payload AS payload, as_text.created_at AS created_at, as_text.updated_at AS updated_at, sum(octet_length(as_text.payload)) OVER (ORDER BY as_text.queued_at DESC, as_text.id DESC ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) > greatest(8388608, octet_length(as_text.payload)) AS is_over
FROM (SELECT limited.id AS id, limited.tenant_id AS tenant_id, limited.run_id AS run_id, limited.policy_id AS policy_id, limited.mode AS mode, limited.priority AS priority, limited.status AS status, limited.attempts AS attempts, limited.queued_at AS queued_at, limited.available_at AS available_at, limited.last_attempt_at AS last_attempt_at, limited.last_error AS last_error, limited.submitted_at AS submitted_at, limited.completed_at AS completed_at, limited.lease_owner AS lease_owner, limited.lease_expires_at AS lease_expires_at, limited.cancellation_requested_at AS cancellation_requested_at, limited.cancellation_reason AS cancellation_reason, limited.canceled_at AS canceled_at, CAST(limited.payload AS TEXT) AS payload, limited.created_at AS created_at, limited.updated_at AS updated_at
FROM (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.tenant_id AS tenant_id, scheduler.policy_runs.run_id AS run_id, scheduler.policy_runs.policy_id AS policy_id, scheduler.policy_runs.mode AS mode, scheduler.policy_runs.priority AS priority, scheduler.policy_runs.status AS status, scheduler.policy_runs.attempts AS attempts, scheduler.policy_runs.queued_at AS queued_at, scheduler.policy_runs.available_at AS available_at, scheduler.policy_runs.last_attempt_at AS last_attempt_at, scheduler.policy_runs.last_error AS last_error, scheduler.policy_runs.submitted_at AS submitted_at, scheduler.policy_runs.completed_at AS completed_at, scheduler.policy_runs.lease_owner AS lease_owner, scheduler.policy_runs.lease_expires_at AS lease_expires_at, scheduler.policy_runs.cancellation_requested_at AS cancellation_requested_at, scheduler.policy_runs.cancellation_reason AS cancellation_reason, scheduler.policy_runs.canceled_at AS canceled_at, scheduler.policy_runs.payload AS payload, scheduler.policy_runs.created_at AS created_at, scheduler.policy_runs.updated_at AS updated_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.id = any(array((SELECT newest.id
FROM unnest($1::SMALLINT[]) AS requested_statuses(status)
JOIN unnest($2::SMALLINT[]) AS requested_modes(mode) ON true
JOIN LATERAL (SELECT scheduler.policy_runs.id AS id, scheduler.policy_runs.queued_at AS queued_at
FROM scheduler.policy_runs
WHERE scheduler.policy_runs.tenant_id = $3::VARCHAR
AND scheduler.policy_runs.status = requested_statuses.status
AND scheduler.policy_runs.mode = requested_modes.mode
AND (scheduler.policy_runs.queued_at, scheduler.policy_runs.id) < ($4::TIMESTAMP WITH TIME ZONE, $5::UUID)
AND scheduler.policy_runs.queued_at > $6::TIMESTAMP WITH TIME ZONE
ORDER BY scheduler.policy_runs.queued_at DESC, scheduler.policy_runs.id DESC
LIMIT $7::BIGINT) AS newest ON true
ORDER BY newest.queued_at DESC, newest.id DESC
LIMIT $7::BIGINT)))
AND (scheduler.policy_runs.tenant_id COLLATE "C") = $3::VARCHAR
ORDER BY scheduler.policy_runs.queued_at DESC, scheduler.policy_runs.id DESC
LIMIT $7::BIGINT) AS limited
ORDER BY limited.queued_at DESC, limited.id DESC
LIMIT ALL OFFSET 0) AS as_text) AS summed) AS page
WHERE page."over" <= 1
ORDER BY page.queued_at DESC, page.id DESC;
