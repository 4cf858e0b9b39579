"""The store: the same behaviours alone, each call its own transaction, and in a caller's session."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text

from graphjobs import (
    GraphBuildJob,
    GraphJobQuery,
    GraphJobStatus,
    GraphJobStore,
    GraphJobType,
    InvalidJob,
    JobAlreadyExists,
)
from graphjobs.jobs.moves import UpdateOutcome
from graphjobs.jobs.queries import COUNT_MAX
from graphjobs.jobs.rows import AnyJob
from graphjobs.storage import Storage
from tests.builders import AT, build_job, overlay_job

QUEUED, RUNNING, COMPLETED = GraphJobStatus.QUEUED, GraphJobStatus.RUNNING, GraphJobStatus.COMPLETED


@pytest_asyncio.fixture(params=["alone", "in a session"])
async def store(request: pytest.FixtureRequest, storage: Storage) -> AsyncIterator[GraphJobStore]:
    """The store, and again inside a caller's session, which is rolled back at the end."""
    if request.param == "alone":
        yield storage.graph_jobs
        return
    async with storage.session() as session:
        yield storage.graph_jobs.using(session)


async def test_add_writes_the_job_and_its_first_event(store: GraphJobStore, tenant: str) -> None:
    """The event tells where it stands, by which transition and by whom, and its time is the job's version."""
    transition = uuid4()
    job = await store.add(build_job(tenant, correlation_id="c"), transition_id=transition, actor="me")
    (event,) = await store.events(tenant, job.id)
    assert job == await store.get_build_job(tenant, str(job.id)) == await store.get_job(tenant, job.id)
    assert await store.get_overlay_job(tenant, job.id) is None
    assert {"to": "queued", "attempts": 0, "transitionId": str(transition), "actor": "me"} == dict(event.payload)
    assert (QUEUED, job.updated_at) == (event.status, event.created_at)


async def test_a_move_is_applied_with_its_event(store: GraphJobStore, tenant: str) -> None:
    """The answer has the version and the event; each version is later than the one before."""
    job = await store.add(build_job(tenant))
    started = await store.update(job.start(at=AT), expected=QUEUED, actor="w")
    assert started.job is not None
    failed = await store.update(started.job.fail(at=AT, error="no\tway"), expected=RUNNING)
    events = await store.events(tenant, job.id)
    now = await store.get_build_job(tenant, job.id)

    assert (UpdateOutcome.APPLIED, True, "") == (started.outcome, started.applied, started.reason)
    assert failed.job == now
    assert now is not None
    assert failed.job is not None
    assert failed.job.updated_at == now.updated_at == events[2].created_at
    assert [started.event_id, failed.event_id] == [event.id for event in events[1:]]
    told = [{key: value for key, value in event.payload.items() if key != "digest"} for event in events[1:]]
    assert [
        {"from": "queued", "to": "running", "attempts": 1, "transitionId": str(started.transition_id), "actor": "w"},
        {
            "from": "running",
            "to": "failed",
            "attempts": 1,
            "transitionId": str(failed.transition_id),
            "error": "no\tway",
        },
    ] == told
    times = [event.created_at for event in events]
    assert sorted(set(times)) == times


async def test_a_lost_move_is_a_conflict_and_writes_no_event(store: GraphJobStore, tenant: str) -> None:
    """It is told with the job as a later look found it."""
    job = await store.add(overlay_job(tenant))
    won = await store.update(job.start(at=AT), expected=QUEUED)
    lost = await store.update(job.cancel(at=AT), expected=QUEUED)
    assert (UpdateOutcome.CONFLICT, won.job, None) == (lost.outcome, lost.job, lost.event_id)
    assert "running at attempts 1" in lost.reason
    assert 2 == len(await store.events(tenant, job.id))


