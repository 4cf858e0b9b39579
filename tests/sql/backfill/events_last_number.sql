-- graphjobs.backfill.load.event_sql.EVENTS.last_number
PREPARE backfill_events_last_number AS
SELECT coalesce(pg_sequence_last_value(CAST(pg_get_serial_sequence('scheduler.graph_job_events', 'id') AS REGCLASS)), 0) AS coalesce_1;
