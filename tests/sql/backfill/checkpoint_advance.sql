-- graphjobs.backfill.checkpoints._CHECKPOINT_ADVANCE
--   $1 p_position TEXT
--   $2 p_counts TEXT
--   $3 p_fingerprint TEXT
PREPARE backfill_checkpoint_advance AS
UPDATE scheduler.backfill_checkpoints
SET position=$1::VARCHAR, counts=$2::VARCHAR, updated_at=now()
WHERE scheduler.backfill_checkpoints.fingerprint = $3::VARCHAR
RETURNING scheduler.backfill_checkpoints.position;
