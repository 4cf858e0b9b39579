-- graphjobs.backfill.quarantine.store._QUARANTINE_SUPERSEDE_ENTRIES
--   $1 p_old_id UUID[]
--   $2 p_new_id UUID[]
--   $3 p_part_started_at TIMESTAMP WITH TIME ZONE
PREPARE backfill_quarantine_supersede_entries AS
UPDATE scheduler.backfill_quarantine
SET resolved_at=now(), superseded_by=pairs.new_id
FROM unnest($1::UUID[], $2::UUID[]) AS pairs(old_id, new_id), scheduler.backfill_quarantine AS "new"
WHERE scheduler.backfill_quarantine.id = pairs.old_id
AND scheduler.backfill_quarantine.resolved_at IS NULL
AND scheduler.backfill_quarantine.last_seen_at < $3::TIMESTAMP WITH TIME ZONE
AND "new".id = pairs.new_id
AND "new".resolved_at IS NULL
AND scheduler.backfill_quarantine.id != "new".id
RETURNING scheduler.backfill_quarantine.id, scheduler.backfill_quarantine.superseded_by;
