-- graphjobs.backfill.checkpoints._CHECKPOINT_FINISH
--   $1 p_position TEXT
--   $2 p_counts TEXT
--   $3 p_fingerprint TEXT
PREPARE backfill_checkpoint_finish AS
UPDATE scheduler.backfill_checkpoints
SET position=$1::VARCHAR, counts=$2::VARCHAR, finished_at=now(), updated_at=now()
WHERE scheduler.backfill_checkpoints.fingerprint = $3::VARCHAR
RETURNING scheduler.backfill_checkpoints.position;
