-- graphjobs.backfill.export_sql.EXPORT_EVENTS.page
--   $1 p_from_id BIGINT
--   $2 p_limit BIGINT
PREPARE backfill_export_events_page AS
SELECT scheduler.graph_job_events.id, scheduler.graph_job_events.job_id, scheduler.graph_job_events.tenant_id, scheduler.graph_job_events.status, CAST(scheduler.graph_job_events.payload AS TEXT) AS payload, CASE WHEN (scheduler.graph_job_events.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.graph_job_events.created_at END AS anon_1
FROM scheduler.graph_job_events
WHERE scheduler.graph_job_events.id >= $1::BIGINT
ORDER BY scheduler.graph_job_events.id
LIMIT $2::BIGINT;