async def test_a_worker_that_lost_its_job_cannot_end_it(store: GraphJobStore, tenant: str) -> None:
    """The attempts are compared, not the status alone."""
    first = (await store.update((await store.add(build_job(tenant))).start(at=AT), expected=QUEUED)).job
    assert first is not None
    back = (await store.update(first.requeue(at=AT), expected=RUNNING)).job
    assert back is not None
    assert (await store.update(back.start(at=AT), expected=QUEUED)).applied
    late = await store.update(first.complete(at=AT, graph_snapshot_id="g"), expected=RUNNING)
    assert UpdateOutcome.CONFLICT is late.outcome


async def test_what_is_not_there_is_not_found(store: GraphJobStore, tenant: str) -> None:
    """Nobody's, another tenant's, and one of the other kind."""
    job = await store.add(build_job(tenant))
    strange: list[AnyJob] = [build_job(tenant), build_job(f"{tenant}-2", id=job.id), overlay_job(tenant, id=job.id)]
    for other in strange:
        answer = await store.update(other.start(at=AT), expected=QUEUED)
        assert (UpdateOutcome.NOT_FOUND, None) == (answer.outcome, answer.job)
    assert 1 == len(await store.events(tenant, job.id))


async def test_an_illegal_move_is_told_and_never_asked_of_the_database(store: GraphJobStore, tenant: str) -> None:
    """The transition table says what may be."""
    ended = (await store.add(build_job(tenant))).cancel(at=AT)
    answer = await store.update(ended, expected=COMPLETED)
    assert (UpdateOutcome.ILLEGAL, None) == (answer.outcome, answer.job)
    assert "completed is final" in answer.reason


async def test_the_same_move_asked_again_answers_the_same(store: GraphJobStore, tenant: str) -> None:
    """Also when the job has moved on; another move under its id is refused."""
    job = await store.add(build_job(tenant))
    move, transition = job.start(at=AT), uuid4()
    first = await store.update(move, expected=QUEUED, transition_id=transition)
    assert first.job is not None
    done = await store.update(first.job.complete(at=AT, graph_snapshot_id="g"), expected=RUNNING)
    again = await store.update(move, expected=QUEUED, transition_id=transition)
    assert first == again
    assert again.job is not None
    assert first.job.updated_at == again.job.updated_at
    for other in (job.start(at=AT + timedelta(seconds=1)), job.cancel(at=AT)):
        with pytest.raises(InvalidJob, match="names another move") as caught:
            await store.update(other, expected=QUEUED, transition_id=transition)
        assert "transition_id" == caught.value.field
    assert done.job == await store.get_build_job(tenant, job.id)
    assert 3 == len(await store.events(tenant, job.id))


async def test_the_same_addition_asked_again_gives_the_job_as_it_is(store: GraphJobStore, tenant: str) -> None:
    """Under another transition id, or for another tenant, the id is taken; a session stays usable."""
    job, transition = build_job(tenant), uuid4()
    await store.add(job, transition_id=transition)
    now = (await store.update(job.start(at=AT), expected=QUEUED)).job
    assert now == await store.add(job, transition_id=transition)
    for other in (job, build_job(f"{tenant}-2", id=job.id)):
        with pytest.raises(JobAlreadyExists):
            await store.add(other)
    with pytest.raises(JobAlreadyExists):
        await store.add(build_job(f"{tenant}-2", id=job.id), transition_id=transition)
    assert 2 == len(await store.events(tenant, job.id))


async def test_a_move_that_keeps_the_status_compares_the_version(store: GraphJobStore, tenant: str) -> None:
    """Of two edits of one version one is lost; a value that was never stored has none to compare."""
    job = await store.add(build_job(tenant))
    assert (await store.update(job.edit(correlation_id="a"), expected=QUEUED)).applied
    second = await store.update(job.edit(correlation_id="b"), expected=QUEUED)
    assert UpdateOutcome.CONFLICT is second.outcome
    assert second.job is not None
    assert "a" == second.job.correlation_id
    with pytest.raises(InvalidJob, match="updated_at"):
        await store.update(build_job(tenant).edit(), expected=QUEUED)


