-- graphjobs.backfill.load.event_sql.EVENTS.prepare
CREATE TEMPORARY TABLE backfill_seen_graph_job_events (id bigint PRIMARY KEY) ON COMMIT DROP;
