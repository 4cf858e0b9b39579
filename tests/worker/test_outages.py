"""Outages and lost answers of the database: items in flight are kept, and nothing happens twice."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from graphjobs import DatabaseUnavailable, GraphBuildJob, GraphJobStatus, OutcomeUnknown, PolicyRunJob, open_storage
from graphjobs.core.results import StalledItem
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from graphjobs.worker import BuildResult, DispatchContext, JobContext, base_worker
from graphjobs.worker.completer import BatchCompleter
from tests.builders import build_job, policy_run
from tests.faults.backend_monitor import url_of, with_settings
from tests.faults.faulty_proxy import Fault, Wire
from tests.worker.twins import RunTwin, get_job, job_worker, run_jobs, statuses_of
from tests.worker.worker_control import return_after, return_result, wait_forever, wait_until, working

Status = GraphJobStatus


async def _claimed(storage: Storage, tenant: str) -> AnyJob:
    """Add and claim a job."""
    await storage.graph_jobs.add(build_job(tenant))
    (job,) = (await storage.graph_job_queue.claim(tenant, "build", limit=1)).jobs
    return job


@pytest_asyncio.fixture
async def wire(shared_settings: Settings, tmp_path: Path) -> AsyncIterator[Wire]:
    """Open a proxy to the shared database, without a fault."""
    wire = Wire(url_of(shared_settings), tmp_path)
    async with wire.running():
        yield wire


@pytest_asyncio.fixture
async def wired(wire: Wire, shared_settings: Settings) -> AsyncIterator[Storage]:
    """Open a storage behind the proxy, with open connections and prepared statements."""
    settings = with_settings(shared_settings, database_url=wire.url, pool_size=3, connect_timeout=2.0)
    async with open_storage(settings) as storage:
        for _ in range(3):
            job = await _claimed(storage, "warm-up")
            await storage.graph_job_queue.renew([job])
            await storage.graph_job_queue.rescue([StalledItem(job.id, "warm-up", None, 1)], attempts_max=3)
            await storage.graph_job_queue.end([AttemptResult.failed(job, "warmed up")])
        yield storage


async def test_a_claim_with_a_lost_answer_is_found(wired: Storage, wire: Wire, tenant: str) -> None:
    """The event log shows that the caller owns the jobs; they need no rescue."""
    added = [await wired.graph_jobs.add(build_job(tenant)) for _ in range(3)]
    wire.fault = Fault.DROP_REPLY

    claimed = await wired.graph_job_queue.claim(tenant, "build", limit=2, actor="worker")

    assert 1 == wire.hit
    assert [(job.id, 1, Status.RUNNING) for job in added[:2]] == [
        (job.id, job.attempts, job.status) for job in claimed.jobs
    ]
    assert [2, 2, 1] == [len(await wired.graph_jobs.events(tenant, job.id)) for job in added]


async def test_a_claim_that_never_arrived_raises_database_unavailable(wired: Storage, wire: Wire, tenant: str) -> None:
    job = await wired.graph_jobs.add(build_job(tenant))
    wire.fault = Fault.DROP_REQUEST

    with pytest.raises(DatabaseUnavailable):
        await wired.graph_job_queue.claim(tenant, "build", limit=2)

    assert [job.id] == [again.id for again in (await wired.graph_job_queue.claim(tenant, "build", limit=2)).jobs]


@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.DROP_REQUEST])
async def test_the_outcome_of_a_result_with_a_lost_answer_is_resolved(
    wired: Storage, wire: Wire, tenant: str, fault: Fault
) -> None:
    """It is applied, or never will be; there is at most one event."""
    job = await _claimed(wired, tenant)
    result = AttemptResult.completed(job, graph_snapshot_id="graph")
    wire.fault = fault

    if fault is Fault.DROP_REPLY:
        finished = await wired.graph_job_queue.end([result])
        assert {job.id} == set(finished.versions)
    else:
        with pytest.raises(DatabaseUnavailable):
            await wired.graph_job_queue.end([result])

    assert 1 == wire.hit
    expected = ["queued", "running", "completed"] if fault is Fault.DROP_REPLY else ["queued", "running"]
    assert expected == [event.status.value for event in await wired.graph_jobs.events(tenant, job.id)]


async def test_the_outcome_of_a_rescue_with_a_lost_answer_is_resolved(wired: Storage, wire: Wire, tenant: str) -> None:
    """The event log has its transition id."""
    job = await _claimed(wired, tenant)
    stalled, _ = await wired.graph_job_queue.stalled(tenant, "build", lease=timedelta(microseconds=1))
    wire.fault = Fault.DROP_REPLY

    rescued = await wired.graph_job_queue.rescue(stalled, attempts_max=3)

    assert (1, (job.id,)) == (wire.hit, rescued.requeued)


async def test_a_worker_waits_for_an_unavailable_database_and_loses_nothing(
    wired: Storage, wire: Wire, storage: Storage, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Handlers continue; their results are stored after the outage, and then the other jobs are processed."""
    added = await storage.graph_jobs.add_many(build_job(tenant) for _ in range(12))
    started, proceed = [], asyncio.Event()

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        started.append(job.id)
        await proceed.wait()
        return BuildResult("graph")

    worker = job_worker(wired, tenant, build=build, concurrency=4, lease=timedelta(seconds=30))
    async with working(worker):
        await wait_until(lambda: len(started) == 4)
        wire.lasts, wire.fault = True, Fault.DROP_REQUEST
        proceed.set()
        await wait_until(lambda: wire.hit >= 3)
        assert (0, 4) == (worker.stats.completed, worker.in_flight)
        wire.fault = Fault.NONE
        await wait_until(lambda: worker.stats.completed == 12)

    assert (0, 0) == (worker.stats.lost, worker.stats.released)
    assert sorted(job.id for job in added) == sorted(started)
    assert "attempt results are not stored yet" in caplog.text
    for job in added:
        assert 3 == len(await storage.graph_jobs.events(tenant, job.id))


