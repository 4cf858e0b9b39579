-- graphjobs.backfill.quarantine.store._QUARANTINE_RESOLVE_DOCUMENTS
--   $1 p_document_id UUID[]
--   $2 p_part_started_at TIMESTAMP WITH TIME ZONE
PREPARE backfill_quarantine_resolve_documents AS
UPDATE scheduler.backfill_quarantine
SET resolved_at=now()
WHERE scheduler.backfill_quarantine.document_id = any($1::UUID[])
AND scheduler.backfill_quarantine.resolved_at IS NULL
AND scheduler.backfill_quarantine.last_seen_at < $2::TIMESTAMP WITH TIME ZONE
RETURNING scheduler.backfill_quarantine.id;
