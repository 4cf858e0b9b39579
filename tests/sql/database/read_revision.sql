-- graphjobs.database.schema_version._READ_REVISION
PREPARE database_read_revision AS
SELECT version_num
FROM scheduler.graphjobs_schema_version;
