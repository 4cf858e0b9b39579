"""Handlers of graph jobs: their results, errors, time limit and context."""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from graphjobs import ConfigurationError, GraphBuildJob, GraphJobsError, GraphJobStatus, GraphOverlayJob, JobConflict
from graphjobs.core.sanitizing import ERROR_LENGTH_MAX
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.storage import Storage
from graphjobs.worker import BuildResult, GraphJobWorker, JobContext, OverlayResult, handler_runner
from tests.builders import build_job, overlay_job
from tests.worker.twins import get_job, job_worker, run_jobs, statuses_of
from tests.worker.worker_control import return_result

Status = GraphJobStatus


@pytest_asyncio.fixture
async def job(storage: Storage, tenant: str) -> GraphBuildJob:
    """A queued build job."""
    return await storage.graph_jobs.add(build_job(tenant))


async def _need_three(_job: GraphBuildJob, _context: JobContext, _more: int) -> BuildResult:
    return BuildResult("graph")


# Results


async def test_the_result_of_a_handler_completes_its_job(storage: Storage, tenant: str) -> None:
    """The graph, the merged metadata and the followup are stored, and the event log names the worker."""
    job = await storage.graph_jobs.add(build_job(tenant, metadata={"branch": "main", "nodes": "?"}))
    followup = overlay_job(tenant, build_job_id=job.id)

    async def build(claimed: GraphBuildJob, _context: JobContext) -> BuildResult:
        assert (job.id, Status.RUNNING, 1) == (claimed.id, claimed.status, claimed.attempts)
        return BuildResult("graph-7", metadata={"nodes": "12"}, followups=[followup])

    worker = await run_jobs(storage, tenant, build=build)

    completed = await get_job(storage, job)
    assert isinstance(completed, GraphBuildJob)
    assert (Status.COMPLETED, "graph-7") == (completed.status, completed.graph_snapshot_id)
    assert {"branch": "main", "nodes": "12"} == dict(completed.metadata)
    assert Status.QUEUED is (await get_job(storage, followup)).status
    events = await storage.graph_jobs.events(tenant, job.id)
    log = [(event.status.value, event.payload.get("actor")) for event in events]
    assert [("queued", None), ("running", "worker"), ("completed", "worker")] == log
    assert (1, 1, 0) == (worker.stats.claimed, worker.stats.completed, worker.stats.failed)


@pytest.mark.parametrize("result", [None, OverlayResult(), OverlayResult(metadata={"findings": "3"})])
async def test_an_overlay_handler_may_return_none(storage: Storage, tenant: str, result: OverlayResult | None) -> None:
    job = await storage.graph_jobs.add(overlay_job(tenant))

    async def overlay(_job: GraphOverlayJob, _context: JobContext) -> OverlayResult | None:
        return result

    await run_jobs(storage, tenant, overlay=overlay)

    stored = await get_job(storage, job)
    assert (Status.COMPLETED, dict(result.metadata) if result else {}) == (stored.status, dict(stored.metadata))


class _UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class _HugeError(Exception):
    def __str__(self) -> str:
        return "x" * 30_000_000


class _HostileRepr:
    def __repr__(self) -> str:
        raise SystemExit(4)


class _HostileGroup(ExceptionGroup[ValueError]):
    @property
    def exceptions(self) -> Any:
        raise SystemExit(4)


class _HostileType(type):
    @property
    def __name__(cls) -> Any:  # type: ignore[override]
        raise RuntimeError


class _HostileNameError(Exception, metaclass=_HostileType):
    pass


def _exiting_followups() -> Iterator[GraphOverlayJob]:
    yield overlay_job("other")
    raise SystemExit(5)


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (ValueError("no such file"), "ValueError: no such file"),
        (
            ValueError("a\0b\ud800c\x1b[31m\nnext line"),
            "ValueError: a\N{REPLACEMENT CHARACTER}b?c\N{REPLACEMENT CHARACTER}[31m\nnext line",
        ),
        (KeyError(), "KeyError"),
        (_UnreadableError(), "_UnreadableError, which has no readable text"),
        (_HugeError(), "_HugeError: xxxx"),
        (
            ExceptionGroup("two errors", [ValueError("no such file"), KeyError()]),
            "ExceptionGroup: two errors (2 sub-exceptions); ValueError: no such file; KeyError",
        ),
        (KeyboardInterrupt(), "HandlerInterrupted: the handler raised KeyboardInterrupt"),
        (SystemExit(_HostileRepr()), "HandlerInterrupted: the handler raised SystemExit("),
        (_HostileGroup("group", [ValueError()]), "_HostileGroup, which has no readable text"),
        (_HostileNameError("text"), "_HostileNameError: text"),
        (BuildResult("graph", followups=_exiting_followups()), "HandlerInterrupted: the handler raised SystemExit(5)"),
        (SystemExit(3), "HandlerInterrupted: the handler raised SystemExit(3)"),
        (asyncio.CancelledError(), "the handler was cancelled, but not by the worker"),
        ("graph", "TypeError: the build handler returned str, not a BuildResult"),
        (BuildResult("x" * 300), "graph_snapshot_id must be text of 1 to 256 characters"),
        (
            BuildResult("graph", metadata={"nodes": 5}),  # type: ignore[dict-item]
            "metadata.nodes: must be text of 1 to 4,096 characters",
        ),
        (BuildResult("graph", followups=[overlay_job("other")]), "followups must be of the tenant of the job"),
    ],
)
async def test_an_error_of_a_handler_fails_its_own_job_with_a_bounded_text(
    storage: Storage, tenant: str, outcome: Any, error: str
) -> None:
    """The other jobs are completed, for any exception and any return value."""
    first, bad, last = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(3)]

    async def build(job: GraphBuildJob, context: JobContext) -> Any:
        if job.id == bad.id and isinstance(outcome, BaseException):
            raise outcome
        return outcome if job.id == bad.id else await return_result(job, context)

    worker = await run_jobs(storage, tenant, build=build)

    stored_error = (await get_job(storage, bad)).error
    assert stored_error is not None
    assert stored_error.startswith(error)
    assert len(stored_error) <= ERROR_LENGTH_MAX
    assert [Status.COMPLETED, Status.FAILED, Status.COMPLETED] == await statuses_of(storage, (first, bad, last))
    assert (2, 1) == (worker.stats.completed, worker.stats.failed)