async def test_seen_makes_any_move_compare_the_version(store: GraphJobStore, tenant: str) -> None:
    """So progress that was noted in between is not overwritten."""
    job = await store.add(build_job(tenant))
    running = (await store.update(job.start(at=AT), expected=QUEUED)).job
    assert running is not None
    noted = (await store.update(running.renew(metadata={"a": "b"}), expected=RUNNING)).job
    assert noted is not None
    stale = await store.update(
        running.complete(at=AT, graph_snapshot_id="g"), expected=RUNNING, seen=running.updated_at
    )
    fresh = await store.update(noted.complete(at=AT, graph_snapshot_id="g"), expected=RUNNING, seen=noted.updated_at)
    assert (UpdateOutcome.CONFLICT, UpdateOutcome.APPLIED) == (stale.outcome, fresh.outcome)
    with pytest.raises(InvalidJob, match="seen"):
        await store.update(job.cancel(at=AT), expected=QUEUED, seen=AT.replace(tzinfo=None))


async def test_add_many_adds_in_one_statement_and_leaves_out_what_is_there(store: GraphJobStore, tenant: str) -> None:
    """In the order given, with versions and first events."""
    there = await store.add(build_job(tenant))
    given: list[AnyJob] = [build_job(tenant), overlay_job(tenant), there, build_job(tenant)]
    added = await store.add_many(given, actor="bulk")
    assert [given[0], given[1], given[3]] == list(added)
    assert () == await store.add_many(given)
    assert () == await store.add_many([])
    for job in added:
        (event,) = await store.events(tenant, job.id)
        assert (job.updated_at, "bulk") == (event.created_at, event.payload["actor"])
        assert job == await store.get_job(tenant, job.id)


async def test_add_many_says_what_cannot_be(store: GraphJobStore, tenant: str) -> None:
    """Too many, of two tenants, one twice, and no job at all; nothing is added then."""
    job = build_job(tenant)
    bad: list[list[AnyJob]] = [
        [build_job(tenant) for _ in range(1_001)],
        [job, build_job(f"{tenant}-2")],
        [job, job],
    ]
    for jobs in bad:
        with pytest.raises(InvalidJob, match="jobs: "):
            await store.add_many(jobs)
    with pytest.raises(InvalidJob, match="job: "):
        await store.add_many(["no job"])  # type: ignore[list-item]
    assert await store.get_job(tenant, job.id) is None


async def _some(store: GraphJobStore, tenant: str) -> list[AnyJob]:
    """Jobs of both kinds, all statuses and some correlations, three to each time; newest first."""
    jobs: list[AnyJob] = []
    for number in range(40):
        at = AT + timedelta(seconds=number // 3)
        fields = {"created_at": at, "correlation_id": f"c{number % 4}" if number % 4 else None}
        job: AnyJob = build_job(tenant, **fields) if number % 3 else overlay_job(tenant, **fields)
        steps: list[AnyJob] = [job, job.start(at=AT), job.start(at=AT).fail(at=AT, error="x"), job.cancel(at=AT)]
        jobs.append(steps[number % 5 % 4])
    await store.add_many(jobs)
    return sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)


async def _walk(store: GraphJobStore, tenant: str, query: GraphJobQuery) -> list[AnyJob]:
    found: list[AnyJob] = []
    while True:
        page = await store.get_jobs(tenant, query)
        assert len(page.jobs) <= query.limit
        found += page.jobs
        if page.next_cursor is None:
            return found
        assert len(found) < 10_000
        query = query.changed(cursor=page.next_cursor)


