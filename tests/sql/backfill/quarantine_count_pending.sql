-- graphjobs.backfill.quarantine.store._QUARANTINE_COUNT_PENDING
PREPARE backfill_quarantine_count_pending AS
SELECT scheduler.backfill_quarantine.collection, count(*) AS count_1
FROM scheduler.backfill_quarantine
WHERE scheduler.backfill_quarantine.resolved_at IS NULL
GROUP BY scheduler.backfill_quarantine.collection;
