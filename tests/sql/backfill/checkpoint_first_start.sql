-- graphjobs.backfill.checkpoints._CHECKPOINT_FIRST_START
PREPARE backfill_checkpoint_first_start AS
SELECT CASE WHEN (min(scheduler.backfill_checkpoints.first_started_at) BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 23:59:59.999999+00') THEN min(scheduler.backfill_checkpoints.first_started_at) END AS anon_1
FROM scheduler.backfill_checkpoints;
