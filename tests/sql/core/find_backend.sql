-- graphjobs.core.recovery._FIND_BACKEND
--   $1 p_backend_pid INTEGER
PREPARE core_find_backend AS
SELECT 1
FROM pg_catalog.pg_stat_activity
WHERE pid = $1::INTEGER;
