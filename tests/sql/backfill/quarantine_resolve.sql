-- graphjobs.backfill.quarantine.store._QUARANTINE_RESOLVE
--   $1 p_id UUID[]
PREPARE backfill_quarantine_resolve AS
UPDATE scheduler.backfill_quarantine
SET resolved_at=now()
WHERE scheduler.backfill_quarantine.id = any($1::UUID[])
AND scheduler.backfill_quarantine.resolved_at IS NULL
RETURNING scheduler.backfill_quarantine.id;
