"""The pools: fair and bounded waiting, connections for the queues, and the replacement of lost or old connections."""

import asyncio
import gc
import re
import time
import traceback
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from graphjobs import DatabaseUnavailable, GraphJobsError, GraphJobStatus, open_storage
from graphjobs.core.results import StalledItem
from graphjobs.database.pool import FairGate, PoolHealth, gated_pool
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job
from tests.faults.backend_monitor import Watch, checked_out, engines, url_of, warmed, with_settings
from tests.faults.faulty_proxy import Fault, FaultProxy

QUEUED = GraphJobStatus.QUEUED
TENANT = "acme"

Read = Callable[[Storage], Awaitable[object]]


async def _read(storage: Storage) -> object:
    return await storage.graph_jobs.get_build_job(TENANT, uuid4())


async def _read_in_session(storage: Storage) -> object:
    async with storage.session() as session:
        return await storage.graph_jobs.using(session).get_build_job(TENANT, uuid4())


WAYS = {"alone": ("direct", _read), "session": ("direct", _read_in_session), "pooler": ("transaction", _read)}


@pytest.mark.parametrize("way", WAYS)
async def test_callers_get_a_connection_in_the_order_in_which_they_came(graphjobs_settings: Settings, way: str) -> None:
    """While one caller waits, each of those that call without a pause is served once, and no more often."""
    pooler, read = WAYS[way]
    served: list[str] = []

    async def call(storage: Storage, name: str) -> None:
        await read(storage)
        served.append(name)

    async def hot(storage: Storage, name: str) -> None:
        while True:
            await call(storage, name)

    async with open_storage(with_settings(graphjobs_settings, pool_size=1, pooler=pooler)) as storage:
        loops = [asyncio.create_task(hot(storage, f"hot {number}")) for number in range(3)]
        for _ in range(20):
            await asyncio.wait_for(call(storage, "polite"), 20)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    turns = [index for index, name in enumerate(served) if name == "polite"]
    waits = [served[before + 1 : after] for before, after in pairwise(turns)]
    assert 19 == len(waits)
    # One more may come in between the end of a call and the next one.
    assert [] == [wait for wait in waits if max(map(wait.count, wait), default=0) > 2]


