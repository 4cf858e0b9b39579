-- graphjobs.backfill.quarantine.store._COUNT
PREPARE backfill_count AS
SELECT scheduler.backfill_quarantine.collection, count(*) AS count_1
FROM scheduler.backfill_quarantine
WHERE scheduler.backfill_quarantine.settled_at IS NULL
GROUP BY scheduler.backfill_quarantine.collection;
