-- graphjobs.graph_jobs.sql.lists.LIST_JOBS
--   $1 p_tenant_id TEXT
--   $2 p_type SMALLINT
--   $3 p_limit BIGINT
PREPARE graph_jobs_list_jobs AS
SELECT CASE WHEN NOT page.is_over THEN page.id END AS anon_1, page.tenant_id, page.type, page.status, CASE WHEN (page.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN page.created_at END AS anon_2, page.correlation_id, CASE WHEN (page.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN page.updated_at END AS anon_3, CAST(page.payload AS TEXT) AS payload
FROM (SELECT summed.id AS id, summed.tenant_id AS tenant_id, summed.type AS type, summed.status AS status, CASE WHEN NOT summed.is_over THEN summed.payload END AS payload, summed.created_at AS created_at, summed.updated_at AS updated_at, summed.correlation_id AS correlation_id, summed.is_over AS is_over, count(CASE WHEN summed.is_over THEN 1 END) OVER (ORDER BY summed.created_at DESC, summed.id DESC ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) AS "over"
FROM (SELECT as_text.id AS id, as_text.tenant_id AS tenant_id, as_text.type AS type, as_text.status AS status, as_text.payload AS payload, as_text.created_at AS created_at, as_text.updated_at AS updated_at, as_text.correlation_id AS correlation_id, sum(octet_length(as_text.payload)) OVER (ORDER BY as_text.created_at DESC, as_text.id DESC ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) > greatest(8388608, octet_length(as_text.payload)) AS is_over
FROM (SELECT limited.id AS id, limited.tenant_id AS tenant_id, limited.type AS type, limited.status AS status, CAST(limited.payload AS TEXT) AS payload, limited.created_at AS created_at, limited.updated_at AS updated_at, limited.correlation_id AS correlation_id
FROM (SELECT newest.id AS id, newest.tenant_id AS tenant_id, newest.type AS type, newest.status AS status, newest.payload AS payload, newest.created_at AS created_at, newest.updated_at AS updated_at, newest.correlation_id AS correlation_id
FROM (SELECT anon_4.id AS id, anon_4.tenant_id AS tenant_id, anon_4.type AS type, anon_4.status AS status, anon_4.payload AS payload, anon_4.created_at AS created_at, anon_4.updated_at AS updated_at, anon_4.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = 0
ORDER BY scheduler.graph_jobs.created_at DESC
FETCH FIRST ($3::BIGINT) ROWS WITH TIES) AS anon_4
UNION ALL
SELECT anon_5.id AS id, anon_5.tenant_id AS tenant_id, anon_5.type AS type, anon_5.status AS status, anon_5.payload AS payload, anon_5.created_at AS created_at, anon_5.updated_at AS updated_at, anon_5.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = 1
ORDER BY scheduler.graph_jobs.created_at DESC
FETCH FIRST ($3::BIGINT) ROWS WITH TIES) AS anon_5
UNION ALL
SELECT anon_6.id AS id, anon_6.tenant_id AS tenant_id, anon_6.type AS type, anon_6.status AS status, anon_6.payload AS payload, anon_6.created_at AS created_at, anon_6.updated_at AS updated_at, anon_6.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = 2
ORDER BY scheduler.graph_jobs.created_at DESC
FETCH FIRST ($3::BIGINT) ROWS WITH TIES) AS anon_6
UNION ALL
SELECT anon_7.id AS id, anon_7.tenant_id AS tenant_id, anon_7.type AS type, anon_7.status AS status, anon_7.payload AS payload, anon_7.created_at AS created_at, anon_7.updated_at AS updated_at, anon_7.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = 3
ORDER BY scheduler.graph_jobs.created_at DESC
FETCH FIRST ($3::BIGINT) ROWS WITH TIES) AS anon_7
UNION ALL
SELECT anon_8.id AS id, anon_8.tenant_id AS tenant_id, anon_8.type AS type, anon_8.status AS status, anon_8.payload AS payload, anon_8.created_at AS created_at, anon_8.updated_at AS updated_at, anon_8.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status = 4
ORDER BY scheduler.graph_jobs.created_at DESC
FETCH FIRST ($3::BIGINT) ROWS WITH TIES) AS anon_8
UNION ALL
SELECT anon_9.id AS id, anon_9.tenant_id AS tenant_id, anon_9.type AS type, anon_9.status AS status, anon_9.payload AS payload, anon_9.created_at AS created_at, anon_9.updated_at AS updated_at, anon_9.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status < 0
ORDER BY scheduler.graph_jobs.status, scheduler.graph_jobs.created_at DESC
FETCH FIRST ($3::BIGINT) ROWS WITH TIES) AS anon_9
UNION ALL
SELECT anon_10.id AS id, anon_10.tenant_id AS tenant_id, anon_10.type AS type, anon_10.status AS status, anon_10.payload AS payload, anon_10.created_at AS created_at, anon_10.updated_at AS updated_at, anon_10.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.type = $2::SMALLINT
AND scheduler.graph_jobs.status > 4
ORDER BY scheduler.graph_jobs.status, scheduler.graph_jobs.created_at DESC
FETCH FIRST ($3::BIGINT) ROWS WITH TIES) AS anon_10) AS newest
ORDER BY newest.created_at DESC, newest.id DESC
LIMIT $3::BIGINT) AS limited
ORDER BY limited.created_at DESC, limited.id DESC
LIMIT ALL OFFSET 0) AS as_text) AS summed) AS page
WHERE page."over" <= 1
ORDER BY page.created_at DESC, page.id DESC;
