-- graphjobs.core.recovery._AWAIT_STANDBY
PREPARE core_await_standby AS
SELECT pg_is_in_recovery() AS in_recovery, pg_postmaster_start_time() AS started_at, current_setting('synchronous_standby_names') != '' AS has_standbys, CASE WHEN (NOT pg_is_in_recovery()
AND current_setting('synchronous_standby_names') != '') THEN pg_logical_emit_message(true, 'graphjobs', CAST('' AS TEXT)) ELSE NULL END AS anon_1;
