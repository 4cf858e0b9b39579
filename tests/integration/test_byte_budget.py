"""Lists, claims, leases and exports are bounded in bytes: at most 8 MiB of payload, or a single larger row."""

import json
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
import sqlalchemy as sa

from graphjobs.backfill.export import export
from graphjobs.core.pagination import PAGE_MAX
from graphjobs.database.sql_expressions import PAYLOAD_BYTES_MAX
from graphjobs.graph_jobs.filters import GraphJobQuery
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.graph_jobs.status import GraphJobType
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.storage import Storage
from tests.builders import build_job, policy_run

FITTING: Final = PAYLOAD_BYTES_MAX // (64 * 4_096)
"""The jobs of `metadata` that fit the budget, and one more for a smaller one."""


async def store_large_jobs(storage: Storage, tenant: str, number: int, *, key: str = "metadata") -> None:
    """Insert queued build jobs as rows stored before metadata was bounded: 64 values of 4,096 characters each."""
    job = build_job(tenant)
    entries = {f"key {number}": "x" * 4_096 for number in range(64)}
    statement = sa.text(
        """
        INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, updated_at)
        SELECT id, :p_tenant, 0, 0, CAST(:p_payload AS text)::jsonb || jsonb_build_object('id', id),
            CAST(CAST(:p_payload AS text)::jsonb ->> 'createdAt' AS timestamptz), now()
        FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, CAST(:p_number AS int))) AS ids RETURNING id
        """
    )
    payload = json.dumps({**json.loads(job.to_json()), key: entries})
    await storage.database.fetch_all(statement, {"p_tenant": tenant, "p_payload": payload, "p_number": number})


async def store_large_runs(storage: Storage, tenant: str, number: int) -> None:
    """Insert runs of nearly 64 KiB."""
    inputs = {"environment": {"text": "x" * 60_000}}
    for _ in range(number):
        await storage.policy_runs.insert(policy_run(tenant, inputs=inputs))


def size_of(values: Sequence[Any]) -> int:
    """The bytes of values as JSON."""
    return sum(len(value.to_json()) for value in values)


async def all_pages(read: Callable[[str | None], Awaitable[Any]]) -> list[Any]:
    """Read all pages of a list; each fits the budget."""
    items: list[Any] = []
    cursor = None
    while True:
        page = await read(cursor)
        assert size_of(page.items) <= PAYLOAD_BYTES_MAX + 1_000 * len(page.items)
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            return items


async def test_a_page_of_large_jobs_is_bounded_in_memory(graphjobs_storage: Storage, tenant: str) -> None:
    """1,000 of them would answer 263 MB."""
    await store_large_jobs(graphjobs_storage, tenant, PAGE_MAX)
    tracemalloc.start()
    page = await graphjobs_storage.graph_jobs.get_jobs(tenant, GraphJobQuery(limit=PAGE_MAX))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (0 < len(page.items) <= FITTING, page.unreadable) == (True, ())
    assert page.next_cursor is not None
    assert peak < 8 * PAYLOAD_BYTES_MAX
    listed = await GraphJobRepository(graphjobs_storage.database).list_build_jobs(tenant, limit=PAGE_MAX)
    assert (listed == page.items, listed.truncated) == (True, True)


async def test_the_cursor_goes_on_after_a_page_that_ended_early(graphjobs_storage: Storage, tenant: str) -> None:
    """No job and no run is left out or listed twice."""
    storage = graphjobs_storage
    await store_large_jobs(storage, tenant, 3 * FITTING)
    await store_large_runs(storage, tenant, 200)
    jobs = await all_pages(
        lambda cursor: storage.graph_jobs.get_jobs(tenant, GraphJobQuery(limit=PAGE_MAX, cursor=cursor))
    )
    runs = await all_pages(
        lambda cursor: storage.policy_runs.list(tenant, PolicyRunQuery(limit=PAGE_MAX, cursor=cursor))
    )
    assert (3 * FITTING, 200) == (len({job.id for job in jobs}), len({run.id for run in runs}))
    assert (3 * FITTING, 200) == (len(jobs), len(runs))


