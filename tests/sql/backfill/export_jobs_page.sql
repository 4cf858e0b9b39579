-- graphjobs.backfill.export_sql.EXPORT_JOBS.page
--   $1 p_from_id UUID
--   $2 p_limit BIGINT
PREPARE backfill_export_jobs_page AS
SELECT CASE WHEN NOT page.is_over THEN page.id END AS anon_1, page.tenant_id, page.type, page.status, CASE WHEN (page.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN page.created_at END AS anon_2, page.correlation_id, CASE WHEN (page.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN page.updated_at END AS anon_3, CAST(page.payload AS TEXT) AS payload
FROM (SELECT summed.id AS id, summed.tenant_id AS tenant_id, summed.type AS type, summed.status AS status, CASE WHEN NOT summed.is_over THEN summed.payload END AS payload, summed.created_at AS created_at, summed.updated_at AS updated_at, summed.correlation_id AS correlation_id, summed.is_over AS is_over, count(CASE WHEN summed.is_over THEN 1 END) OVER (ORDER BY summed.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) AS "over"
FROM (SELECT as_text.id AS id, as_text.tenant_id AS tenant_id, as_text.type AS type, as_text.status AS status, as_text.payload AS payload, as_text.created_at AS created_at, as_text.updated_at AS updated_at, as_text.correlation_id AS correlation_id, sum(octet_length(as_text.payload)) OVER (ORDER BY as_text.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) > greatest(8388608, octet_length(as_text.payload)) AS is_over
FROM (SELECT limited.id AS id, limited.tenant_id AS tenant_id, limited.type AS type, limited.status AS status, CAST(limited.payload AS TEXT) AS payload, limited.created_at AS created_at, limited.updated_at AS updated_at, limited.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.id >= $1::UUID
ORDER BY scheduler.graph_jobs.id
LIMIT $2::BIGINT) AS limited
ORDER BY limited.id
LIMIT ALL OFFSET 0) AS as_text) AS summed) AS page
WHERE page."over" <= 1
ORDER BY page.id;
