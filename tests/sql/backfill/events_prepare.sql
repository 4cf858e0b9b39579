-- graphjobs.backfill.logged.EVENTS.prepare
CREATE TEMPORARY TABLE backfill_seen_graph_job_events (id bigint PRIMARY KEY) ON COMMIT DROP;
