-- graphjobs.backfill.quarantine.store._SETTLE
--   $1 ids UUID[]
PREPARE backfill_settle AS
UPDATE scheduler.backfill_quarantine
SET settled_at=now()
WHERE scheduler.backfill_quarantine.id = any($1::UUID[])
AND scheduler.backfill_quarantine.settled_at IS NULL
RETURNING scheduler.backfill_quarantine.id;
