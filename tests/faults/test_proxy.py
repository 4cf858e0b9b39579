"""Network failures between graphjobs and the server: the stored rows, the errors, and the length of the wait."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy.exc import DBAPIError

from graphjobs import DatabaseUnavailable, GraphBuildJob, OutcomeUnknown
from graphjobs.database import engine as engine_module
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job
from tests.contract.wired_storage import open_wired
from tests.faults.backend_monitor import Watch, checked_out, url_of, warmed
from tests.faults.faulty_proxy import Fault, FaultProxy
from tests.faults.swaps import QUEUED, stored, transaction

STATEMENT_TIMEOUT, MARGIN = 0.3, 0.2


@pytest_asyncio.fixture
async def proxy(shared_settings: Settings, tmp_path: Path) -> AsyncIterator[FaultProxy]:
    """A proxy to the database, without a fault."""
    async with FaultProxy(url_of(shared_settings), tmp_path).running() as running:
        yield running


@pytest_asyncio.fixture
async def wired(
    proxy: FaultProxy, shared_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Storage]:
    """A storage behind the proxy, with open connections and short time-outs."""
    monkeypatch.setattr(engine_module, "COMMAND_TIMEOUT_MARGIN", timedelta(seconds=MARGIN))
    async with open_wired(proxy, shared_settings, pool_size=2, statement_timeout=STATEMENT_TIMEOUT) as storage:
        await warmed(storage)
        yield storage


@pytest_asyncio.fixture
async def queued(wired: Storage, storage: Storage, tenant: str) -> GraphBuildJob:
    """A queued job; each connection behind the proxy has prepared an update, a read and a transaction."""
    queued = await storage.graph_job_repository.insert(build_job(tenant))
    not_stored = build_job(tenant)

    async def use() -> None:
        await wired.graph_job_repository.try_replace(not_stored.start(at=AT), QUEUED)
        await wired.graph_job_repository.get_build_job(tenant, not_stored.id)

    async def use_session() -> None:
        async with transaction(wired) as jobs:
            await jobs.try_replace(not_stored.start(at=AT), QUEUED)

    await asyncio.gather(*(use() for _ in range(2)), *(use_session() for _ in range(2)))
    return queued


@pytest.mark.parametrize(("fault", "is_applied"), [(Fault.DROP_REQUEST, False), (Fault.DROP_REPLY, True)])
async def test_an_update_without_an_answer_has_an_unknown_outcome(
    wired: Storage, storage: Storage, queued: GraphBuildJob, proxy: FaultProxy, fault: Fault, is_applied: bool
) -> None:
    """The error is the same whether the update was applied or not; only a read shows the outcome."""
    started = queued.start(at=AT)
    expected = started if is_applied else queued

    proxy.fault = fault
    with pytest.raises(OutcomeUnknown):
        await wired.graph_job_repository.try_replace(started, QUEUED)
    assert proxy.hit == 1
    assert expected == await stored(storage, queued)

    proxy.fault = Fault.NONE
    assert expected == await stored(wired, queued)
    assert is_applied != await wired.graph_job_repository.try_replace(started, QUEUED)


@pytest.mark.usefixtures("queued")
async def test_an_applied_insert_with_a_lost_answer_has_an_unknown_outcome(
    wired: Storage, storage: Storage, tenant: str, proxy: FaultProxy
) -> None:
    """An insert is a write like an update."""
    job = build_job(tenant)

    await asyncio.gather(*(wired.graph_job_repository.insert(build_job(tenant)) for _ in range(4)))
    proxy.fault = Fault.DROP_REPLY
    with pytest.raises(OutcomeUnknown):
        await wired.graph_job_repository.insert(job)

    assert job == await stored(storage, job)


@pytest.mark.parametrize("fault", [Fault.DROP_REQUEST, Fault.DROP_REPLY])
async def test_a_lost_read_can_be_tried_again(
    wired: Storage, queued: GraphBuildJob, proxy: FaultProxy, fault: Fault
) -> None:
    proxy.fault = fault
    with pytest.raises(DatabaseUnavailable):
        await stored(wired, queued)

    proxy.fault = Fault.NONE
    assert queued == await stored(wired, queued)


@pytest.mark.parametrize("fault", [Fault.DROP_REQUEST, Fault.DROP_REPLY])
async def test_a_lost_update_in_a_session_is_rolled_back(
    wired: Storage, storage: Storage, queued: GraphBuildJob, shared_watch: Watch, proxy: FaultProxy, fault: Fault
) -> None:
    """The update may have run, but was not committed: the server rolls it back at the end of the connection."""
    async with wired.session() as session:
        jobs = GraphJobRepository(wired.database.using(session))
        assert queued == await jobs.get_build_job(queued.tenant_id, queued.id)
        proxy.fault = fault
        with pytest.raises(DatabaseUnavailable):
            await jobs.try_replace(queued.start(at=AT), QUEUED)

    proxy.fault = Fault.NONE
    await shared_watch.until_settled()
    assert queued == await stored(storage, queued)
    assert (0, 0) == checked_out(wired)
    async with transaction(wired) as jobs:
        assert await jobs.try_replace(queued.start(at=AT), QUEUED)


@pytest.mark.parametrize(("fault", "is_applied"), [(Fault.BLACKHOLE, False), (Fault.SWALLOW_REPLY, True)])
async def test_a_call_without_an_answer_ends_at_the_client_time_out(
    wired: Storage,
    storage: Storage,
    queued: GraphBuildJob,
    shared_watch: Watch,
    proxy: FaultProxy,
    fault: Fault,
    is_applied: bool,
) -> None:
    """The client time-out, a little longer than the server's, ends a wait without an answer."""
    started = queued.start(at=AT)

    proxy.fault = fault
    started_at = time.monotonic()
    async with asyncio.timeout(10):
        with pytest.raises(OutcomeUnknown):
            await wired.graph_job_repository.try_replace(started, QUEUED)
    waited = time.monotonic() - started_at
    assert STATEMENT_TIMEOUT < waited < STATEMENT_TIMEOUT + MARGIN + 2
    assert (started if is_applied else queued) == await stored(storage, queued)

    # A read has the same limit, and its outcome is known.
    async with asyncio.timeout(5):
        with pytest.raises(DatabaseUnavailable):
            await stored(wired, queued)
    assert (0, 0) == checked_out(wired)