async def test_a_row_larger_than_the_budget_comes_alone(storage: Storage, tenant: str) -> None:
    """Also where it is unreadable."""
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(3)]
    grow = sa.text(
        "UPDATE scheduler.graph_jobs SET payload = payload || jsonb_build_object('x', repeat('x', 9000000))"
        " WHERE id = :p_id AND tenant_id = :p_tenant RETURNING id"
    )
    await storage.database.fetch_all(grow, {"p_id": jobs[1].id, "p_tenant": tenant})
    pages, cursor = [], None
    for _ in jobs:
        page = await storage.graph_jobs.get_jobs(tenant, GraphJobQuery(cursor=cursor))
        pages.append(([job.id for job in page.items], [row.row_id for row in page.unreadable]))
        cursor = page.next_cursor
    assert pages == [([jobs[2].id], []), ([], [jobs[1].id]), ([jobs[0].id], [])]
    assert cursor is None


async def test_a_log_is_read_on_after_the_last_event(storage: Storage, tenant: str) -> None:
    """`truncated` says that there is more."""
    job = await storage.graph_jobs.add(build_job(tenant))
    append = sa.text(
        "INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload)"
        " SELECT :p_id, :p_tenant, 0, jsonb_build_object('text', repeat('x', 60000)) FROM generate_series(1, 300)"
        " RETURNING id"
    )
    await storage.database.fetch_all(append, {"p_id": job.id, "p_tenant": tenant})
    number, after, truncated = 0, 0, True
    while truncated:
        events = await storage.graph_jobs.events(tenant, job.id, after=after)
        assert size_of(events) <= PAYLOAD_BYTES_MAX + 1_000 * len(events)
        number, after, truncated = number + len(events), events[-1].id or 0, events.truncated
    assert number == 301


async def test_claims_take_fewer_jobs_of_each_tenant(storage: Storage, tenant: str) -> None:
    """No tenant takes the budget of all."""
    tenants = [tenant, f"{tenant}-second"]
    for one in tenants:
        await store_large_jobs(storage, one, FITTING)
    taken: list[UUID] = []
    while len(taken) < 2 * FITTING:
        claim = await storage.graph_job_queue.claim(tenants, GraphJobType.BUILD, limit=PAGE_MAX)
        assert size_of(claim.jobs) <= PAYLOAD_BYTES_MAX
        assert claim.jobs
        if not taken:
            assert {job.tenant_id for job in claim.jobs} == set(tenants)
        taken += [job.id for job in claim.jobs]
    assert len(set(taken)) == len(taken)


@pytest.mark.parametrize("is_one_tenant", [True, False])
async def test_leases_take_fewer_runs(graphjobs_storage: Storage, tenant: str, is_one_tenant: bool) -> None:
    """All are leased in the end, and none twice."""
    await store_large_runs(graphjobs_storage, tenant, 200)
    taken: list[UUID] = []
    while len(taken) < 200:
        lease = await graphjobs_storage.policy_run_queue.lease(
            "owner",
            timedelta(minutes=5),
            attempts_max=3,
            limit=PAGE_MAX,
            tenant_id=tenant if is_one_tenant else None,
        )
        assert lease.runs
        assert size_of(lease.runs) <= PAYLOAD_BYTES_MAX + 1_000 * len(lease.runs)
        taken += [run.id for run in lease.runs]
    assert len(set(taken)) == len(taken)


async def test_an_export_reads_on_after_the_budget(graphjobs_storage: Storage, tenant: str, tmp_path: Path) -> None:
    """A short page is not the last one."""
    await store_large_jobs(graphjobs_storage, tenant, 3 * FITTING)
    report = await export(graphjobs_storage, tmp_path / "export")
    assert (report.documents["graph_jobs"], report.unreadable["graph_jobs"]) == (3 * FITTING, 0)
    assert 3 * FITTING == len((tmp_path / "export" / "graph_jobs.json").read_text().splitlines())


async def test_a_job_with_more_metadata_than_allowed_stays_usable(storage: Storage, tenant: str) -> None:
    """It can be claimed, changed and read."""
    await store_large_jobs(storage, tenant, 1)
    (job,) = (await storage.graph_job_queue.claim(tenant, GraphJobType.BUILD, limit=1)).jobs
    assert 64 == len(job.metadata)
    result = await storage.graph_jobs.update(job.renew(), expected=job.status)
    assert result.applied
    current = await storage.graph_jobs.get_job(tenant, job.id)
    assert current is not None
    assert current.metadata == job.metadata
