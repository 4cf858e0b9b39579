-- graphjobs.backfill.export_sql.EVENTS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.graph_job_events;