@pytest.mark.parametrize("limit", [1, 2, 7, 1_000])
async def test_each_query_walks_all_its_jobs_once_newest_first(store: GraphJobStore, tenant: str, limit: int) -> None:
    """Ties across page ends, too; the count is of the same jobs."""
    jobs = await _some(store, tenant)
    middle, end = AT + timedelta(seconds=4), AT + timedelta(seconds=9)
    build = GraphJobType.BUILD
    queries: list[tuple[dict[str, Any], Callable[[AnyJob], bool]]] = [
        ({}, lambda job: True),
        ({"type": "build"}, lambda job: job.type is build),
        ({"statuses": RUNNING}, lambda job: job.status is RUNNING),
        ({"statuses": {"queued", "failed"}}, lambda job: job.status in ("queued", "failed")),
        ({"type": build, "statuses": ["canceled"]}, lambda job: job.type is build and job.status == "canceled"),
        ({"correlation_id": "c2"}, lambda job: job.correlation_id == "c2"),
        ({"created_from": middle, "created_to": end}, lambda job: middle <= job.created_at < end),
        (
            {"correlation_id": "c1", "created_from": middle},
            lambda job: job.correlation_id == "c1" and job.created_at >= middle,
        ),
    ]
    for given, belongs in queries:
        query = GraphJobQuery(**given, limit=limit)
        expected = [job for job in jobs if belongs(job)]
        assert expected
        assert expected == await _walk(store, tenant, query), query
        assert (len(expected), True) == ((count := await store.count(tenant, query)).value, count.exact)


async def test_a_walk_stays_stable_while_others_add(storage: Storage, tenant: str) -> None:
    """Nothing twice, and nothing that was there before is missed."""
    before = await _some(storage.graph_jobs, tenant)
    going = asyncio.Event()

    async def add() -> None:
        for number in range(60):
            at = AT + timedelta(seconds=number % 20)
            await storage.graph_jobs.add(build_job(tenant, created_at=at))
            going.set()

    adding = asyncio.create_task(add())
    await going.wait()
    found: list[UUID] = []
    query: GraphJobQuery | None = GraphJobQuery(limit=3)
    while query is not None:
        page = await storage.graph_jobs.get_jobs(tenant, query)
        found += [job.id for job in page.jobs]
        query = query.changed(cursor=page.next_cursor) if page.next_cursor else None
    await adding
    assert len(found) == len(set(found))
    assert {job.id for job in before} <= set(found)


async def test_a_row_that_cannot_be_read_is_named_and_the_walk_goes_on(storage: Storage, tenant: str) -> None:
    """A strange payload, a strange status and a strange type: each page goes on behind it."""
    jobs = [await storage.graph_jobs.add(build_job(tenant, created_at=AT + timedelta(seconds=n))) for n in range(9)]
    changes = ["payload = '[]'", "status = 9", "type = 7", "status = -3"]
    async with storage.session() as session, session.begin():
        for job, change in zip(jobs[2:6], changes, strict=True):
            await session.execute(text(f"UPDATE scheduler.graph_jobs SET {change} WHERE id = :id"), {"id": job.id})
    found: list[UUID] = []
    strange: list[UUID | int] = []
    query: GraphJobQuery | None = GraphJobQuery(limit=1)
    while query is not None:
        page = await storage.graph_jobs.get_jobs(tenant, query)
        found += [job.id for job in page.jobs]
        strange += [row.row_id for row in page.unreadable]
        query = query.changed(cursor=page.next_cursor) if page.next_cursor else None
    assert [job.id for job in reversed(jobs[6:])] + [jobs[1].id, jobs[0].id] == found
    assert [job.id for job in reversed(jobs[2:6])] == strange


