-- graphjobs.backfill.quarantine.store._QUARANTINE_REOPEN
--   $1 p_old_id UUID[]
--   $2 p_new_id UUID[]
PREPARE backfill_quarantine_reopen AS
UPDATE scheduler.backfill_quarantine
SET resolved_at=NULL, superseded_by=NULL
FROM unnest($1::UUID[], $2::UUID[]) AS pairs(old_id, new_id)
WHERE scheduler.backfill_quarantine.id = pairs.new_id
AND scheduler.backfill_quarantine.superseded_by = pairs.old_id
RETURNING scheduler.backfill_quarantine.id;
