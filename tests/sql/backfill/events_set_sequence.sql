-- graphjobs.backfill.load.event_sql.EVENTS.set_sequence
PREPARE backfill_events_set_sequence AS
SELECT setval(pg_get_serial_sequence('scheduler.graph_job_events', 'id'), (SELECT max(scheduler.graph_job_events.id) AS max_1
FROM scheduler.graph_job_events)) AS setval_1;
