-- graphjobs.backfill.quarantine.store._ANY
--   $1 collection_name TEXT
PREPARE backfill_any AS
SELECT scheduler.backfill_quarantine.id
FROM scheduler.backfill_quarantine
WHERE scheduler.backfill_quarantine.collection = $1::VARCHAR
AND scheduler.backfill_quarantine.settled_at IS NULL
LIMIT 1;
