-- graphjobs.backfill.quarantine.store._KEEP
--   $1 ids UUID[]
--   $2 collections TEXT[]
--   $3 document_ids UUID[]
--   $4 places TEXT[]
--   $5 fields TEXT[]
--   $6 reasons TEXT[]
--   $7 documents TEXT[]
--   $8 raws BYTEA[]
--   $9 begun TIMESTAMP WITH TIME ZONE
PREPARE backfill_keep AS
INSERT INTO scheduler.backfill_quarantine (id, collection, document_id, place, field, reason, document, raw)
SELECT given.given_id, given.collection, given.document_id, given.place, given.field, given.reason, given.document, given.raw
FROM unnest($1::UUID[], $2::TEXT[], $3::UUID[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::TEXT[], $8::BYTEA[]) AS given(given_id, collection, document_id, place, field, reason, document, raw)
ON CONFLICT (id) DO UPDATE
SET settled_at = CASE WHEN (scheduler.backfill_quarantine.settled_at >= $9::TIMESTAMP WITH TIME ZONE) THEN NULL ELSE scheduler.backfill_quarantine.settled_at END, replaced_by = CASE WHEN (scheduler.backfill_quarantine.settled_at >= $9::TIMESTAMP WITH TIME ZONE) THEN NULL ELSE scheduler.backfill_quarantine.replaced_by END, seen_at = now()
RETURNING scheduler.backfill_quarantine.id, scheduler.backfill_quarantine.settled_at IS NOT NULL
AND scheduler.backfill_quarantine.replaced_by IS NULL AS anon_1, scheduler.backfill_quarantine.created_at = now() AS anon_2;