@pytest.mark.parametrize(
    "handlers",
    [{}, {"build": None}, {"build": "text"}, {"overlay": 5}, {"build": lambda _job: None}, {"overlay": _need_three}],
)
async def test_invalid_handlers_are_refused(storage: Storage, handlers: dict[str, Any]) -> None:
    """A worker without a handler could do nothing."""
    with pytest.raises(ConfigurationError):
        GraphJobWorker(storage, **handlers)


async def test_a_function_that_returns_an_awaitable_is_a_handler(
    storage: Storage, tenant: str, job: GraphBuildJob
) -> None:
    """For instance a lambda that binds more arguments."""
    await run_jobs(storage, tenant, build=lambda *arguments: return_result(*arguments[:2]))
    assert Status.COMPLETED is (await get_job(storage, job)).status


async def test_a_broken_process_pool_ends_the_worker_and_fails_no_job(storage: Storage, tenant: str) -> None:
    """It would fail all queued jobs. The job that broke it is not released, to break the next pool forever."""
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(30)]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:

        async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
            await asyncio.get_running_loop().run_in_executor(pool, os._exit, 1)
            raise AssertionError

        worker = job_worker(storage, tenant, build=build, concurrency=2, batch=2)
        with pytest.raises(GraphJobsError, match="the executor of the handlers is broken, so restart the worker"):
            await asyncio.wait_for(worker.run(), 30)

    statuses = await statuses_of(storage, jobs)
    assert {Status.QUEUED, Status.RUNNING} == set(statuses)
    assert 1 <= statuses.count(Status.RUNNING) <= 4


# Time limit


async def test_each_job_has_its_own_time_limit(storage: Storage, tenant: str) -> None:
    """A later job is not cancelled together with an earlier one."""
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(3)]

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await asyncio.sleep(0.2 if job.id == jobs[1].id else 0.05)
        return BuildResult("graph")

    await run_jobs(storage, tenant, build=build, time_limit=timedelta(milliseconds=120), concurrency=1)

    assert [Status.COMPLETED, Status.FAILED, Status.COMPLETED] == await statuses_of(storage, jobs)


@pytest.mark.parametrize("limit", ["time_limit", "CANCEL_TIMEOUT"])
async def test_time_in_which_the_loop_stood_still_counts_against_no_handler(
    storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: str
) -> None:
    """One handler blocks the loop for longer than the limit; all others still need a moment after that."""
    blocks = asyncio.Event()
    is_cancelled = limit == "CANCEL_TIMEOUT"
    time_limit = timedelta(seconds=0.5 if is_cancelled else 2)
    monkeypatch.setattr(handler_runner, "CANCEL_TIMEOUT", timedelta(seconds=2))
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(5)]

    async def wait_for_block() -> None:
        await blocks.wait()
        await asyncio.sleep(0.3)

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        if job.id == jobs[-1].id:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
            time.sleep(3)  # noqa: ASYNC251  # it blocks the loop
            blocks.set()
            return BuildResult("graph")
        try:
            await wait_for_block()
        except asyncio.CancelledError:
            await wait_for_block()
            raise
        return BuildResult("graph")

    await run_jobs(storage, tenant, build=build, time_limit=time_limit)

    expected = [Status.FAILED] * 4 if is_cancelled else [Status.COMPLETED] * 5
    assert expected == (await statuses_of(storage, jobs))[: len(expected)]
    assert "was abandoned" not in caplog.text


