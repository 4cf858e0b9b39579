"""Cancellation at every await, and in bulk: no backend stays busy, no connection leaks, no row is half changed."""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio
import pytest
from sqlalchemy import text

from graphjobs import GraphBuildJob, GraphJobStatus, open_storage
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job
from tests.faults.backend_monitor import Watch, checked_out, engines, warmed, with_settings
from tests.faults.cancel_at_await import Cancel, cancel_twice, cancelled_at_each_await

QUEUED, RUNNING = GraphJobStatus.QUEUED, GraphJobStatus.RUNNING

Call = Callable[[GraphJobRepository, GraphBuildJob], Coroutine[Any, Any, Any]]


async def swap(jobs: GraphJobRepository, queued: GraphBuildJob) -> bool:
    """Start the job."""
    return await jobs.try_replace(queued.start(at=AT), QUEUED)


async def insert(jobs: GraphJobRepository, queued: GraphBuildJob) -> GraphBuildJob:
    """Insert the job's twin."""
    return await jobs.insert(twin_of(queued))


async def get(jobs: GraphJobRepository, queued: GraphBuildJob) -> object:
    """Read the job."""
    return await jobs.get_build_job(queued.tenant_id, queued.id)


async def list_all(jobs: GraphJobRepository, queued: GraphBuildJob) -> object:
    """List the tenant's jobs."""
    return await jobs.list_build_jobs(queued.tenant_id, limit=10)


CALLS: list[Call] = [swap, insert, get, list_all]


def twin_of(job: GraphBuildJob) -> GraphBuildJob:
    """Return a copy of a job with another id, derived from its id."""
    return job.replace(id=type(job.id)(int=job.id.int ^ 1))


async def alone(storage: Storage, call: Call, queued: GraphBuildJob) -> None:
    """Call in autocommit."""
    await call(storage.graph_job_repository, queued)


async def in_session(storage: Storage, call: Call, queued: GraphBuildJob) -> None:
    """Call between two statements of a session, and commit."""
    async with storage.session() as session, session.begin():
        await session.execute(text("SELECT 1"))
        await call(GraphJobRepository(storage.database.using(session)), queued)
        await session.execute(text("SELECT 2"))


async def host_statement(storage: Storage, call: Call, queued: GraphBuildJob) -> None:
    """Run a statement of the host in a session, with the same row lock as the call."""
    del call
    async with storage.session() as session, session.begin():
        await session.execute(
            text("UPDATE scheduler.graph_jobs SET correlation_id = correlation_id WHERE id = :id"), {"id": queued.id}
        )


async def rolled_back(storage: Storage, call: Call, queued: GraphBuildJob) -> None:
    """Call in a session that ends with an open transaction, and so rolls it back."""
    async with storage.session() as session:
        await call(GraphJobRepository(storage.database.using(session)), queued)


WAYS = {"alone": alone, "in a session": in_session, "rolled back": rolled_back}


async def require_consistent(storage: Storage, watch: Watch, queued: GraphBuildJob) -> None:
    """Assert that a cancelled call was applied completely or not at all, and leaks no connection."""
    assert checked_out(storage) == (0, 0)
    await watch.until_settled(seconds=3)
    now = await storage.graph_job_repository.get_build_job(queued.tenant_id, queued.id)
    assert now in (queued, queued.start(at=AT))
    twin = await storage.graph_job_repository.get_build_job(queued.tenant_id, twin_of(queued).id)
    assert twin in (None, twin_of(queued))
    async with storage.session() as session, session.begin():
        jobs = GraphJobRepository(storage.database.using(session))
        assert now == await jobs.get_build_job(queued.tenant_id, queued.id)
    assert checked_out(storage) == (0, 0)


WAYS_AND_HOWS = [pytest.param(way, how, id=f"{way}-{how.name.lower()}") for way, how in itertools.product(WAYS, Cancel)]


