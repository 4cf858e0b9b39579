"""Pages, counts and the overlay lag of the store of graph jobs."""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from graphjobs import GraphJobStatus, InvalidJob
from graphjobs.core.pagination import BoundedCount
from graphjobs.core.transitions import UpdateOutcome
from graphjobs.graph_jobs import store as store_module
from graphjobs.graph_jobs.filters import GraphJobCollection, GraphJobQuery
from graphjobs.graph_jobs.status import GraphJobType
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.storage import Storage
from tests.builders import AT, build_job, overlay_job
from tests.integration.conftest import Access

Status = GraphJobStatus

_QUEUED, _RUNNING = Status.QUEUED, Status.RUNNING
_APPLIED, _CONFLICT, _NOT_FOUND, _ILLEGAL = UpdateOutcome


# Pages


async def _walked(store: GraphJobStore, tenant: str, query: GraphJobQuery) -> list[GraphJobCollection]:
    """Read all pages."""
    pages = [await store.get_jobs(tenant, query)]
    while (cursor := pages[-1].next_cursor) is not None:
        assert len(pages) < 1_000
        pages.append(await store.get_jobs(tenant, query.replace(cursor=cursor)))
    return pages


def _newest_first(jobs: Sequence[Any]) -> list[Any]:
    return sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)


