-- graphjobs.database.executor._FIND_BACKEND
--   $1 backend INTEGER
PREPARE database_find_backend AS
SELECT 1
FROM pg_catalog.pg_stat_activity
WHERE pid = $1::INTEGER;
