-- graphjobs.backfill.load.loader._SHORTLY
PREPARE backfill_shortly AS
SELECT set_config('lock_timeout', '200ms', true) AS set_config_1;
