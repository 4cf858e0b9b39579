-- graphjobs.backfill.checkpoints._CHECKPOINT_START
--   $1 p_fingerprint TEXT
--   $2 p_part TEXT
--   $3 p_collection TEXT
--   $4 p_position TEXT
--   $5 p_counts TEXT
PREPARE backfill_checkpoint_start AS
INSERT INTO scheduler.backfill_checkpoints (fingerprint, part, collection, position, counts)
VALUES ($1::VARCHAR, $2::VARCHAR, $3::VARCHAR, $4::VARCHAR, $5::VARCHAR)
ON CONFLICT (fingerprint) DO UPDATE
SET position = excluded.position, counts = excluded.counts, finished_at = NULL, created_at = now(), updated_at = now()
RETURNING scheduler.backfill_checkpoints.position;
