-- graphjobs.backfill.export_sql.EXPORT_EVENTS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.graph_job_events;