@pytest.mark.parametrize(("way", "how"), WAYS_AND_HOWS)
@pytest.mark.parametrize(("call", "is_connecting"), [*((call, False) for call in CALLS), (swap, True)])
async def test_a_call_may_be_cancelled_at_any_await(
    small: Storage, shared_watch: Watch, tenant: str, call: Call, way: str, how: Cancel, is_connecting: bool
) -> None:
    """After each call the row is completely old or completely new, and the storage still works.

    A connection that is cancelled while it opens remains neither in the pool nor at the server.
    """
    queued = build_job(tenant)

    async def begin() -> Coroutine[Any, Any, None]:
        nonlocal queued
        queued = await small.graph_job_repository.insert(build_job(tenant))
        if is_connecting:
            for engine in engines(small):
                await engine.dispose()
        return WAYS[way](small, call, queued)

    async def check(_is_cancelled: bool) -> None:
        await require_consistent(small, shared_watch, queued)

    runs = await cancelled_at_each_await(begin, how, check)

    assert runs > (1 if way == "alone" else 5)


@pytest.mark.parametrize("how", Cancel, ids=lambda how: how.name.lower())
async def test_a_storage_may_be_cancelled_while_it_opens_and_closes(
    graphjobs_settings: Settings, watch: Watch, how: Cancel
) -> None:
    settings = with_settings(graphjobs_settings, pool_size=2)

    async def open_and_close() -> None:
        async with open_storage(settings) as storage, storage.session() as session:
            await session.execute(text("SELECT 1"))

    async def begin() -> Coroutine[Any, Any, None]:
        return open_and_close()

    async def check(_is_cancelled: bool) -> None:
        await watch.until_gone(seconds=3)

    await cancelled_at_each_await(begin, how, check)


WAITING = {"alone": alone, "in a session": in_session, "of the host's own": host_statement}


@pytest.mark.parametrize("way", WAITING)
@pytest.mark.parametrize("by", ["two cancels", "an anyio scope", "a nested time-out"])
async def test_a_statement_cancelled_while_it_waits_for_a_lock_ends_at_the_server_too(
    graphjobs_settings: Settings, watch: Watch, way: str, by: str
) -> None:
    """It must not continue at the server, hold locks of its transaction, or be applied after the lock."""
    async with open_storage(with_settings(graphjobs_settings, pool_size=8)) as storage:
        queued = await storage.graph_job_repository.insert(build_job("acme"))
        scopes: list[anyio.CancelScope] = []
        limits: list[asyncio.Timeout] = []

        async def work() -> None:
            match by:
                case "an anyio scope":
                    with anyio.CancelScope() as scope:
                        scopes.append(scope)
                        await WAITING[way](storage, swap, queued)
                case "a nested time-out":
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(60), asyncio.timeout(None) as limit:
                            limits.append(limit)
                            await WAITING[way](storage, swap, queued)
                case _:
                    await WAITING[way](storage, swap, queued)

        async with watch.holding(queued.id):
            tasks = [asyncio.create_task(work()) for _ in range(8)]
            await watch.until_waiting(8)
            for scope in scopes:
                scope.cancel()
            for limit in limits:
                limit.reschedule(0)
            if by == "two cancels":
                await cancel_twice(tasks)
            await asyncio.wait(tasks, timeout=5)
            assert [True] * 8 == [task.done() for task in tasks]
            await watch.until_settled(seconds=3)

        assert (0, 0) == checked_out(storage)
        assert queued == await storage.graph_job_repository.get_build_job("acme", queued.id)
        assert await storage.graph_job_repository.try_replace(queued.start(at=AT), QUEUED)