async def test_a_cursor_continues_its_own_query_only(store: GraphJobStore, tenant: str) -> None:
    """Another tenant's, another query's, a cut one and garbage are refused; another limit is the same query."""
    await _some(store, tenant)
    await _some(store, f"{tenant}-2")
    mine = (await store.get_jobs(tenant, GraphJobQuery(limit=2))).next_cursor
    other = (await store.get_jobs(tenant, GraphJobQuery(type=GraphJobType.BUILD, limit=2))).next_cursor
    theirs = (await store.get_jobs(f"{tenant}-2", GraphJobQuery(limit=2))).next_cursor
    assert mine
    assert other
    assert 38 == len((await store.get_jobs(tenant, GraphJobQuery(limit=1_000, cursor=mine))).jobs)
    for cursor in (other, theirs, mine[:-3], mine + "A", "bogus", "é", "====", "W10", "bnVsbA"):
        with pytest.raises(InvalidJob) as caught:
            await store.get_jobs(tenant, GraphJobQuery(cursor=cursor))
        assert "cursor" == caught.value.field


async def test_bad_arguments_are_named(store: GraphJobStore, tenant: str) -> None:
    """Before any SQL: a session would be broken by it otherwise."""
    job = await store.add(build_job(tenant))
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "tenant_id": lambda: store.get_jobs("a\x00"),
        "query": lambda: store.get_jobs(tenant, "all"),  # type: ignore[arg-type]
        "job": lambda: store.update("job", expected=QUEUED),  # type: ignore[type-var]
        "expected": lambda: store.update(job.start(at=AT), expected="pending"),  # type: ignore[arg-type]
        "transition_id": lambda: store.add(build_job(tenant), transition_id="x"),  # type: ignore[arg-type]
        "actor": lambda: store.update(job.start(at=AT), expected=QUEUED, actor="x" * 257),
        "window": lambda: store.overlay_lag(tenant, window=timedelta(0)),
        "limit": lambda: store.events(tenant, job.id, limit=0),
        "after": lambda: store.events(tenant, job.id, after=-1),
        "job_id": lambda: store.get_job(tenant, 7),  # type: ignore[arg-type]
    }
    for field, call in calls.items():
        with pytest.raises(InvalidJob) as caught:
            await call()
        assert field == caught.value.field
    assert await store.get_job(tenant, "no uuid") is None
    assert job == await store.get_job(tenant, job.id)


async def test_a_count_is_exact_up_to_its_cap_and_then_says_so(storage: Storage, tenant: str) -> None:
    """10,000 exactly is exact; one more is "more than"."""
    fill = text(
        "INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload)"
        " SELECT gen_random_uuid(), :tenant, 0, n % 5, '{}' FROM generate_series(1, :many) n"
    )
    async with storage.session() as session:
        store = storage.graph_jobs.using(session)
        await session.execute(fill, {"tenant": tenant, "many": COUNT_MAX})
        exact = await store.count(tenant)
        await session.execute(fill, {"tenant": tenant, "many": 1})
        more = await store.count(tenant)
        of_status = await store.count(tenant, GraphJobQuery(statuses=(QUEUED,)))
    assert [("10000", True), ("more than 10000", False)] == [(str(count), count.exact) for count in (exact, more)]
    assert (2_000, True) == (of_status.value, of_status.exact)


async def test_active_overlay_jobs_are_those_queued_or_running(store: GraphJobStore, tenant: str) -> None:
    """Of overlays only, newest first."""
    jobs = await _some(store, tenant)
    active = await store.get_active_overlay_jobs(tenant)
    expected = [job for job in jobs if job.type is GraphJobType.OVERLAY and not job.status.is_final]
    assert (expected, None) == (list(active.jobs), active.next_cursor)


