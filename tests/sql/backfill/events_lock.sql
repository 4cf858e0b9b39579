-- graphjobs.backfill.load.event_sql.EVENTS.lock
LOCK TABLE scheduler.graph_job_events IN SHARE ROW EXCLUSIVE MODE;
