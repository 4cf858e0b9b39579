-- graphjobs.backfill.quarantine.store._RELEASE
--   $1 ids UUID[]
PREPARE backfill_release AS
UPDATE scheduler.backfill_quarantine
SET replaced_by=NULL
WHERE scheduler.backfill_quarantine.replaced_by = any($1::UUID[])
RETURNING scheduler.backfill_quarantine.id;