class Storm:
    """Calls that are each cancelled within 20 ms in one of four ways."""

    def __init__(self, storage: Storage, jobs: Sequence[GraphBuildJob], seed: int) -> None:
        self._storage, self._jobs = storage, jobs
        self._choose = random.Random(seed)  # noqa: S311
        self.ends: Counter[str] = Counter()
        self.started: Counter[Any] = Counter()
        self.maybe_started: Counter[Any] = Counter()

    async def run(self, calls: int, callers: int) -> None:
        """Make `calls` calls from `callers` concurrent tasks."""
        turns = iter(range(calls))
        plans = [
            (
                self._choose.choice([alone, in_session]),
                self._choose.choice(self._jobs),
                self._choose.choice([self._twice, self._in_scope, self._timed, self._once]),
                self._choose.random() * 0.02,
                self._choose.random() * 0.002,
            )
            for _ in range(calls)
        ]

        async def caller() -> None:
            for turn in turns:
                way, job, manner, seconds, more_seconds = plans[turn]
                self.ends[await manner(self._swap(way, job), seconds, more_seconds)] += 1

        await asyncio.gather(*(caller() for _ in range(callers)))

    async def _swap(self, way: Callable[..., Coroutine[Any, Any, None]], job: GraphBuildJob) -> None:
        """Start or requeue a job, and count the starts that are acknowledged and those that may be applied."""
        now = await self._storage.graph_job_repository.get_build_job(job.tenant_id, job.id)
        assert now is not None
        target = now.start(at=AT) if now.status is QUEUED else now.requeue(at=AT)
        is_start = target.status is RUNNING
        won = False

        async def attempt(jobs: GraphJobRepository, _job: GraphBuildJob) -> None:
            nonlocal won
            self.maybe_started[job.id] += is_start
            won = await jobs.try_replace(target, now.status)

        await way(self._storage, attempt, job)
        self.started[job.id] += is_start and won
        self.maybe_started[job.id] -= is_start and not won

    async def _once(self, work: Coroutine[Any, Any, None], seconds: float, _more: float) -> str:
        task = asyncio.create_task(work)
        await asyncio.wait([task], timeout=seconds)
        task.cancel()
        return await _end(task)

    async def _twice(self, work: Coroutine[Any, Any, None], seconds: float, more_seconds: float) -> str:
        task = asyncio.create_task(work)
        await asyncio.wait([task], timeout=seconds)
        await cancel_twice([task])
        await asyncio.wait([task], timeout=more_seconds)
        task.cancel()
        return await _end(task)

    async def _in_scope(self, work: Coroutine[Any, Any, None], seconds: float, _more: float) -> str:
        with anyio.move_on_after(seconds) as scope:
            await work
        return "cancelled" if scope.cancelled_caught else "done"

    async def _timed(self, work: Coroutine[Any, Any, None], seconds: float, more_seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds + more_seconds), asyncio.timeout(seconds):
                await work
        except TimeoutError:
            return "cancelled"
        return "done"


async def _end(task: "asyncio.Task[None]") -> str:
    await asyncio.wait([task])
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return "done" if error is None else repr(error)


@pytest.mark.parametrize("callers", [4, 400], ids=["four at a time", "all at once"])
async def test_many_cancellations_leak_no_connection_and_no_lock(
    graphjobs_settings: Settings, watch: Watch, callers: int
) -> None:
    """Cancelled once, twice, by anyio or by nested time-outs: pools are full again, and every row is consistent."""
    async with open_storage(with_settings(graphjobs_settings, pool_size=8)) as storage:
        jobs = [await storage.graph_job_repository.insert(build_job("acme")) for _ in range(20)]
        await warmed(storage)
        storm = Storm(storage, jobs, seed=callers)

        async with asyncio.timeout(20):
            await storm.run(400, callers)
        await watch.until_settled(seconds=4)
        assert (0, 0) == checked_out(storage)

        rows = await storage.graph_job_repository.list_build_jobs("acme", limit=100)
        assert (len(jobs), ()) == (len(rows), rows.unreadable)
        for row in rows:
            assert storm.started[row.id] <= row.attempts <= storm.maybe_started[row.id]
            target = row.start(at=AT) if row.status is QUEUED else row.requeue(at=AT)
            assert await storage.graph_job_repository.try_replace(target, row.status)
        assert {"cancelled"} == {*storm.ends} - {"done"}
        assert storm.ends["cancelled"] > 20
