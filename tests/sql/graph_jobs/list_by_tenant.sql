-- graphjobs.graph_jobs.sql.lists.LIST_BY_TENANT
--   $1 p_tenant_id TEXT
--   $2 p_statuses SMALLINT[]
--   $3 p_created_from TIMESTAMP WITH TIME ZONE
--   $4 p_after_created_at TIMESTAMP WITH TIME ZONE
--   $5 p_after_id UUID
--   $6 p_limit BIGINT
PREPARE graph_jobs_list_by_tenant AS
SELECT newest.id, newest.tenant_id, newest.type, newest.status, CASE WHEN (newest.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN newest.created_at END AS anon_1, newest.correlation_id, CASE WHEN (newest.updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN newest.updated_at END AS anon_2, CAST(newest.payload AS TEXT) AS payload
FROM (SELECT anon_3.id AS id, anon_3.tenant_id AS tenant_id, anon_3.type AS type, anon_3.status AS status, anon_3.payload AS payload, anon_3.created_at AS created_at, anon_3.updated_at AS updated_at, anon_3.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.status = 0
AND 0 = any($2::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $3::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $4::TIMESTAMP WITH TIME ZONE
AND (scheduler.graph_jobs.created_at < $4::TIMESTAMP WITH TIME ZONE OR scheduler.graph_jobs.id < $5::UUID)
ORDER BY scheduler.graph_jobs.created_at DESC
FETCH FIRST ($6::BIGINT) ROWS WITH TIES) AS anon_3
UNION ALL
SELECT anon_4.id AS id, anon_4.tenant_id AS tenant_id, anon_4.type AS type, anon_4.status AS status, anon_4.payload AS payload, anon_4.created_at AS created_at, anon_4.updated_at AS updated_at, anon_4.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.status = 1
AND 1 = any($2::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $3::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $4::TIMESTAMP WITH TIME ZONE
AND (scheduler.graph_jobs.created_at < $4::TIMESTAMP WITH TIME ZONE OR scheduler.graph_jobs.id < $5::UUID)
ORDER BY scheduler.graph_jobs.created_at DESC
FETCH FIRST ($6::BIGINT) ROWS WITH TIES) AS anon_4
UNION ALL
SELECT anon_5.id AS id, anon_5.tenant_id AS tenant_id, anon_5.type AS type, anon_5.status AS status, anon_5.payload AS payload, anon_5.created_at AS created_at, anon_5.updated_at AS updated_at, anon_5.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.status = 2
AND 2 = any($2::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $3::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $4::TIMESTAMP WITH TIME ZONE
AND (scheduler.graph_jobs.created_at < $4::TIMESTAMP WITH TIME ZONE OR scheduler.graph_jobs.id < $5::UUID)
ORDER BY scheduler.graph_jobs.created_at DESC
FETCH FIRST ($6::BIGINT) ROWS WITH TIES) AS anon_5
UNION ALL
SELECT anon_6.id AS id, anon_6.tenant_id AS tenant_id, anon_6.type AS type, anon_6.status AS status, anon_6.payload AS payload, anon_6.created_at AS created_at, anon_6.updated_at AS updated_at, anon_6.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.status = 3
AND 3 = any($2::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $3::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $4::TIMESTAMP WITH TIME ZONE
AND (scheduler.graph_jobs.created_at < $4::TIMESTAMP WITH TIME ZONE OR scheduler.graph_jobs.id < $5::UUID)
ORDER BY scheduler.graph_jobs.created_at DESC
FETCH FIRST ($6::BIGINT) ROWS WITH TIES) AS anon_6
UNION ALL
SELECT anon_7.id AS id, anon_7.tenant_id AS tenant_id, anon_7.type AS type, anon_7.status AS status, anon_7.payload AS payload, anon_7.created_at AS created_at, anon_7.updated_at AS updated_at, anon_7.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.status = 4
AND 4 = any($2::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $3::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $4::TIMESTAMP WITH TIME ZONE
AND (scheduler.graph_jobs.created_at < $4::TIMESTAMP WITH TIME ZONE OR scheduler.graph_jobs.id < $5::UUID)
ORDER BY scheduler.graph_jobs.created_at DESC
FETCH FIRST ($6::BIGINT) ROWS WITH TIES) AS anon_7
UNION ALL
SELECT anon_8.id AS id, anon_8.tenant_id AS tenant_id, anon_8.type AS type, anon_8.status AS status, anon_8.payload AS payload, anon_8.created_at AS created_at, anon_8.updated_at AS updated_at, anon_8.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.status < 0
AND -1 = any($2::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $3::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $4::TIMESTAMP WITH TIME ZONE
AND (scheduler.graph_jobs.created_at < $4::TIMESTAMP WITH TIME ZONE OR scheduler.graph_jobs.id < $5::UUID)
ORDER BY scheduler.graph_jobs.status, scheduler.graph_jobs.created_at DESC
FETCH FIRST ($6::BIGINT) ROWS WITH TIES) AS anon_8
UNION ALL
SELECT anon_9.id AS id, anon_9.tenant_id AS tenant_id, anon_9.type AS type, anon_9.status AS status, anon_9.payload AS payload, anon_9.created_at AS created_at, anon_9.updated_at AS updated_at, anon_9.correlation_id AS correlation_id
FROM (SELECT scheduler.graph_jobs.id AS id, scheduler.graph_jobs.tenant_id AS tenant_id, scheduler.graph_jobs.type AS type, scheduler.graph_jobs.status AS status, scheduler.graph_jobs.payload AS payload, scheduler.graph_jobs.created_at AS created_at, scheduler.graph_jobs.updated_at AS updated_at, scheduler.graph_jobs.correlation_id AS correlation_id
FROM scheduler.graph_jobs
WHERE scheduler.graph_jobs.tenant_id = $1::VARCHAR
AND scheduler.graph_jobs.status > 4
AND 5 = any($2::SMALLINT[])
AND scheduler.graph_jobs.created_at >= $3::TIMESTAMP WITH TIME ZONE
AND scheduler.graph_jobs.created_at <= $4::TIMESTAMP WITH TIME ZONE
AND (scheduler.graph_jobs.created_at < $4::TIMESTAMP WITH TIME ZONE OR scheduler.graph_jobs.id < $5::UUID)
ORDER BY scheduler.graph_jobs.status, scheduler.graph_jobs.created_at DESC
FETCH FIRST ($6::BIGINT) ROWS WITH TIES) AS anon_9) AS newest
ORDER BY newest.created_at DESC, newest.id DESC
LIMIT $6::BIGINT;
