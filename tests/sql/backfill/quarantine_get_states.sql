-- graphjobs.backfill.quarantine.store._QUARANTINE_GET_STATES
--   $1 p_id UUID[]
PREPARE backfill_quarantine_get_states AS
SELECT scheduler.backfill_quarantine.id, scheduler.backfill_quarantine.resolved_at IS NULL OR scheduler.backfill_quarantine.superseded_by IS NOT NULL AS anon_1
FROM scheduler.backfill_quarantine
WHERE scheduler.backfill_quarantine.id = any($1::UUID[]);