async def test_a_handler_that_ignores_its_cancellation_is_abandoned(
    storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its job ends without it, its slot is free, and its later result is ignored."""
    monkeypatch.setattr(handler_runner, "CANCEL_TIMEOUT", timedelta(milliseconds=50))
    stubborn, following_job = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(2)]
    release = asyncio.Event()

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        if job.id == stubborn.id:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
        return BuildResult("too late")

    await run_jobs(storage, tenant, build=build, time_limit=timedelta(milliseconds=50), concurrency=1)

    assert [Status.FAILED, Status.COMPLETED] == await statuses_of(storage, (stubborn, following_job))
    assert "was abandoned" in caplog.text
    before = await storage.graph_jobs.events(tenant, stubborn.id)
    release.set()
    await asyncio.sleep(0.05)
    assert before == await storage.graph_jobs.events(tenant, stubborn.id)


async def test_a_result_returned_during_the_cancellation_counts(
    storage: Storage, tenant: str, job: GraphBuildJob
) -> None:
    """The work is done."""

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return BuildResult("just in time")
        raise AssertionError

    await run_jobs(storage, tenant, build=build, time_limit=timedelta(milliseconds=30))

    assert Status.COMPLETED is (await get_job(storage, job)).status


# Context


async def test_progress_is_stored_in_the_payload_and_the_event_log(storage: Storage, tenant: str) -> None:
    """Concurrent heartbeats change the version, and the result of the handler keeps the progress."""
    job = await storage.graph_jobs.add(build_job(tenant, metadata={"branch": "main"}))

    async def build(_job: GraphBuildJob, context: JobContext) -> BuildResult:
        for step in range(20):
            await asyncio.gather(context.renew(), context.progress(metadata={"step": str(step)}))
        updated = await context.progress(cartographer_job_id="cartographer-1")
        assert updated == context.job == (await get_job(storage, job))
        return BuildResult("graph", metadata={"nodes": "5"})

    await run_jobs(storage, tenant, build=build)

    completed = await get_job(storage, job)
    assert isinstance(completed, GraphBuildJob)
    assert {"branch": "main", "step": "19", "nodes": "5"} == dict(completed.metadata)
    assert "cartographer-1" == completed.cartographer_job_id
    assert 2 + 21 + 1 == len(await storage.graph_jobs.events(tenant, job.id))


async def test_progress_keeps_the_metadata_of_another_writer(storage: Storage, tenant: str, job: GraphBuildJob) -> None:
    """It is merged into the stored value."""

    async def build(_job: GraphBuildJob, context: JobContext) -> BuildResult:
        other = (await get_job(storage, job)).renew(metadata={"by": "another"})
        assert (await storage.graph_jobs.update(other, expected=Status.RUNNING)).applied
        await context.progress(metadata={"mine": "too"})
        return BuildResult("graph")

    await run_jobs(storage, tenant, build=build)

    assert {"by": "another", "mine": "too"} == dict((await get_job(storage, job)).metadata)


async def test_the_handler_of_a_canceled_job_is_cancelled_and_the_job_stays_canceled(
    storage: Storage, tenant: str, job: GraphBuildJob
) -> None:
    """The next heartbeat finds out; earlier calls of progress and renew report it, too."""
    reports: list[object] = []

    async def build(_job: GraphBuildJob, context: JobContext) -> BuildResult:
        running = await get_job(storage, job)
        await storage.graph_jobs.update(running.cancel(at=running.created_at), expected=Status.RUNNING)
        with pytest.raises(JobConflict):
            await context.progress(metadata={"a": "b"})
        reports.append(context.cancelled)
        reports.append(await context.renew())
        try:
            await asyncio.Event().wait()
        finally:
            reports.append("ended")
        raise AssertionError

    worker = await run_jobs(storage, tenant, build=build, lease=timedelta(seconds=1))

    assert [True, False, "ended"] == reports
    assert Status.CANCELED is (await get_job(storage, job)).status
    assert (0, 0, 1) == (worker.stats.completed, worker.stats.failed, worker.stats.lost)


async def test_a_job_lost_unnoticed_and_claimed_again_is_completed_at_the_new_attempt(
    storage: Storage, tenant: str, job: GraphBuildJob
) -> None:
    """The handler of the earlier attempt is cancelled, and neither its time limit nor its end affects the new one."""
    log: list[str] = []

    async def build(claimed: GraphBuildJob, _context: JobContext) -> BuildResult:
        log.append(f"starts {claimed.attempts}")
        try:
            if claimed.attempts == 1:
                await storage.graph_job_queue.end([AttemptResult.released(claimed)])
                await asyncio.Event().wait()
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            raise
        finally:
            log.append(f"ends {claimed.attempts}")
        return BuildResult("graph")

    worker = await run_jobs(storage, tenant, build=build)

    assert ["starts 1", "starts 2", "ends 1", "ends 2"] == log
    completed = await get_job(storage, job)
    assert (Status.COMPLETED, 2) == (completed.status, completed.attempts)
    assert (2, 1, 1) == (worker.stats.claimed, worker.stats.completed, worker.stats.lost)
