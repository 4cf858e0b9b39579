-- graphjobs.backfill.checkpoints._CHECKPOINT_GET
--   $1 p_fingerprint TEXT
PREPARE backfill_checkpoint_get AS
SELECT scheduler.backfill_checkpoints.position, scheduler.backfill_checkpoints.counts, CASE WHEN (scheduler.backfill_checkpoints.created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.backfill_checkpoints.created_at END AS anon_1, CASE WHEN (scheduler.backfill_checkpoints.finished_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN scheduler.backfill_checkpoints.finished_at END AS anon_2
FROM scheduler.backfill_checkpoints
WHERE scheduler.backfill_checkpoints.fingerprint = $1::VARCHAR;
