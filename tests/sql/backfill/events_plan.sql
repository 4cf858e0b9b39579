-- graphjobs.backfill.scans.EVENTS.plan
EXPLAIN (FORMAT JSON) SELECT FROM scheduler.graph_job_events;
