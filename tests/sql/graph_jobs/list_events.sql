-- graphjobs.graph_jobs.sql.single.LIST_EVENTS
--   $1 p_job_id UUID
--   $2 p_tenant_id TEXT
--   $3 p_after_event_id BIGINT
--   $4 p_limit BIGINT
PREPARE graph_jobs_list_events AS
SELECT CASE WHEN NOT page.is_over THEN page.id END AS anon_1, page.job_id, page.tenant_id, page.status, CAST(page.payload AS TEXT) AS payload, CASE WHEN (page.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN page.created_at END AS anon_2
FROM (SELECT summed.id AS id, summed.job_id AS job_id, summed.tenant_id AS tenant_id, summed.status AS status, CASE WHEN NOT summed.is_over THEN summed.payload END AS payload, summed.created_at AS created_at, summed.is_over AS is_over, count(CASE WHEN summed.is_over THEN 1 END) OVER (ORDER BY summed.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) AS "over"
FROM (SELECT as_text.id AS id, as_text.job_id AS job_id, as_text.tenant_id AS tenant_id, as_text.status AS status, as_text.payload AS payload, as_text.created_at AS created_at, sum(octet_length(as_text.payload)) OVER (ORDER BY as_text.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) > greatest(8388608, octet_length(as_text.payload)) AS is_over
FROM (SELECT limited.id AS id, limited.job_id AS job_id, limited.tenant_id AS tenant_id, limited.status AS status, CAST(limited.payload AS TEXT) AS payload, limited.created_at AS created_at
FROM (SELECT page_of_log.id AS id, page_of_log.job_id AS job_id, page_of_log.tenant_id AS tenant_id, page_of_log.status AS status, page_of_log.payload AS payload, page_of_log.created_at AS created_at
FROM (SELECT scheduler.graph_job_events.id AS id, scheduler.graph_job_events.job_id AS job_id, scheduler.graph_job_events.tenant_id AS tenant_id, scheduler.graph_job_events.status AS status, scheduler.graph_job_events.payload AS payload, scheduler.graph_job_events.created_at AS created_at
FROM scheduler.graph_job_events
WHERE scheduler.graph_job_events.job_id = (SELECT scheduler.graph_jobs.id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id = $1::UUID
AND scheduler.graph_jobs.tenant_id = ($2::VARCHAR COLLATE "C"))
AND scheduler.graph_job_events.id > $3::BIGINT
ORDER BY scheduler.graph_job_events.job_id, scheduler.graph_job_events.id
LIMIT $4::BIGINT) AS page_of_log
WHERE page_of_log.tenant_id = $2::VARCHAR) AS limited
ORDER BY limited.id
LIMIT ALL OFFSET 0) AS as_text) AS summed) AS page
WHERE page."over" <= 1
ORDER BY page.id;
