-- graphjobs.backfill.checkpoints._BEGIN
--   $1 source_part TEXT
--   $2 part_name TEXT
--   $3 collection_name TEXT
--   $4 reached TEXT
--   $5 figures TEXT
PREPARE backfill_begin AS
INSERT INTO scheduler.backfill_checkpoints (fingerprint, part, collection, position, counts)
VALUES ($1::VARCHAR, $2::VARCHAR, $3::VARCHAR, $4::VARCHAR, $5::VARCHAR)
ON CONFLICT (fingerprint) DO UPDATE
SET position = excluded.position, counts = excluded.counts, finished_at = NULL, created_at = now(), updated_at = now()
RETURNING scheduler.backfill_checkpoints.position;