async def test_the_overlay_lag_is_of_overlays_within_the_window(storage: Storage, tenant: str) -> None:
    """Percentiles from created to completed, by the database's clock; rows of infinite times harm nothing."""
    fill = text(
        "INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, updated_at)"
        " SELECT gen_random_uuid(), :tenant, CAST(:kind AS smallint), CAST(:status AS smallint), '{}',"
        " now() - CAST(:age AS interval), now() - CAST(:age AS interval) + n * interval '1 second'"
        " FROM generate_series(1, :many) n"
    )
    async with storage.session() as session:
        for kind, status, age, many in (
            (1, 2, timedelta(hours=1), 101),
            (1, 2, timedelta(days=3), 50),
            (0, 2, timedelta(hours=1), 30),
            (1, 0, timedelta(minutes=10), 4),
            (1, 3, timedelta(minutes=10), 2),
        ):
            binds = {"tenant": tenant, "kind": kind, "status": status, "age": age, "many": many}
            await session.execute(fill, binds)
        for status in (0, 2):
            await session.execute(
                text(
                    "INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at)"
                    " VALUES (gen_random_uuid(), :tenant, 1, :status, '{}', '-infinity')"
                ),
                {"tenant": tenant, "status": status},
            )
        lag = await storage.graph_jobs.using(session).overlay_lag(tenant, window=timedelta(days=1))
    assert [5, 0, 152, 2, 0] == [lag.counts[status].value for status in GraphJobStatus]
    assert (51.0, 96.0, 101) == (lag.p50, lag.p95, lag.completed)
    assert lag.oldest_queued == pytest.approx(600, abs=1)


async def test_what_is_rolled_back_leaves_neither_job_nor_event(storage: Storage, tenant: str) -> None:
    """And what is committed is there with both."""
    kept = await storage.graph_jobs.add(build_job(tenant))
    async with storage.session() as session:
        inside = storage.graph_jobs.using(session)
        gone = await inside.add(build_job(tenant))
        assert (await inside.update(kept.start(at=AT), expected=QUEUED)).applied
        await session.rollback()
    async with storage.session() as session, session.begin():
        added = await storage.graph_jobs.using(session).add(build_job(tenant))
    assert (False, True) == (storage.graph_jobs.using(session).commits_alone, storage.graph_jobs.commits_alone)
    assert await storage.graph_jobs.get_job(tenant, gone.id) is None
    assert () == await storage.graph_jobs.events(tenant, gone.id)
    assert kept == await storage.graph_jobs.get_build_job(tenant, kept.id)
    assert [1, 1] == [len(await storage.graph_jobs.events(tenant, job.id)) for job in (kept, added)]


async def test_tenants_never_see_one_another(store: GraphJobStore, tenant: str) -> None:
    """Whichever verb asks."""
    job = await store.add(overlay_job(tenant, correlation_id="c"))
    other = f"{tenant}-2"
    assert [None] * 3 == [
        await store.get_job(other, job.id),
        await store.get_build_job(other, job.id),
        await store.get_overlay_job(other, job.id),
    ]
    assert () == await store.events(other, job.id)
    assert () == (await store.get_active_overlay_jobs(other)).jobs
    for query in (GraphJobQuery(), GraphJobQuery(type=GraphJobType.OVERLAY), GraphJobQuery(correlation_id="c")):
        assert ((), None, 0) == (*_of(await store.get_jobs(other, query)), (await store.count(other, query)).value)
    lag = await store.overlay_lag(other, window=timedelta(days=1))
    assert 0 == sum(count.value for count in lag.counts.values())


def _of(page: object) -> tuple[object, object]:
    return getattr(page, "jobs", None), getattr(page, "next_cursor", "")


async def test_a_time_python_cannot_hold_is_on_no_page_and_ends_none(storage: Storage, tenant: str) -> None:
    """The repository's list names such a row; a page goes by times, and has no place for it."""
    good, bad = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(2)]
    async with storage.session() as session, session.begin():
        await session.execute(
            text("UPDATE scheduler.graph_jobs SET created_at = 'infinity' WHERE id = :id"), {"id": bad.id}
        )
    page = await storage.graph_jobs.get_jobs(tenant)
    listed = await storage.graph_job_repository.list_build_jobs(tenant, limit=10)
    assert ((good,), ()) == (page.jobs, page.unreadable)
    assert [bad.id] == [row.row_id for row in listed.unreadable]
    assert isinstance(good, GraphBuildJob)
