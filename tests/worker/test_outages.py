"""A database that goes away, and answers that are lost: what is in hand is kept, and nothing happens twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from graphjobs import (
    DatabaseUnavailable,
    DispatcherOptions,
    GraphBuildJob,
    GraphJobStatus,
    OutcomeUnknown,
    PolicyRunDispatcher,
    PolicyRunJob,
    open_storage,
)
from graphjobs.core.results import StalledItem
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from graphjobs.worker import BuildResult, DispatchContext, GraphJobWorker, JobContext, WorkerOptions
from graphjobs.worker import base_worker as worker_room
from graphjobs.worker.completer import Writer
from tests.builders import build_job, policy_run
from tests.faults.backend_monitor import url_of, with_settings
from tests.faults.faulty_proxy import Fault, Wire

Status = GraphJobStatus

_SOON = timedelta(milliseconds=20)


@pytest_asyncio.fixture
async def wire(shared_settings: Settings, tmp_path: Path) -> AsyncIterator[Wire]:
    """A wire to the shared database, whole as yet."""
    wire = Wire(url_of(shared_settings), tmp_path)
    async with wire.running():
        yield wire


@pytest_asyncio.fixture
async def wired(wire: Wire, shared_settings: Settings) -> AsyncIterator[Storage]:
    """A storage behind the wire, its connections open and its statements prepared."""
    given = with_settings(shared_settings, database_url=wire.url, pool_size=3, connect_timeout=2.0)
    async with open_storage(given) as storage:
        for _ in range(3):
            await storage.graph_jobs.add(build_job("nobody"))
            (job,) = (await storage.graph_job_queue.claim("nobody", "build", limit=1)).jobs
            await storage.graph_job_queue.renew([job])
            await storage.graph_job_queue.rescue([StalledItem(job.id, "nobody", None, 1)], attempts_max=3)
            await storage.graph_job_queue.end([AttemptResult.failed(job, "warmed up")])
        yield storage


async def _until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


async def test_jobs_whose_claim_lost_its_answer_are_found(wired: Storage, wire: Wire, tenant: str) -> None:
    """They run, and are the caller's, as the log says; nobody has to wait for a rescue."""
    added = [await wired.graph_jobs.add(build_job(tenant)) for _ in range(3)]
    wire.fault = Fault.DROP_REPLY

    claimed = await wired.graph_job_queue.claim(tenant, "build", limit=2, actor="worker")

    assert 1 == wire.hit
    assert [(job.id, 1, Status.RUNNING) for job in added[:2]] == [
        (job.id, job.attempts, job.status) for job in claimed.jobs
    ]
    assert [2, 2, 1] == [len(await wired.graph_jobs.events(tenant, job.id)) for job in added]


async def test_a_claim_that_never_arrived_is_said_to_have_done_nothing(wired: Storage, wire: Wire, tenant: str) -> None:
    """Safe to try again."""
    job = await wired.graph_jobs.add(build_job(tenant))
    wire.fault = Fault.DROP_REQUEST

    with pytest.raises(DatabaseUnavailable):
        await wired.graph_job_queue.claim(tenant, "build", limit=2)

    assert [job.id] == [again.id for again in (await wired.graph_job_queue.claim(tenant, "build", limit=2)).jobs]


@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.DROP_REQUEST])
async def test_an_end_whose_answer_was_lost_is_told_as_it_is(
    wired: Storage, wire: Wire, tenant: str, fault: Fault
) -> None:
    """Landed, or never will; and one event, if any."""
    await wired.graph_jobs.add(build_job(tenant))
    (job,) = (await wired.graph_job_queue.claim(tenant, "build", limit=1)).jobs
    ending = AttemptResult.completed(job, graph_snapshot_id="graph")
    wire.fault = fault

    if fault is Fault.DROP_REPLY:
        ended = await wired.graph_job_queue.end([ending])
        assert {job.id} == set(ended.versions)
    else:
        with pytest.raises(DatabaseUnavailable):
            await wired.graph_job_queue.end([ending])

    assert 1 == wire.hit
    expected = ["queued", "running", "completed"] if fault is Fault.DROP_REPLY else ["queued", "running"]
    assert expected == [event.status.value for event in await wired.graph_jobs.events(tenant, job.id)]