async def test_a_result_that_its_first_try_is_still_storing_is_recognized_by_its_id(
    storage: Storage, tenant: str
) -> None:
    """The first answer is lost before the commit, so the retry finds a busy row; later it finds its own transition."""
    job = await _claimed(storage, tenant)
    outcomes: list[str | None] = []
    transition_ids: list[object] = []

    class LosesFirstAnswer:
        """A queue that loses its first answer while the statement waits for its commit."""

        async def end(self, results: Any, **arguments: Any) -> Any:
            transition_ids.append(arguments["transition_id"])
            if len(transition_ids) == 1:
                await storage.graph_job_queue.using(session).end(results, **arguments)
                raise OutcomeUnknown("the connection ended")
            if len(transition_ids) == 3:
                await session.commit()
            return await storage.graph_job_queue.end(results, **arguments)

    async with storage.session() as session:
        completer = BatchCompleter[AnyJob, AttemptResult](
            LosesFirstAnswer(), "worker", 10, lambda _result, lost: outcomes.append(lost), AttemptResult.failed
        )
        running = asyncio.ensure_future(completer.run())
        completer.add(AttemptResult.completed(job, graph_snapshot_id="graph"))
        assert await completer.drained(timedelta(seconds=10))
        running.cancel()

    assert [None] == outcomes
    assert (3, 1) == (len(transition_ids), len(set(transition_ids)))


async def test_progress_waits_for_the_end_of_an_outage(
    wired: Storage, wire: Wire, storage: Storage, tenant: str
) -> None:
    """The handler does not fail, and the progress is stored once."""
    job = await storage.graph_jobs.add(build_job(tenant))

    async def build(_job: GraphBuildJob, context: JobContext) -> BuildResult:
        wire.lasts, wire.fault = True, Fault.DROP_REQUEST
        asyncio.get_running_loop().call_later(0.5, setattr, wire, "fault", Fault.NONE)
        await context.progress(metadata={"step": "1"})
        return BuildResult("graph")

    worker = await run_jobs(wired, tenant, build=build)

    assert 1 == worker.stats.completed
    assert {"step": "1"} == dict((await get_job(storage, job)).metadata)
    assert 4 == len(await storage.graph_jobs.events(tenant, job.id))