async def test_a_cancelled_or_late_caller_leaves_its_place_to_the_next() -> None:
    """At each moment of the wait; at the end the gate is free again."""
    gate = FairGate(1, timedelta(seconds=0.05))
    for cancelled_after in range(4):
        assert gate.try_enter()
        waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        if cancelled_after % 2:
            gate.leave()  # hands the place to the first, which is then cancelled
        for _ in range(cancelled_after // 2):
            await asyncio.sleep(0)
        waiting[0].cancel()
        if not cancelled_after % 2:
            gate.leave()
        await asyncio.sleep(0.01)
        states = [task.done() and not task.cancelled() for task in waiting]
        # Exactly one holds the place; the others time out.
        assert 1 == states.count(True)
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert 1 == ends.count(None)
        gate.leave()
        assert gate.try_enter()
        gate.leave()


@pytest.mark.parametrize("pooler", ["direct", "transaction"])
async def test_queues_have_connections_while_callers_hold_all_others(
    graphjobs_settings: Settings, watch: Watch, pooler: str
) -> None:
    """Heartbeats, scans, ends and rescues go on; other calls wait, and fail in time."""
    settings = with_settings(graphjobs_settings, pool_size=2, connect_timeout=0.5, pooler=pooler)
    async with open_storage(settings) as storage:
        queue = storage.graph_job_queue
        stuck = await storage.graph_job_repository.insert(build_job("other"))
        await storage.graph_jobs.add_many(build_job(TENANT) for _ in range(2))
        async with watch.holding(stuck.id):
            calls = [
                asyncio.create_task(storage.graph_job_repository.try_replace(stuck.start(at=AT), QUEUED))
                for _ in range(2)
            ]
            while not gated_pool(engines(storage)[0]).gate.is_full:
                await asyncio.sleep(0.01)
            first, second = (await queue.claim(TENANT, "build", limit=2)).jobs
            with pytest.raises(DatabaseUnavailable, match="GRAPHJOBS_POOL_SIZE"):
                await storage.graph_jobs.get_build_job(TENANT, first.id)
            renewed = await asyncio.gather(*(queue.renew([first]) for _ in range(10)))
            assert [] == [result for result in renewed if result.lost]
            await queue.stalled(TENANT, "build", lease=timedelta(hours=1))
            assert {first.id} == set(
                (await queue.end([AttemptResult.completed(first, graph_snapshot_id="graph")])).versions
            )
            item = StalledItem(second.id, TENANT, second.updated_at, second.attempts)
            assert (second.id,) == (await queue.rescue([item], attempts_max=3)).requeued
            assert ((), "") == await storage.policy_run_queue.expired(tenant_id=TENANT)
        assert [False, True] == sorted(await asyncio.gather(*calls))


async def _write_alone(storage: Storage) -> None:
    await storage.graph_job_repository.insert(build_job(TENANT))


async def _write_in_session(storage: Storage) -> None:
    async with storage.session() as session, session.begin():
        await GraphJobRepository(storage.database.using(session)).insert(build_job(TENANT))


async def _own_write_in_session(storage: Storage) -> None:
    async with storage.session() as session, session.begin():
        await session.execute(text("CREATE TABLE public.own (id integer)"))


@pytest.mark.parametrize("write", [_write_alone, _write_in_session, _own_write_in_session])
async def test_after_one_read_only_answer_every_connection_is_replaced(
    graphjobs_settings: Settings, write: Callable[[Storage], Awaitable[None]]
) -> None:
    """As after a failover: the old server answers, and is a standby now. One call fails; both pools are new then."""
    async with open_storage(with_settings(graphjobs_settings, pool_size=3)) as storage:
        old = await warmed(storage)
        for driver in old:
            await driver.execute("SET default_transaction_read_only = on")
        with pytest.raises(Exception) as caught:  # noqa: PT011  # the caller's own statements raise SQLAlchemy's
            await write(storage)
        assert "25006" == getattr(caught.value, "sqlstate", None) or "25006" == caught.value.orig.sqlstate  # type: ignore[attr-defined]
        await asyncio.gather(*(each(storage) for each in [_write_alone, _write_in_session] * 3))
        new = await warmed(storage)
        assert [] == [driver for driver in new if driver in old]
        assert all(driver.is_closed() for driver in old)
        assert (0, 0) == checked_out(storage)


async def test_old_connections_are_replaced(graphjobs_settings: Settings) -> None:
    """`pool_recycle` is the age; a younger connection is used again."""
    for recycle, same in ((timedelta(hours=1), True), (timedelta(milliseconds=1), False)):
        async with open_storage(with_settings(graphjobs_settings, pool_size=1, pool_recycle=recycle)) as storage:
            before = await warmed(storage)
            await asyncio.sleep(0.01)
            await _write_alone(storage)
            await _write_in_session(storage)
            assert same == (before == await warmed(storage))


async def test_a_connection_that_was_too_old_when_it_was_open_is_used(
    graphjobs_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that takes longer to connect than `pool_recycle`."""
    monkeypatch.setattr(PoolHealth, "is_old", lambda *_: True)
    async with open_storage(with_settings(graphjobs_settings, pool_size=1)) as storage:
        for _ in range(2):
            await _write_alone(storage)
            await _write_in_session(storage)


@pytest.mark.parametrize("pooler", ["direct", "transaction"])
async def test_connections_that_are_lost_as_soon_as_they_are_open_are_unavailable(
    graphjobs_settings: Settings, monkeypatch: pytest.MonkeyPatch, pooler: str
) -> None:
    """As during a failover, when other callers lose theirs meanwhile. No place is lost, and the next call works."""
    async with open_storage(with_settings(graphjobs_settings, pool_size=1, pooler=pooler)) as storage:
        await _write_alone(storage)
        await _write_in_session(storage)
        with monkeypatch.context() as patch:
            patch.setattr(PoolHealth, "is_lost", lambda *_: True)
            for write in [_write_alone, _write_in_session, _own_write_in_session] * 2:
                with pytest.raises(DatabaseUnavailable, match="try again"):
                    await write(storage)
        await _write_alone(storage)
        await _write_in_session(storage)
        assert [] == [engine for engine in engines(storage) if gated_pool(engine).gate.is_full]


async def test_a_silent_database_ends_each_call_within_the_documented_sum(
    graphjobs_settings: Settings, tmp_path: Path
) -> None:
    """Pool, opening, statement and its margin of 5 s: no wait is without a limit, alone and in sessions."""
    proxy = FaultProxy(url_of(graphjobs_settings), tmp_path)
    async with proxy.running():
        settings = with_settings(
            graphjobs_settings, database_url=proxy.url, pool_size=1, connect_timeout=1.0, statement_timeout=1.0
        )
        async with open_storage(settings) as storage:
            await warmed(storage)
            proxy.fault = Fault.BLACKHOLE

            async def timed(read: Read) -> float:
                began = time.monotonic()
                with pytest.raises(DatabaseUnavailable):
                    await read(storage)
                return time.monotonic() - began

            calls = [timed(read) for read in (_read, _read_in_session) for _ in range(3)]
            slowest = max(await asyncio.gather(*calls))
            proxy.fault = Fault.NONE
            await _read(storage)
            await _read_in_session(storage)
    # 1 for the pool, 1 to open, 1 + 5 for the answer; a session also rolls back, which is a statement.
    assert slowest < 2 * (1 + 1 + 6)


@pytest.mark.parametrize("over_tcp", [False, True])
async def test_cancelled_connects_leave_nothing_behind(
    graphjobs_settings: Settings, watch: Watch, tmp_path: Path, over_tcp: bool
) -> None:
    """Cancelled at each of their first suspensions: no error is lost, no socket and no place in the pool."""
    lost: list[dict[str, Any]] = []
    gc.collect()  # what earlier tests left
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: lost.append(context))
    proxy = FaultProxy(url_of(graphjobs_settings), tmp_path)
    try:
        async with proxy.running_on_tcp() as port:
            url = url_of(graphjobs_settings)
            if over_tcp:  # asks for TLS first, and goes on without it
                url = re.sub(r"@[^/]*(/[^?]*).*", rf"@127.0.0.1:{port}\1", url)
            async with open_storage(with_settings(graphjobs_settings, database_url=url, pool_size=2)) as storage:
                for ticks in range(60):
                    for engine in engines(storage):
                        await engine.dispose()
                    calls = [asyncio.ensure_future(read(storage)) for read in (_read, _read_in_session) * 2]
                    for _ in range(ticks):
                        await asyncio.sleep(0)
                    for call in calls:
                        call.cancel()
                    await asyncio.gather(*calls, return_exceptions=True)
                await asyncio.gather(*(_read(storage) for _ in range(4)))
                gc.collect()
                await asyncio.sleep(0)
            await watch.until_gone()
    finally:
        loop.set_exception_handler(None)
    assert [] == lost


async def test_no_frame_shows_the_password(graphjobs_settings: Settings) -> None:
    """Neither the storage nor a local variable of a frame, as pytest and error trackers print them."""
    secret = "correct-horse-battery"
    for url in (
        f"postgresql://me:{secret}@127.0.0.1:1/d",
        f"postgresql://me:{secret}@h/d?sslmode=no",
        f"postgresql://h/d?password={secret}&sslmod=no",
    ):
        with pytest.raises(GraphJobsError) as caught:
            async with open_storage(Settings.load(database_url=url)):
                pass
        frames = [frame for frame, _ in traceback.walk_tb(caught.tb) if frame.f_globals["__name__"] != __name__]
        assert frames
        assert [] == [frame for frame in frames if secret in repr(frame.f_locals)]
    async with open_storage(graphjobs_settings) as storage:
        assert url_of(graphjobs_settings) not in repr(storage) + repr(storage._listen)