async def test_a_rescue_whose_answer_was_lost_is_told_as_it_is(wired: Storage, wire: Wire, tenant: str) -> None:
    """By its id in the log."""
    await wired.graph_jobs.add(build_job(tenant))
    (job,) = (await wired.graph_job_queue.claim(tenant, "build", limit=1)).jobs
    seen, _ = await wired.graph_job_queue.stalled(tenant, "build", lease=timedelta(microseconds=1))
    wire.fault = Fault.DROP_REPLY

    rescued = await wired.graph_job_queue.rescue(seen, attempts_max=3)

    assert (1, (job.id,)) == (wire.hit, rescued.requeued)


async def test_a_worker_waits_for_a_database_that_is_away_and_loses_nothing(
    wired: Storage, wire: Wire, storage: Storage, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Handlers go on meanwhile; what they return is written once it is back, and the rest is done then."""
    added = await storage.graph_jobs.add_many(build_job(tenant) for _ in range(12))
    begun, go_on = [], asyncio.Event()

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        begun.append(job.id)
        await go_on.wait()
        return BuildResult("graph")

    options = WorkerOptions(tenant=tenant, concurrency=4, poll=_SOON, lease=timedelta(seconds=30))
    worker = GraphJobWorker(wired, build=build, options=options)
    working = asyncio.ensure_future(worker.run())
    await _until(lambda: len(begun) == 4)
    wire.lasts, wire.fault = True, Fault.DROP_REQUEST
    go_on.set()
    await _until(lambda: wire.hit >= 3)
    assert 0 == worker.counts.completed
    assert 4 == worker.in_hand
    wire.fault = Fault.NONE
    await _until(lambda: worker.counts.completed == 12)
    worker.stop()
    await working

    assert (0, 0) == (worker.counts.lost, worker.counts.given_back)
    assert sorted(job.id for job in added) == sorted(begun)
    assert "wait to be written" in caplog.text
    for job in added:
        assert 3 == len(await storage.graph_jobs.events(tenant, job.id))


async def test_an_end_whose_first_try_still_holds_the_row_is_known_by_its_id(storage: Storage, tenant: str) -> None:
    """Its answer was lost, and it has not landed yet: asked again, the row is busy; then it is its own end."""
    await storage.graph_jobs.add(build_job(tenant))
    (job,) = (await storage.graph_job_queue.claim(tenant, "build", limit=1)).jobs
    told: list[str | None] = []
    asked: list[object] = []

    class Lost:
        """The queue, whose first answer is lost while the statement waits for its commit."""

        async def end(self, endings: Any, **given: Any) -> Any:
            asked.append(given["transition_id"])
            if len(asked) == 1:
                await storage.graph_job_queue.using(session).end(endings, **given)
                raise OutcomeUnknown("the connection ended")
            if len(asked) == 3:
                await session.commit()
            return await storage.graph_job_queue.end(endings, **given)

    async with storage.session() as session:
        queue: Any = Lost()
        writer = Writer[AnyJob, AttemptResult](
            queue, "worker", 10, lambda _ending, problem: told.append(problem), failed=AttemptResult.failed
        )
        writing = asyncio.ensure_future(writer.run())
        writer.add(AttemptResult.completed(job, graph_snapshot_id="graph"))
        assert await writer.drained(timedelta(seconds=10))
        writing.cancel()

    assert [None] == told
    assert (3, 1) == (len(asked), len(set(asked)))


async def test_progress_that_is_noted_in_an_outage_waits_for_its_end(
    wired: Storage, wire: Wire, storage: Storage, tenant: str
) -> None:
    """The handler does not fail for it, and it is noted once."""
    job = await storage.graph_jobs.add(build_job(tenant))

    async def build(_job: GraphBuildJob, context: JobContext) -> BuildResult:
        wire.lasts, wire.fault = True, Fault.DROP_REQUEST
        asyncio.get_running_loop().call_later(0.5, setattr, wire, "fault", Fault.NONE)
        await context.progress(metadata={"step": "1"})
        return BuildResult("graph")

    worker = GraphJobWorker(wired, build=build, options=WorkerOptions(tenant=tenant, poll=_SOON))
    await asyncio.wait_for(worker.run(until_empty=True), 20)

    assert 1 == worker.counts.completed
    found = await storage.graph_jobs.get_job(tenant, job.id)
    assert found is not None
    assert {"step": "1"} == dict(found.metadata)
    assert 4 == len(await storage.graph_jobs.events(tenant, job.id))


async def test_heartbeats_go_on_after_an_outage(wired: Storage, wire: Wire, storage: Storage, tenant: str) -> None:
    """Without them the job would be taken for stopped, though its worker lives."""
    await storage.graph_jobs.add(build_job(tenant))
    go_on = asyncio.Event()

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await go_on.wait()
        return BuildResult("graph")

    options = WorkerOptions(tenant=tenant, poll=_SOON, lease=timedelta(seconds=1), rescue=False)
    worker = GraphJobWorker(wired, build=build, options=options)
    working = asyncio.ensure_future(worker.run())
    await _until(lambda: worker.counts.claimed == 1)
    wire.lasts, wire.fault = True, Fault.DROP_REQUEST
    await _until(lambda: wire.hit >= 3)
    wire.fault = Fault.NONE
    before = (await storage.graph_jobs.get_jobs(tenant)).jobs[0].updated_at
    deadline = time.monotonic() + 10
    while before == (await storage.graph_jobs.get_jobs(tenant)).jobs[0].updated_at:
        assert time.monotonic() < deadline, "no heartbeat came"
        await asyncio.sleep(0.05)
    go_on.set()
    await _until(lambda: worker.counts.completed == 1)
    worker.stop()
    await working


async def test_a_worker_that_stops_while_the_database_is_away_stops_in_time(
    wired: Storage,
    wire: Wire,
    storage: Storage,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It says what it leaves behind: those jobs run, and will be rescued."""
    monkeypatch.setattr(worker_room, "FAREWELL", timedelta(milliseconds=500))
    job = await storage.graph_jobs.add(build_job(tenant))

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await asyncio.Event().wait()
        raise AssertionError

    worker = GraphJobWorker(wired, build=build, options=WorkerOptions(tenant=tenant, poll=_SOON))
    working = asyncio.ensure_future(worker.run())
    await _until(lambda: worker.counts.claimed == 1)
    wire.lasts, wire.fault = True, Fault.DROP_REQUEST
    worker.stop(grace=timedelta(0))
    await asyncio.wait_for(working, 10)
    wire.fault = Fault.NONE

    assert "1 jobs whose ends could not be written are left to be rescued" in caplog.text
    found = await storage.graph_jobs.get_job(tenant, job.id)
    assert found is not None
    assert Status.RUNNING is found.status


async def test_what_the_database_refuses_fails_its_own_job_only(
    storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever slips through our own checks: one bad end does not keep the others from being written."""
    added = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(4)]
    patch = vars(AttemptResult)["patch"].fget

    def spoiled(ending: AttemptResult) -> str:
        refused = ending.job.id == added[1].id and ending.status is Status.COMPLETED
        return r'{"status": "\u0000"}' if refused else str(patch(ending))

    monkeypatch.setattr(AttemptResult, "patch", property(spoiled))

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        return BuildResult("graph")

    worker = GraphJobWorker(storage, build=build, options=WorkerOptions(tenant=tenant, poll=_SOON))
    await asyncio.wait_for(worker.run(until_empty=True), 20)

    found = [await storage.graph_jobs.get_job(tenant, job.id) for job in added]
    assert [Status.COMPLETED, Status.FAILED, Status.COMPLETED, Status.COMPLETED] == [
        job.status for job in found if job is not None
    ]
    assert found[1] is not None
    assert found[1].error is not None
    assert "could not be stored: the database refused a value (SQLSTATE 22P05)" in found[1].error


async def test_a_dispatcher_submits_what_it_handed_over_once_the_database_is_back(
    wired: Storage, wire: Wire, storage: Storage, tenant: str
) -> None:
    """Once, however often the answer was lost; its lease has run out meanwhile, and is its own still."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    handed_over: list[int] = []

    async def dispatch(leased: PolicyRunJob, _context: DispatchContext) -> None:
        handed_over.append(leased.attempts)
        wire.lasts, wire.fault = True, Fault.DROP_REPLY

    options = DispatcherOptions(tenant=tenant, poll=_SOON, lease=timedelta(seconds=1), rescue=False)
    dispatcher = PolicyRunDispatcher(wired, dispatch, options=options)
    working = asyncio.ensure_future(dispatcher.run())
    await _until(lambda: wire.hit >= 3)
    await asyncio.sleep(1.1)
    wire.fault = Fault.NONE
    await _until(lambda: dispatcher.counts.submitted + dispatcher.counts.lost == 1)
    dispatcher.stop()
    await working

    assert (1, 0, [1]) == (dispatcher.counts.submitted, dispatcher.counts.lost, handed_over)
    log = [event.status for event in await storage.policy_runs.events(tenant, run.id)]
    assert ["pending", "dispatching", "submitted"] == log
