-- graphjobs.backfill.quarantine.store._QUARANTINE_REPOINT
--   $1 p_old_id UUID[]
--   $2 p_new_id UUID[]
PREPARE backfill_quarantine_repoint AS
UPDATE scheduler.backfill_quarantine
SET superseded_by=pairs.new_id
FROM unnest($1::UUID[], $2::UUID[]) AS pairs(old_id, new_id)
WHERE scheduler.backfill_quarantine.superseded_by = pairs.old_id
RETURNING scheduler.backfill_quarantine.id;
