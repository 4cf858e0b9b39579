-- graphjobs.backfill.quarantine.store._HELD
--   $1 ids UUID[]
PREPARE backfill_held AS
SELECT scheduler.backfill_quarantine.id, scheduler.backfill_quarantine.settled_at IS NULL OR scheduler.backfill_quarantine.replaced_by IS NOT NULL AS anon_1
FROM scheduler.backfill_quarantine
WHERE scheduler.backfill_quarantine.id = any($1::UUID[]);
