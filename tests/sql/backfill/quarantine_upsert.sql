-- graphjobs.backfill.quarantine.store._QUARANTINE_UPSERT
--   $1 p_id UUID[]
--   $2 p_collection TEXT[]
--   $3 p_document_id UUID[]
--   $4 p_location TEXT[]
--   $5 p_field TEXT[]
--   $6 p_reason TEXT[]
--   $7 p_document TEXT[]
--   $8 p_raw BYTEA[]
--   $9 p_part_started_at TIMESTAMP WITH TIME ZONE
PREPARE backfill_quarantine_upsert AS
INSERT INTO scheduler.backfill_quarantine (id, collection, document_id, location, field, reason, document, raw)
SELECT input_rows.id, input_rows.collection, input_rows.document_id, input_rows.location, input_rows.field, input_rows.reason, input_rows.document, input_rows.raw
FROM unnest($1::UUID[], $2::TEXT[], $3::UUID[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::TEXT[], $8::BYTEA[]) AS input_rows(id, collection, document_id, location, field, reason, document, raw)
ON CONFLICT (id) DO UPDATE
SET resolved_at = CASE WHEN (scheduler.backfill_quarantine.resolved_at >= $9::TIMESTAMP WITH TIME ZONE) THEN NULL ELSE scheduler.backfill_quarantine.resolved_at END, superseded_by = CASE WHEN (scheduler.backfill_quarantine.resolved_at >= $9::TIMESTAMP WITH TIME ZONE) THEN NULL ELSE scheduler.backfill_quarantine.superseded_by END, last_seen_at = now()
RETURNING scheduler.backfill_quarantine.id, scheduler.backfill_quarantine.resolved_at IS NOT NULL
AND scheduler.backfill_quarantine.superseded_by IS NULL AS anon_1, scheduler.backfill_quarantine.created_at = now() AS anon_2;
