-- graphjobs.backfill.checkpoints._CHECKPOINT_LOCK
PREPARE backfill_checkpoint_lock AS
SELECT pg_advisory_xact_lock(7089056601388706924) AS pg_advisory_xact_lock_1;
