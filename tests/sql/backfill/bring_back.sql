-- graphjobs.backfill.quarantine.store._BRING_BACK
--   $1 olds UUID[]
--   $2 news UUID[]
PREPARE backfill_bring_back AS
UPDATE scheduler.backfill_quarantine
SET settled_at=NULL, replaced_by=NULL
FROM unnest($1::UUID[], $2::UUID[]) AS places("old", "new")
WHERE scheduler.backfill_quarantine.id = places."new"
AND scheduler.backfill_quarantine.replaced_by = places."old"
RETURNING scheduler.backfill_quarantine.id;
