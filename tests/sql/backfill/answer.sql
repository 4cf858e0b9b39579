-- graphjobs.backfill.quarantine.store._ANSWER
--   $1 ids UUID[]
--   $2 begun TIMESTAMP WITH TIME ZONE
PREPARE backfill_answer AS
UPDATE scheduler.backfill_quarantine
SET settled_at=now()
WHERE scheduler.backfill_quarantine.document_id = any($1::UUID[])
AND scheduler.backfill_quarantine.settled_at IS NULL
AND scheduler.backfill_quarantine.seen_at < $2::TIMESTAMP WITH TIME ZONE
RETURNING scheduler.backfill_quarantine.id;
