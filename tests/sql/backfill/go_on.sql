-- graphjobs.backfill.checkpoints._GO_ON
--   $1 reached TEXT
--   $2 figures TEXT
--   $3 source_part TEXT
PREPARE backfill_go_on AS
UPDATE scheduler.backfill_checkpoints
SET position=$1::VARCHAR, counts=$2::VARCHAR, updated_at=now()
WHERE scheduler.backfill_checkpoints.fingerprint = $3::VARCHAR
RETURNING scheduler.backfill_checkpoints.position;
