-- graphjobs.backfill.load.event_sql.EVENTS.create_seen_table
CREATE TEMPORARY TABLE backfill_seen_graph_job_events (id bigint PRIMARY KEY) ON COMMIT DROP;