async def test_heartbeats_continue_after_an_outage(wired: Storage, wire: Wire, storage: Storage, tenant: str) -> None:
    """Without them the job would stall, although its worker lives."""
    job = await storage.graph_jobs.add(build_job(tenant))
    proceed = asyncio.Event()
    worker = job_worker(wired, tenant, build=return_after(proceed), lease=timedelta(seconds=1), rescue=False)
    async with working(worker):
        await wait_until(lambda: worker.stats.claimed == 1)
        wire.lasts, wire.fault = True, Fault.DROP_REQUEST
        await wait_until(lambda: wire.hit >= 3)
        wire.fault = Fault.NONE
        before = (await get_job(storage, job)).updated_at

        async def has_heartbeat() -> bool:
            return before != (await get_job(storage, job)).updated_at

        await wait_until(has_heartbeat, seconds=10)
        assert Status.RUNNING is (await get_job(storage, job)).status
        proceed.set()
        await wait_until(lambda: worker.stats.completed == 1)
    assert (0, 1) == (worker.stats.lost, (await get_job(storage, job)).attempts)


async def test_a_worker_stops_in_time_while_the_database_is_unavailable(
    wired: Storage,
    wire: Wire,
    storage: Storage,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It logs the jobs without a stored result: they are still running, and will be rescued."""
    monkeypatch.setattr(base_worker, "FLUSH_TIMEOUT", timedelta(milliseconds=500))
    job = await storage.graph_jobs.add(build_job(tenant))
    worker = job_worker(wired, tenant, build=wait_forever)
    # A claim that is under way then is looked for during 15 seconds.
    async with asyncio.timeout(30), working(worker, grace=timedelta(0)):
        await wait_until(lambda: worker.stats.claimed == 1)
        wire.lasts, wire.fault = True, Fault.DROP_REQUEST
    wire.fault = Fault.NONE

    assert "stops without storing 1 attempt results; those jobs will be rescued" in caplog.text
    assert Status.RUNNING is (await get_job(storage, job)).status


async def test_a_result_that_the_database_refuses_fails_its_own_job_only(
    storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One such result, which our own checks do not refuse, does not block the others."""
    added = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(4)]
    patch = vars(AttemptResult)["patch"].fget

    def invalid_patch(result: AttemptResult) -> str:
        is_bad = result.job.id == added[1].id and result.status is Status.COMPLETED
        return r'{"status": "\u0000"}' if is_bad else str(patch(result))

    monkeypatch.setattr(AttemptResult, "patch", property(invalid_patch))
    await run_jobs(storage, tenant, build=return_result)

    assert [Status.COMPLETED, Status.FAILED, *[Status.COMPLETED] * 2] == await statuses_of(storage, added)
    error = (await get_job(storage, added[1])).error
    assert "could not be stored: the database refused a value (SQLSTATE 22P05)" in str(error)


async def test_a_dispatcher_stores_a_submission_once_after_an_outage(
    wired: Storage, wire: Wire, storage: Storage, tenant: str
) -> None:
    """Answers were lost several times, and the lease expired meanwhile, but no other dispatcher took the run."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    dispatched: list[int] = []

    async def dispatch(leased: PolicyRunJob, _context: DispatchContext) -> None:
        dispatched.append(leased.attempts)
        wire.lasts, wire.fault = True, Fault.DROP_REPLY

    dispatcher = RunTwin(wired, tenant).worker(dispatch, lease=timedelta(seconds=1), rescue=False)
    async with working(dispatcher):
        await wait_until(lambda: wire.hit >= 3)
        await asyncio.sleep(1.1)
        wire.fault = Fault.NONE
        await wait_until(lambda: dispatcher.stats.submitted + dispatcher.stats.lost == 1)

    assert (1, 0, [1]) == (dispatcher.stats.submitted, dispatcher.stats.lost, dispatched)
    assert ["pending", "dispatching", "submitted"] == await RunTwin(storage, tenant).statuses(run)
