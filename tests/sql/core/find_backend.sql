-- graphjobs.core.recovery._FIND_BACKEND
--   $1 p_backend_pid INTEGER
--   $2 p_backend_start TIMESTAMP WITH TIME ZONE
PREPARE core_find_backend AS
SELECT pg_is_in_recovery() AS in_recovery, pg_postmaster_start_time() AS started_at, current_setting('synchronous_standby_names') != '' AS has_standbys, EXISTS (SELECT 1
FROM pg_catalog.pg_stat_activity
WHERE pid = $1::INTEGER
AND (backend_start IS NULL OR backend_start = $2::TIMESTAMP WITH TIME ZONE)) AS anon_1;