async def _filled(store: GraphJobStore, tenant: str) -> list[Any]:
    """Sixty jobs of both kinds and every status, five of each time, a third of a correlation."""
    made: list[Any] = []
    for number in range(60):
        fields = {
            "created_at": AT + timedelta(minutes=number // 5),
            "correlation_id": "c" if number % 3 == 0 else None,
        }
        queued: Any = (build_job if number % 2 else overlay_job)(tenant, **fields)
        started = queued.start(at=AT)
        final = {"graph_snapshot_id": "g"} if number % 2 else {}
        made.append(
            [
                queued,
                started,
                started.complete(at=AT, **final),
                queued.fail(at=AT, error="broken"),
                queued.cancel(at=AT),
            ][number // 2 % 5]
        )
    assert len(made) == len(await store.add_many(made))
    return made


_LATER = AT + timedelta(minutes=4)
_LATEST = AT + timedelta(minutes=9)
_QUERIES: dict[str, tuple[dict[str, Any], Callable[[Any], bool]]] = {
    "all": ({}, lambda job: True),
    "builds": ({"type": GraphJobType.BUILD}, lambda job: job.type is GraphJobType.BUILD),
    "overlays by their word": ({"type": "overlay"}, lambda job: job.type is GraphJobType.OVERLAY),
    "queued": ({"statuses": "queued"}, lambda job: job.status is _QUEUED),
    "running or failed": (
        {"statuses": [_RUNNING, "failed"]},
        lambda job: job.status in (_RUNNING, Status.FAILED),
    ),
    "every status": ({"statuses": set(GraphJobStatus)}, lambda job: True),
    "builds that are over": (
        {"type": "build", "statuses": {Status.COMPLETED, Status.FAILED, Status.CANCELED}},
        lambda job: job.type is GraphJobType.BUILD and job.status.is_final,
    ),
    "a correlation": ({"correlation_id": "c"}, lambda job: job.correlation_id == "c"),
    "a correlation of nobody": ({"correlation_id": "nobody"}, lambda job: False),
    "from": ({"created_from": _LATER}, lambda job: job.created_at >= _LATER),
    "to": ({"created_to": _LATER}, lambda job: job.created_at < _LATER),
    "queued builds of a range": (
        {"type": "build", "statuses": ("queued",), "created_from": _LATER, "created_to": _LATEST},
        lambda job: job.type is GraphJobType.BUILD and job.status is _QUEUED and _LATER <= job.created_at < _LATEST,
    ),
    "a correlation of a range": (
        {"correlation_id": "c", "created_from": _LATER, "created_to": _LATEST},
        lambda job: job.correlation_id == "c" and _LATER <= job.created_at < _LATEST,
    ),
    "a moment": (
        {"created_from": _LATER, "created_to": _LATER + timedelta(microseconds=1)},
        lambda job: job.created_at == _LATER,
    ),
    "before Christ, nearly": ({"created_to": datetime(1, 1, 1, tzinfo=UTC) + timedelta(1)}, lambda job: False),
    "the last of days": ({"created_from": datetime.max.replace(tzinfo=UTC)}, lambda job: False),
    "all days": (
        {"created_from": datetime.min.replace(tzinfo=UTC), "created_to": datetime.max.replace(tzinfo=UTC)},
        lambda job: True,
    ),
}


@pytest.mark.parametrize("name", list(_QUERIES))
async def test_pages_have_each_matching_job_once_and_newest_first(store: GraphJobStore, tenant: str, name: str) -> None:
    filters, wanted = _QUERIES[name]
    expected = _newest_first([job for job in await _filled(store, tenant) if wanted(job)])
    for limit in (1, 3, 7, len(expected) or 1, 1_000):
        pages = await _walked(store, tenant, GraphJobQuery(limit=limit, **filters))
        assert expected == [job for page in pages for job in page.jobs]
        # Each page but the last is full, and the last is not empty, unless all is.
        assert [limit] * (len(pages) - 1) == [len(page.jobs) for page in pages[:-1]]
        assert len(pages) == max(1, -(-len(expected) // limit))
        assert all(page.unreadable == () for page in pages)
    counted = await store.count(tenant, GraphJobQuery(**filters))
    assert BoundedCount(len(expected)) == counted


async def test_jobs_of_one_time_are_walked_by_their_ids(store: GraphJobStore, tenant: str) -> None:
    added = await store.add_many([build_job(tenant, created_at=AT) for _ in range(100)])
    pages = await _walked(store, tenant, GraphJobQuery(limit=9))
    assert _newest_first(added) == [job for page in pages for job in page.jobs]


async def test_a_page_that_ends_with_the_jobs_has_no_next(store: GraphJobStore, tenant: str) -> None:
    await store.add_many([build_job(tenant) for _ in range(3)])
    assert (await store.get_jobs(tenant, GraphJobQuery(limit=3))).next_cursor is None
    assert (await store.get_jobs(tenant, GraphJobQuery(limit=2))).next_cursor is not None
    assert 3 == len((await store.get_jobs(tenant)).jobs)
    assert GraphJobCollection(()) == await store.get_jobs(f"{tenant}-nobody")


async def test_a_cursor_continues_with_another_limit(store: GraphJobStore, tenant: str) -> None:
    """The limit may change between pages, and statuses may be in any order."""
    added = _newest_first(await store.add_many([build_job(tenant) for _ in range(10)]))
    first = await store.get_jobs(tenant, GraphJobQuery(statuses=(_QUEUED, _RUNNING), limit=2))
    rest = await store.get_jobs(
        tenant, GraphJobQuery(statuses=(_RUNNING, _QUEUED, _QUEUED), limit=1_000, cursor=first.next_cursor)
    )
    assert (added[:2], added[2:]) == (list(first.jobs), list(rest.jobs))
    assert rest.next_cursor is None


async def test_a_cursor_of_another_tenant_or_query_is_refused(store: GraphJobStore, tenant: str) -> None:
    await store.add_many([build_job(tenant) for _ in range(3)])
    query = GraphJobQuery(statuses=(_QUEUED,), limit=1)
    cursor = (await store.get_jobs(tenant, query)).next_cursor
    assert cursor is not None
    refused = [
        (f"{tenant}-thief", query.replace(cursor=cursor)),
        *(
            (tenant, query.replace(cursor=cursor, **other))
            for other in (
                {"statuses": ()},
                {"statuses": (_QUEUED, _RUNNING)},
                {"type": "build"},
                {"created_from": AT},
                {"created_to": AT},
                {"statuses": (), "correlation_id": "c"},
            )
        ),
        *((tenant, query.replace(cursor=text)) for text in (cursor[:-1], cursor[1:], cursor[:40], f"{cursor}A", "A")),
    ]
    for tenant_id, other_query in refused:
        with pytest.raises(InvalidJob, match="cursor") as caught:
            await store.get_jobs(tenant_id, other_query)
        assert "cursor" == caught.value.field
    # Of a count it is not looked at: the query is counted as a whole.
    assert BoundedCount(3) == await store.count(tenant, query.replace(cursor=cursor))


_MID_DAMAGE = {
    "a payload that is none": "payload = '[]'",
    "a status above all": "status = 99",
    "a status below all": "status = -7",
    "a type that is none": "type = 7",
    "another tenant in the payload": """payload = payload || '{"tenantId": "other"}'""",
}


@pytest.mark.parametrize("damage", list(_MID_DAMAGE))
@pytest.mark.parametrize("limit", [1, 3, 10])
async def test_unreadable_rows_are_reported_and_the_pages_continue(
    access: Access, tenant: str, damage: str, limit: int
) -> None:
    added = _newest_first(
        await access.store.add_many([build_job(tenant, created_at=AT + timedelta(minutes=n // 2)) for n in range(12)])
    )
    broken = {job.id for job in (added[0], added[4], added[5], added[6], added[11])}
    await access.sql(f"UPDATE scheduler.graph_jobs SET {_MID_DAMAGE[damage]} WHERE id = ANY($1)", list(broken))
    pages = await _walked(access.store, tenant, GraphJobQuery(limit=limit))
    assert [job for job in added if job.id not in broken] == [job for page in pages for job in page.jobs]
    reported = [row.row_id for page in pages for row in page.unreadable]
    assert (len(broken), broken) == (len(reported), set(reported))
    assert all(limit == len(page.jobs) + len(page.unreadable) for page in pages[:-1])
    assert BoundedCount(12) == await access.store.count(tenant)


async def test_a_row_of_a_time_that_python_cannot_hold_is_on_no_page(access: Access, tenant: str) -> None:
    """The pages have the other rows only."""
    added = _newest_first(await access.store.add_many([build_job(tenant) for _ in range(5)]))
    for job, time in zip(added, ("infinity", "-infinity", "12026-01-01", "0044-03-15 BC"), strict=False):
        await access.sql(f"UPDATE scheduler.graph_jobs SET created_at = '{time}' WHERE id = $1", job.id)
    pages = await _walked(access.store, tenant, GraphJobQuery(limit=1))
    assert [added[-1:]] == [list(page.jobs) for page in pages]


async def test_pages_during_additions_have_each_earlier_job_once(storage: Storage, tenant: str) -> None:
    """With each page a job is added, the newest or the oldest: no earlier job is missing, none is there twice."""
    store, query = storage.graph_jobs, GraphJobQuery(limit=3)
    old = await store.add_many([build_job(tenant) for _ in range(100)])
    found: list[Any] = []
    oldest: set[uuid.UUID] = set()
    cursor: str | None = None
    for number in range(1_000):
        job = overlay_job(tenant) if number % 2 else build_job(tenant, created_at=AT - timedelta(seconds=number))
        page, _ = await asyncio.gather(store.get_jobs(tenant, query.replace(cursor=cursor)), store.add(job))
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            break
        oldest |= set() if number % 2 else {job.id}
    ids = [job.id for job in found]
    assert cursor is None
    assert len(oldest) > 15
    assert len(ids) == len(set(ids))
    assert {job.id for job in old} | oldest <= set(ids)
    assert found == _newest_first(found)


async def test_the_active_overlays_are_those_queued_or_running(store: GraphJobStore, tenant: str) -> None:
    made = await _filled(store, tenant)
    active = [job for job in made if job.type is GraphJobType.OVERLAY and job.status in (_QUEUED, _RUNNING)]
    assert GraphJobCollection(tuple(_newest_first(active))) == await store.get_active_overlay_jobs(tenant)


async def test_the_cursor_of_the_active_overlays_continues_the_documented_query(
    store: GraphJobStore, tenant: str
) -> None:
    """After the first thousand."""
    added = [*await store.add_many([overlay_job(tenant) for _ in range(1_000)]), await store.add(overlay_job(tenant))]
    first = await store.get_active_overlay_jobs(tenant)
    rest = await store.get_jobs(
        tenant,
        GraphJobQuery(type=GraphJobType.OVERLAY, statuses=(_QUEUED, _RUNNING), cursor=first.next_cursor),
    )
    assert _newest_first(added) == [*first.jobs, *rest.jobs]
    assert (1_000, None) == (len(first.jobs), rest.next_cursor)


# Counts and lag


async def test_a_count_is_exact_up_to_its_bound_and_says_so_beyond(access: Access, tenant: str) -> None:
    await access.sql(
        "INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, correlation_id)"
        " SELECT gen_random_uuid(), $1, n % 2, n % 5, '{}', 'c' FROM generate_series(1, 10000) n",
        tenant,
    )
    everything = GraphJobQuery()
    for query in (None, everything, GraphJobQuery(correlation_id="c"), GraphJobQuery(statuses=tuple(GraphJobStatus))):
        assert BoundedCount(10_000, exact=True) == await access.store.count(tenant, query)
    assert BoundedCount(5_000) == await access.store.count(tenant, GraphJobQuery(type="build"))  # type: ignore[arg-type]
    await access.store.add(build_job(tenant, correlation_id="c"))
    for query in (None, everything, GraphJobQuery(correlation_id="c"), GraphJobQuery(statuses=tuple(GraphJobStatus))):
        counted = await access.store.count(tenant, query)
        assert (BoundedCount(10_000, exact=False), "more than 10000") == (counted, str(counted))
    assert BoundedCount(0) == await access.store.count(f"{tenant}-nobody")


@pytest.mark.parametrize(("cap", "exact"), [(5, False), (6, True), (7, True)])
async def test_the_cap_is_where_the_count_ends(
    store: GraphJobStore, tenant: str, cap: int, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the cap it is exact, and one below the number it is not; the lag's counts end there as well."""
    monkeypatch.setattr(store_module, "COUNT_MAX", cap)
    await store.add_many([overlay_job(tenant) for _ in range(6)])
    expected = BoundedCount(min(cap, 6), exact=exact)
    assert expected == await store.count(tenant, GraphJobQuery(statuses=(_QUEUED, _RUNNING)))
    assert expected == (await store.overlay_lag(tenant, window=timedelta(days=1))).counts[_QUEUED]


async def test_the_lag_is_of_the_newest_completed_jobs(
    store: GraphJobStore, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`completed` is the number of the compared jobs, and does not bound the counts."""
    monkeypatch.setattr(store_module, "SAMPLE_MAX", 2)
    await store.add_many([overlay_job(tenant).start(at=AT).complete(at=AT) for _ in range(3)])
    lag = await store.overlay_lag(tenant, window=timedelta(days=366))
    assert (2, BoundedCount(3)) == (lag.completed, lag.counts[GraphJobStatus.COMPLETED])


async def test_a_tenant_without_overlays_has_no_lag(store: GraphJobStore, tenant: str) -> None:
    await store.add(build_job(tenant))
    lag = await store.overlay_lag(tenant, window=timedelta(days=366))
    assert {status: BoundedCount(0) for status in GraphJobStatus} == lag.counts
    assert (None, None, None, 0, timedelta(days=366)) == (
        lag.oldest_queued,
        lag.p50,
        lag.p95,
        lag.completed,
        lag.window,
    )


async def test_the_lag_is_of_the_databases_times(access: Access, tenant: str) -> None:
    """Counts by status, the oldest queued one's age, and percentiles over those created in the window only."""
    started = overlay_job(tenant).start(at=AT)
    completed = [started.complete(at=AT).replace(id=uuid.uuid4()) for _ in range(5)]
    queued = [overlay_job(tenant) for _ in range(3)]
    others: list[Any] = [started, overlay_job(tenant).cancel(at=AT), build_job(tenant)]
    await access.store.add_many([*completed, *queued, *others])
    # The last one was created before the window, and would be the slowest.
    for job, (age, seconds) in zip(
        completed, [("1 hour", 10), ("2 hours", 20), ("3 hours", 30), ("23 hours", 40), ("25 hours", 5000)], strict=True
    ):
        await access.sql(
            f"UPDATE scheduler.graph_jobs SET created_at = now() - interval '{age}',"
            f" updated_at = now() - interval '{age}' + interval '{seconds} seconds' WHERE id = $1",
            job.id,
        )
    for job, age in zip(queued, ("3 seconds", "90 minutes", "-1 hour"), strict=True):
        await access.sql(
            f"UPDATE scheduler.graph_jobs SET created_at = now() - interval '{age}' WHERE id = $1",
            job.id,
        )
    lag = await access.store.overlay_lag(tenant, window=timedelta(days=1))
    counts = {
        _QUEUED: 3,
        _RUNNING: 1,
        Status.COMPLETED: 5,
        Status.FAILED: 0,
        Status.CANCELED: 1,
    }
    assert {status: BoundedCount(count) for status, count in counts.items()} == lag.counts
    assert (4, 25.0) == (lag.completed, lag.p50)
    assert 38.5 == pytest.approx(lag.p95)
    assert lag.oldest_queued is not None
    assert 5_400 <= lag.oldest_queued < 5_460


async def test_no_age_is_less_than_nothing(access: Access, tenant: str) -> None:
    future = timedelta(hours=1)
    queued = overlay_job(tenant, created_at=datetime.now(UTC) + future)
    completed = overlay_job(tenant, created_at=datetime.now(UTC) + future).start(at=AT).complete(at=AT)
    await access.store.add_many([queued, completed])
    lag = await access.store.overlay_lag(tenant, window=timedelta(minutes=1))
    assert (0.0, 0.0, 0.0, 1) == (lag.oldest_queued, lag.p50, lag.p95, lag.completed)


@pytest.mark.parametrize("column", ["created_at", "updated_at"])
@pytest.mark.parametrize("time", ["infinity", "-infinity", "12026-01-01"])
async def test_an_invalid_time_does_not_make_the_lag_fail(access: Access, tenant: str, column: str, time: str) -> None:
    """The row is counted, and has no age."""
    jobs = [overlay_job(tenant), overlay_job(tenant).start(at=AT).complete(at=AT)]
    await access.store.add_many(jobs)
    await access.sql(f"UPDATE scheduler.graph_jobs SET {column} = '{time}' WHERE tenant_id = $1", tenant)
    lag = await access.store.overlay_lag(tenant, window=timedelta(days=1))
    assert (BoundedCount(1), BoundedCount(1), 0, None) == (
        lag.counts[_QUEUED],
        lag.counts[Status.COMPLETED],
        lag.completed,
        lag.p50,
    )
    assert (lag.oldest_queued is None) == (column == "created_at")
