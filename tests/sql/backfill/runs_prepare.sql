-- graphjobs.backfill.keyed.RUNS.prepare
CREATE TEMPORARY TABLE backfill_seen_policy_runs (id uuid PRIMARY KEY) ON COMMIT DROP;
