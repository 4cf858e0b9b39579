-- graphjobs.backfill.quarantine.store._REPLACE_ENTRY
--   $1 olds UUID[]
--   $2 news UUID[]
--   $3 begun TIMESTAMP WITH TIME ZONE
PREPARE backfill_replace_entry AS
UPDATE scheduler.backfill_quarantine
SET settled_at=now(), replaced_by=places."new"
FROM unnest($1::UUID[], $2::UUID[]) AS places("old", "new"), scheduler.backfill_quarantine AS "new"
WHERE scheduler.backfill_quarantine.id = places."old"
AND scheduler.backfill_quarantine.settled_at IS NULL
AND scheduler.backfill_quarantine.seen_at < $3::TIMESTAMP WITH TIME ZONE
AND "new".id = places."new"
AND "new".settled_at IS NULL
AND scheduler.backfill_quarantine.id != "new".id
RETURNING scheduler.backfill_quarantine.id, scheduler.backfill_quarantine.replaced_by;
