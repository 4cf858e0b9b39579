-- graphjobs.backfill.quarantine.store._QUARANTINE_RESOLVE_SUPERSEDED
--   $1 p_superseded_by UUID[]
PREPARE backfill_quarantine_resolve_superseded AS
UPDATE scheduler.backfill_quarantine
SET superseded_by=NULL
WHERE scheduler.backfill_quarantine.superseded_by = any($1::UUID[])
RETURNING scheduler.backfill_quarantine.id;
