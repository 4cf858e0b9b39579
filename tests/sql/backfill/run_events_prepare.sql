-- graphjobs.backfill.load.event_sql.RUN_EVENTS.prepare
CREATE TEMPORARY TABLE backfill_seen_policy_run_events (id bigint PRIMARY KEY) ON COMMIT DROP;
