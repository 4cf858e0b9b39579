-- graphjobs.backfill.quarantine.store._QUARANTINE_HAS_PENDING
--   $1 p_collection TEXT
PREPARE backfill_quarantine_has_pending AS
SELECT scheduler.backfill_quarantine.id
FROM scheduler.backfill_quarantine
WHERE scheduler.backfill_quarantine.collection = $1::VARCHAR
AND scheduler.backfill_quarantine.resolved_at IS NULL
LIMIT 1;
