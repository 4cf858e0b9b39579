-- graphjobs.backfill.load.event_sql.RUN_EVENTS.create_seen_table
CREATE TEMPORARY TABLE backfill_seen_policy_run_events (id bigint PRIMARY KEY) ON COMMIT DROP;
