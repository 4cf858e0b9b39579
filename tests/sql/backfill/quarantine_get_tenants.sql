-- graphjobs.backfill.quarantine.store._QUARANTINE_GET_TENANTS
--   $1 p_id UUID[]
--   $2 p_collection TEXT
PREPARE backfill_quarantine_get_tenants AS
SELECT scheduler.backfill_quarantine.id, scheduler.backfill_quarantine.field, CAST(CAST(regexp_replace(scheduler.backfill_quarantine.document, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\u0020', 'g') AS JSON) -> 'tenantId' AS TEXT) AS anon_1, CAST(CAST(regexp_replace(scheduler.backfill_quarantine.document, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\u0020', 'g') AS JSON) -> 'TenantId' AS TEXT) AS anon_2, CAST((CAST(regexp_replace(scheduler.backfill_quarantine.document, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\u0020', 'g') AS JSON) -> 'payload') -> 'tenantId' AS TEXT) AS anon_3, CAST((CAST(regexp_replace(scheduler.backfill_quarantine.document, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\u0020', 'g') AS JSON) -> 'payload') -> 'TenantId' AS TEXT) AS anon_4, CAST((CAST(regexp_replace(scheduler.backfill_quarantine.document, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\u0020', 'g') AS JSON) -> 'Payload') -> 'tenantId' AS TEXT) AS anon_5, CAST((CAST(regexp_replace(scheduler.backfill_quarantine.document, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\u0020', 'g') AS JSON) -> 'Payload') -> 'TenantId' AS TEXT) AS anon_6
FROM scheduler.backfill_quarantine
WHERE scheduler.backfill_quarantine.id = any($1::UUID[])
AND scheduler.backfill_quarantine.collection = $2::VARCHAR;
