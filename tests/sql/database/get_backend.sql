-- graphjobs.database.backends._GET_BACKEND
PREPARE database_get_backend AS
SELECT pid, backend_start, pg_postmaster_start_time() AS pg_postmaster_start_time_1, pg_is_in_recovery() AS pg_is_in_recovery_1
FROM pg_catalog.pg_stat_activity
WHERE pid = pg_backend_pid();