async def test_no_caller_gets_a_connection_that_has_timed_out(
    wired: Storage, queued: GraphBuildJob, proxy: FaultProxy
) -> None:
    """Both connections time out, then the network works for new ones: no later call fails."""
    proxy.fault = Fault.BLACKHOLE
    calls = [stored(wired, queued) for _ in range(2)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [DatabaseUnavailable] * 2 == [type(end) for end in ends]

    proxy.fault = Fault.NONE
    for _ in range(4):
        assert queued == await stored(wired, queued)


@pytest.mark.parametrize("by_cancel", [False, True], ids=["timed out", "cancelled"])
async def test_a_session_on_a_silent_network_ends_in_time(
    wired: Storage, storage: Storage, queued: GraphBuildJob, shared_watch: Watch, proxy: FaultProxy, by_cancel: bool
) -> None:
    """The time-outs bound its statement, its end and its cancellation."""
    silent = asyncio.Event()

    async def swap() -> None:
        async with transaction(wired) as jobs:
            assert queued == await jobs.get_build_job(queued.tenant_id, queued.id)
            proxy.fault = Fault.BLACKHOLE
            silent.set()
            await jobs.try_replace(queued.start(at=AT), QUEUED)

    task = asyncio.create_task(swap())
    await silent.wait()
    if by_cancel:
        task.cancel()
    await asyncio.wait([task], timeout=6)

    assert task.done()
    if not by_cancel:
        assert isinstance(task.exception(), DatabaseUnavailable)
    assert (0, 0) == checked_out(wired)
    assert queued == await stored(storage, queued)
    proxy.fault = Fault.NONE
    async with transaction(wired) as jobs:
        assert queued == await jobs.get_build_job(queued.tenant_id, queued.id)


@pytest.mark.parametrize(("fault", "is_applied"), [(Fault.DROP_REQUEST, False), (Fault.DROP_REPLY, True)])
async def test_a_lost_commit_raises_the_same_error_whether_applied_or_not(
    wired: Storage, storage: Storage, queued: GraphBuildJob, proxy: FaultProxy, fault: Fault, is_applied: bool
) -> None:
    """A session is SQLAlchemy's own, and so is its error; only a read shows the outcome of the transaction."""

    async def swap() -> None:
        async with transaction(wired) as jobs:
            assert await jobs.try_replace(queued.start(at=AT), QUEUED)
            proxy.fault = fault

    with pytest.raises(DBAPIError) as caught:
        await swap()

    proxy.fault = Fault.NONE
    assert caught.value.connection_invalidated
    expected = queued.start(at=AT) if is_applied else queued
    assert expected == await stored(storage, queued)
    assert (0, 0) == checked_out(wired)


async def test_a_late_answer_is_an_answer(wired: Storage, queued: GraphBuildJob, proxy: FaultProxy) -> None:
    proxy.latency = 0.05
    won = await asyncio.gather(*(wired.graph_job_repository.try_replace(queued.start(at=AT), QUEUED) for _ in range(4)))

    assert sorted(won) == [False, False, False, True]
