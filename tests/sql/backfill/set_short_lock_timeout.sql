-- graphjobs.backfill.load.loader._SET_SHORT_LOCK_TIMEOUT
PREPARE backfill_set_short_lock_timeout AS
SELECT set_config('lock_timeout', '200ms', true) AS set_config_1;
