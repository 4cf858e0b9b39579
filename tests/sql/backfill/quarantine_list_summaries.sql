-- graphjobs.backfill.quarantine.store._QUARANTINE_LIST_SUMMARIES
--   $1 p_collection TEXT
--   $2 p_after_id UUID
--   $3 p_limit INTEGER
PREPARE backfill_quarantine_list_summaries AS
SELECT anon_1.id, anon_1.collection, anon_1.document_id, anon_1.location, anon_1.field, anon_1.reason, anon_1.document, anon_1.raw
FROM (SELECT scheduler.backfill_quarantine.id AS id, scheduler.backfill_quarantine.collection AS collection, scheduler.backfill_quarantine.document_id AS document_id, scheduler.backfill_quarantine.location AS location, scheduler.backfill_quarantine.field AS field, scheduler.backfill_quarantine.reason AS reason, NULL AS document, NULL AS raw, sum(coalesce(octet_length(scheduler.backfill_quarantine.document), octet_length(scheduler.backfill_quarantine.raw))) OVER (ORDER BY scheduler.backfill_quarantine.id) AS total, row_number() OVER (ORDER BY scheduler.backfill_quarantine.id) AS number
FROM scheduler.backfill_quarantine
WHERE scheduler.backfill_quarantine.collection = $1::VARCHAR
AND scheduler.backfill_quarantine.resolved_at IS NULL
AND scheduler.backfill_quarantine.id > $2::UUID
ORDER BY scheduler.backfill_quarantine.id
LIMIT $3::INTEGER) AS anon_1
WHERE anon_1.number = 1 OR anon_1.total <= 4194304
ORDER BY anon_1.id;
