-- graphjobs.backfill.checkpoints._FINISH
--   $1 reached TEXT
--   $2 figures TEXT
--   $3 source_part TEXT
PREPARE backfill_finish AS
UPDATE scheduler.backfill_checkpoints
SET position=$1::VARCHAR, counts=$2::VARCHAR, finished_at=now(), updated_at=now()
WHERE scheduler.backfill_checkpoints.fingerprint = $3::VARCHAR
RETURNING scheduler.backfill_checkpoints.position;
