-- graphjobs.backfill.quarantine.store._FOLLOW
--   $1 olds UUID[]
--   $2 news UUID[]
PREPARE backfill_follow AS
UPDATE scheduler.backfill_quarantine
SET replaced_by=places."new"
FROM unnest($1::UUID[], $2::UUID[]) AS places("old", "new")
WHERE scheduler.backfill_quarantine.replaced_by = places."old"
RETURNING scheduler.backfill_quarantine.id;
