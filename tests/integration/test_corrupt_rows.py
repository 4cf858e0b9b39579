"""Unreadable rows: each is reported, and does not affect the others."""

import uuid

import pytest

from graphjobs import CorruptRow, GraphJobEvent, GraphJobStatus
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.storage import Storage
from tests.builders import AT, build_job

Status = GraphJobStatus

# What SQL can do to a row of a job: an assignment, as UPDATE takes it.
_DAMAGE = {
    "no object": "payload = '[]'",
    "null": "payload = 'null'",
    "a missing field": "payload = payload - 'sbomId'",
    "an unknown field": """payload = payload || '{"extra": 1}'""",
    "attempts that are text": """payload = payload || '{"attempts": "0"}'""",
    "attempts of 1e400": """payload = payload || '{"attempts": 1e400}'""",
    "a number of 5,000 digits": "payload = jsonb_set(payload, '{attempts}', repeat('9', 5000)::jsonb)",
    "5,000 levels": "payload = jsonb_set(payload, '{metadata}', (repeat('[', 5000) || repeat(']', 5000))::jsonb)",
    "a year past 9999 in the payload": """payload = payload || '{"createdAt": "12026-01-01T00:00:00Z"}'""",
    "a status that is none": "status = 99",
    "a status its payload does not know": "status = 4",
    "a created_at past 9999": "created_at = '12026-01-01'",
    "an infinite created_at": "created_at = 'infinity'",
    "a created_at before Christ": "created_at = '0044-03-15 BC'",
    "a created_at its payload does not know": "created_at = created_at + interval '1 microsecond'",
    "a correlation id its payload does not know": "correlation_id = 'other'",
    "another tenant in the payload": """payload = payload || '{"tenantId": "other"}'""",
    "another id in the payload": """payload = payload || '{"id": "12345678-1234-5678-1234-567812345678"}'""",
}


async def _damage(storage: Storage, table: str, assignment: str, row_id: object) -> None:
    """Change a row as no code of the package does."""
    statement = f"UPDATE scheduler.{table} SET {assignment} WHERE id = $1"
    async with storage.session() as session, session.begin():
        await (await session.connection()).exec_driver_sql(statement, (row_id,))


@pytest.mark.parametrize("damage", list(_DAMAGE))
async def test_an_unreadable_job_is_reported_and_the_others_stay_readable(
    storage: Storage, jobs: GraphJobRepository, tenant: str, damage: str
) -> None:
    before, broken, after = [await jobs.insert(build_job(tenant)) for _ in range(3)]
    await _damage(storage, "graph_jobs", _DAMAGE[damage], broken.id)
    with pytest.raises(CorruptRow, match=str(broken.id)) as caught:
        await jobs.get_build_job(tenant, broken.id)
    assert ("graph_jobs", broken.id) == (caught.value.table, caught.value.row_id)
    listed = await jobs.list_build_jobs(tenant, limit=10)
    assert {before, after} == set(listed)
    assert [broken.id] == [row.row_id for row in listed.unreadable]
    assert (damage == "5,000 levels") == ("JSON must not nest deeper than 200 levels" in str(caught.value))
    assert await jobs.try_replace(broken.start(at=AT), Status.QUEUED) in (True, False)


async def test_an_update_of_a_version_after_9999_succeeds(
    storage: Storage, jobs: GraphJobRepository, tenant: str
) -> None:
    """Python cannot represent the version, which does not make the outcome unknown."""
    job = await jobs.insert(build_job(tenant))
    await _damage(storage, "graph_jobs", "updated_at = '12026-01-01'", job.id)
    assert await jobs.try_replace(job.start(at=AT), Status.QUEUED)
    found = await jobs.get_build_job(tenant, job.id)
    assert found == job.start(at=AT)
    assert found.updated_at is None


_EVENT_DAMAGE = {
    "no object": "payload = '[1]'",
    "5,000 levels": "payload = (repeat('[', 5000) || repeat(']', 5000))::jsonb",
    "a number of 5,000 digits": "payload = jsonb_build_object('a', repeat('9', 5000)::numeric)",
    "a status that is none": "status = -1",
    "a created_at past 9999": "created_at = '12026-01-01'",
}


@pytest.mark.parametrize("damage", list(_EVENT_DAMAGE))
async def test_an_unreadable_event_is_reported_and_the_rest_of_the_log_stays_readable(
    storage: Storage, jobs: GraphJobRepository, tenant: str, damage: str
) -> None:
    job = await jobs.insert(build_job(tenant))
    events = [
        await jobs.append_event(GraphJobEvent(job_id=job.id, tenant_id=tenant, status=Status.QUEUED)) for _ in range(3)
    ]
    await _damage(storage, "graph_job_events", _EVENT_DAMAGE[damage], events[1].id)
    listed = await jobs.list_events(tenant, job.id)
    assert [events[0], events[2]] == list(listed)
    assert [("graph_job_events", events[1].id)] == [(row.table, row.row_id) for row in listed.unreadable]
    assert (damage == "5,000 levels") == ("JSON must not nest deeper than 200 levels" in str(listed.unreadable[0]))


async def test_the_error_of_an_unreadable_row_has_no_value_of_its_payload(
    storage: Storage, jobs: GraphJobRepository, tenant: str
) -> None:
    """Errors are logged, and a payload may have a secret."""
    job = await jobs.insert(build_job(tenant))
    await _damage(storage, "graph_jobs", """payload = payload || '{"sbomDigest": "hunter2"}'""", job.id)
    with pytest.raises(CorruptRow) as caught:
        await jobs.get_build_job(tenant, job.id)
    assert "hunter2" not in repr(caught.value)
    assert "sbom_digest" in str(caught.value)
    assert uuid.UUID is type(caught.value.row_id)
