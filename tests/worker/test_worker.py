"""What the worker promises: each job once, each in time, each end told, whatever a handler does."""

import asyncio
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from typing import Any

import pytest

from graphjobs import (
    ConfigurationError,
    GraphBuildJob,
    GraphJobEvent,
    GraphJobQuery,
    GraphJobsError,
    GraphJobStatus,
    GraphJobType,
    GraphOverlayJob,
    JobConflict,
    open_storage,
)
from graphjobs.core.fields import ERROR_LENGTH_MAX
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.storage import Storage
from graphjobs.worker import BuildResult, GraphJobWorker, JobContext, OverlayResult, WorkerOptions
from graphjobs.worker import handler_runner as running_room
from graphjobs.worker.options import Backoff, jittered
from graphjobs.worker.tenant_rotation import Rotation
from tests.builders import build_job, overlay_job

Status = GraphJobStatus

_SOON = timedelta(milliseconds=20)


def options(tenant: str, **given: Any) -> WorkerOptions:
    """Options of a worker that serves the test's own tenant, and looks often."""
    return WorkerOptions(**{"tenant": tenant, "name": "worker", "poll": _SOON, **given})


async def built(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
    """A handler that has nothing to do."""
    return BuildResult("graph")


async def built_by_three(_job: GraphBuildJob, _context: JobContext, _more: int) -> BuildResult:
    """A handler that nobody could call."""
    return BuildResult("graph")


async def now(storage: Storage, job: AnyJob) -> AnyJob:
    """The job as it is."""
    found = await storage.graph_jobs.get_job(job.tenant_id, job.id)
    assert found is not None
    return found


async def events(storage: Storage, job: AnyJob) -> list[GraphJobEvent]:
    """A job's log."""
    return list(await storage.graph_jobs.events(job.tenant_id, job.id))


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30.0) -> None:
    """Waits until it is so, and fails where that takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        so = condition()
        if so if isinstance(so, bool) else await so:
            return
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


async def run(storage: Storage, tenant: str, **given: Any) -> GraphJobWorker:
    """Runs a worker until nothing is queued."""
    handlers = {name: given.pop(name) for name in ("build", "overlay", "on_ended") if name in given}
    worker = GraphJobWorker(storage, options=options(tenant, **given), **handlers)
    async with asyncio.timeout(30):
        await worker.run(until_empty=True)
    return worker


# What a handler returns


async def test_what_a_handler_returns_completes_its_job(storage: Storage, tenant: str) -> None:
    """With its graph, its metadata over what the job holds, and its own follow-up; the log says who."""
    job = await storage.graph_jobs.add(build_job(tenant, metadata={"branch": "main", "nodes": "?"}))
    follows = overlay_job(tenant, build_job_id=job.id)

    async def build(given: GraphBuildJob, _context: JobContext) -> BuildResult:
        assert (job.id, Status.RUNNING, 1) == (given.id, given.status, given.attempts)
        return BuildResult("graph-7", metadata={"nodes": "12"}, following=[follows])

    worker = await run(storage, tenant, build=build)

    ended = await now(storage, job)
    assert isinstance(ended, GraphBuildJob)
    assert (Status.COMPLETED, "graph-7") == (ended.status, ended.graph_snapshot_id)
    assert {"branch": "main", "nodes": "12"} == dict(ended.metadata)
    assert Status.QUEUED is (await now(storage, follows)).status
    told = [(event.status.value, event.payload.get("actor")) for event in await events(storage, job)]
    assert [("queued", None), ("running", "worker"), ("completed", "worker")] == told
    assert (1, 1, 0) == (worker.counts.claimed, worker.counts.completed, worker.counts.failed)


@pytest.mark.parametrize("result", [None, OverlayResult(), OverlayResult(metadata={"findings": "3"})])
async def test_an_overlay_may_be_completed_with_nothing_to_tell(
    storage: Storage, tenant: str, result: OverlayResult | None
) -> None:
    """Or with metadata."""
    job = await storage.graph_jobs.add(overlay_job(tenant))

    async def overlay(_job: GraphOverlayJob, _context: JobContext) -> OverlayResult | None:
        return result

    await run(storage, tenant, overlay=overlay)

    ended = await now(storage, job)
    assert (Status.COMPLETED, dict(result.metadata) if result else {}) == (ended.status, dict(ended.metadata))


async def test_a_worker_takes_the_kinds_it_has_handlers_for(storage: Storage, tenant: str) -> None:
    """The others are left to other workers."""
    build, overlay = [await storage.graph_jobs.add(job) for job in (build_job(tenant), overlay_job(tenant))]

    await run(storage, tenant, build=built)

    assert [Status.COMPLETED, Status.QUEUED] == [(await now(storage, job)).status for job in (build, overlay)]


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class _Huge(Exception):
    def __str__(self) -> str:
        return "x" * 30_000_000


async def _raises_plainly() -> BuildResult:
    raise ValueError("no such file")


async def _raises_hostile_text() -> BuildResult:
    raise ValueError("a\0b\ud800c\x1b[31m\nnext line")


async def _raises_nothing_to_say() -> BuildResult:
    raise KeyError


async def _raises_without_words() -> BuildResult:
    raise _Unspeakable


async def _raises_too_much() -> BuildResult:
    raise _Huge


async def _raises_a_group() -> BuildResult:
    raise ExceptionGroup("two of them", [ValueError("no such file"), KeyError()])


async def _interrupts() -> BuildResult:
    raise KeyboardInterrupt


async def _exits() -> BuildResult:
    raise SystemExit(3)


async def _cancels_itself() -> BuildResult:
    raise asyncio.CancelledError


async def _returns_something_else() -> Any:
    return "graph"


async def _returns_what_cannot_be() -> BuildResult:
    return BuildResult("x" * 300)


async def _returns_strange_metadata() -> BuildResult:
    return BuildResult("graph", metadata={"nodes": 5})  # type: ignore[dict-item]


async def _returns_anothers_follow_up() -> BuildResult:
    return BuildResult("graph", following=[overlay_job("somebody-else")])


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (_raises_plainly, "ValueError: no such file"),
        (_raises_hostile_text, "ValueError: a\N{REPLACEMENT CHARACTER}b?c\N{REPLACEMENT CHARACTER}[31m\nnext line"),
        (_raises_nothing_to_say, "KeyError"),
        (_raises_without_words, "_Unspeakable, which could not be told"),
        (_raises_too_much, "_Huge: xxxx"),
        (_raises_a_group, "ExceptionGroup: two of them (2 sub-exceptions); ValueError: no such file; KeyError"),
        (_interrupts, "Interrupted: the handler was interrupted"),
        (_exits, "Interrupted: the handler asked the process to exit, with 3"),
        (_cancels_itself, "the handler was cancelled from within"),
        (_returns_something_else, "TypeError: the build handler returned str, not a BuildResult"),
        (_returns_what_cannot_be, "graph_snapshot_id must be text of 1 to 256 characters"),
        (_returns_strange_metadata, "metadata.nodes: must be text of 1 to 4,096 characters"),
        (_returns_anothers_follow_up, "followups must be of the tenant of the job"),
    ],
)
async def test_a_handler_that_fails_fails_its_job_with_a_bounded_reason(
    storage: Storage, tenant: str, handler: Callable[[], Awaitable[BuildResult]], error: str
) -> None:
    """And no other; whatever it raises or returns."""
    first, bad, last = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(3)]

    async def build(job: GraphBuildJob, context: JobContext) -> BuildResult:
        return await (handler() if job.id == bad.id else built(job, context))

    worker = await run(storage, tenant, build=build)

    ended = await now(storage, bad)
    assert Status.FAILED is ended.status
    assert ended.error is not None
    assert ended.error.startswith(error)
    assert len(ended.error) <= ERROR_LENGTH_MAX
    assert [Status.COMPLETED] * 2 == [(await now(storage, job)).status for job in (first, last)]
    assert (2, 1) == (worker.counts.completed, worker.counts.failed)


async def test_a_handler_that_hangs_meets_its_time_limit(storage: Storage, tenant: str) -> None:
    """It is cancelled, and its job fails and says why."""
    job = await storage.graph_jobs.add(build_job(tenant))
    ended_by: list[str] = []

    async def build(_job: GraphBuildJob, context: JobContext) -> BuildResult:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended_by.append(f"cancelled: {context.cancelled}")
            raise
        raise AssertionError

    await run(storage, tenant, build=build, time_limit=timedelta(milliseconds=50))

    assert "it took longer than 0:00:00.050000, which is the most it gets" == (await now(storage, job)).error
    assert ["cancelled: True"] == ended_by


async def test_time_limits_are_each_jobs_own(storage: Storage, tenant: str) -> None:
    """A later job is not cut with an earlier one."""
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(3)]

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await asyncio.sleep(0.2 if job.id == jobs[1].id else 0.05)
        return BuildResult("graph")

    await run(storage, tenant, build=build, time_limit=timedelta(milliseconds=120), concurrency=1)

    assert [Status.COMPLETED, Status.FAILED, Status.COMPLETED] == [(await now(storage, job)).status for job in jobs]


async def test_a_handler_that_swallows_its_cancel_is_left_behind(
    storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its job ends without it, and its place is free; what it returns later counts for nothing."""
    monkeypatch.setattr(running_room, "PATIENCE", timedelta(milliseconds=50))
    stubborn, next_one = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(2)]
    release = asyncio.Event()

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        if job.id == stubborn.id:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
        return BuildResult("too late")

    await run(storage, tenant, build=build, time_limit=timedelta(milliseconds=50), concurrency=1)

    assert [Status.FAILED, Status.COMPLETED] == [(await now(storage, job)).status for job in (stubborn, next_one)]
    assert "was left behind" in caplog.text
    before = await events(storage, stubborn)
    release.set()
    await asyncio.sleep(0.05)
    assert before == await events(storage, stubborn)


async def test_a_result_that_comes_with_the_cancel_counts(storage: Storage, tenant: str) -> None:
    """What was done is done."""
    job = await storage.graph_jobs.add(build_job(tenant))

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return BuildResult("just in time")
        raise AssertionError

    await run(storage, tenant, build=build, time_limit=timedelta(milliseconds=30))

    assert Status.COMPLETED is (await now(storage, job)).status


# Many jobs


async def test_every_job_is_done_once_and_never_more_at_a_time_than_allowed(storage: Storage, tenant: str) -> None:
    """By several workers beside one another."""
    added = await storage.graph_jobs.add_many(build_job(tenant) for _ in range(400))
    at_once, most, done = 0, 0, []

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        done.append(job.id)
        return BuildResult("graph")

    workers = await asyncio.gather(*(run(storage, tenant, build=build, concurrency=5, batch=3) for _ in range(4)))

    assert sorted(job.id for job in added) == sorted(done)
    assert most <= 20
    assert 400 == sum(worker.counts.completed for worker in workers)
    assert {3} == {len(await events(storage, job)) for job in added[:30]}


async def test_both_kinds_get_their_turn(storage: Storage, tenant: str) -> None:
    """However many of the one wait."""
    await storage.graph_jobs.add_many(build_job(tenant) for _ in range(50))
    await storage.graph_jobs.add_many(overlay_job(tenant) for _ in range(5))
    order: list[str] = []

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        order.append(job.type)
        return BuildResult("graph")

    async def overlay(job: GraphOverlayJob, _context: JobContext) -> None:
        order.append(job.type)

    await run(storage, tenant, build=build, overlay=overlay, concurrency=2, batch=2)

    assert 5 == order[:25].count("overlay")


async def test_a_worker_of_all_tenants_serves_each(graphjobs_storage: Storage) -> None:
    """Those that come while it works, too; of one that has much, it takes no more than its share."""
    storage = graphjobs_storage
    await storage.graph_jobs.add_many(build_job("busy") for _ in range(300))
    order: list[str] = []

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        order.append(job.tenant_id)
        if len(order) == 1:
            await storage.graph_jobs.add(build_job("late"))
        await asyncio.sleep(0.005)
        return BuildResult("graph")

    worker = GraphJobWorker(storage, build=build, options=WorkerOptions(concurrency=4, batch=4, poll=_SOON))
    await worker.run(until_empty=True)

    assert 301 == len(order)
    # 0.1 seconds is how long a list of those that wait is good for.
    assert "late" in order[: 4 + 4 * 40]


async def test_a_row_that_cannot_be_read_is_reported_and_stops_nobody(
    storage: Storage, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It has failed, and comes no more."""
    strange, sound = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(2)]
    async with storage.session() as session, session.begin():
        connection = await session.connection()
        await connection.exec_driver_sql("UPDATE scheduler.graph_jobs SET payload = '[]' WHERE id = $1", (strange.id,))

    worker = await run(storage, tenant, build=built)

    assert Status.COMPLETED is (await now(storage, sound)).status
    assert (2, 1, 1) == (worker.counts.claimed, worker.counts.completed, worker.counts.unreadable)
    assert str(strange.id) in caplog.text


async def test_what_follows_is_done_too_before_it_ends(storage: Storage, tenant: str) -> None:
    """Told to work until nothing is queued, it does not miss what its last job added."""
    for _ in range(15):
        build = await storage.graph_jobs.add(build_job(tenant))
        follows = overlay_job(tenant, build_job_id=build.id)

        async def adds(_job: GraphBuildJob, _context: JobContext, follows: GraphOverlayJob = follows) -> BuildResult:
            return BuildResult("graph", following=[follows])

        async def overlay(_job: GraphOverlayJob, _context: JobContext) -> None:
            await asyncio.sleep(0)

        await run(storage, tenant, build=adds, overlay=overlay)
        assert Status.COMPLETED is (await now(storage, follows)).status


async def test_what_follows_is_done_though_it_is_added_amid_the_last_look(
    storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that found nothing says nothing of what ended during it."""
    build = await storage.graph_jobs.add(build_job(tenant))
    follows = overlay_job(tenant, build_job_id=build.id)
    go_on = asyncio.Event()

    async def adds(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await go_on.wait()
        return BuildResult("graph", following=[follows])

    async def overlay(_job: GraphOverlayJob, _context: JobContext) -> None:
        return None

    worker = GraphJobWorker(storage, build=adds, overlay=overlay, options=options(tenant))
    look = worker._claim_of_each_kind

    async def slow_look() -> int:
        found = await look()
        if not found and not go_on.is_set():
            go_on.set()
            await until(lambda: not worker.in_hand)
        return found

    monkeypatch.setattr(worker, "_claim_of_each_kind", slow_look)
    await asyncio.wait_for(worker.run(until_empty=True), 10)

    assert Status.COMPLETED is (await now(storage, follows)).status


async def test_a_list_of_those_who_wait_that_is_a_moment_old_is_not_believed(graphjobs_storage: Storage) -> None:
    """Finding nothing of theirs, a claim looks who else waits by now."""
    storage = graphjobs_storage
    await storage.graph_jobs.add(build_job("a"))
    worker = GraphJobWorker(storage, build=built, options=WorkerOptions(poll=_SOON))
    assert 1 == await worker._claim(GraphJobType.BUILD, 1)
    await storage.graph_jobs.add(build_job("b"))
    assert 1 == await worker._claim(GraphJobType.BUILD, 1)
    worker.stop()
    await worker.run()


async def test_two_turns_at_once_are_of_different_tenants(graphjobs_storage: Storage) -> None:
    """A worker that claims twice at a time serves as many tenants as one that claims twice in a row."""
    for number in range(6):
        await graphjobs_storage.graph_jobs.add(build_job(f"tenant-{number}"))
    rotation = Rotation(graphjobs_storage.graph_job_queue, GraphJobType.BUILD, None)

    turns = await asyncio.gather(*(rotation.next_turn(2) for _ in range(3)))

    assert {f"tenant-{number}" for number in range(6)} == {tenant for tenants, _ in turns for tenant in tenants}


async def test_tenants_no_job_can_have_do_not_stop_a_worker(graphjobs_storage: Storage) -> None:
    """Rows written by hand are set aside, and everybody else is served."""
    odd, sound = [await graphjobs_storage.graph_jobs.add(build_job("acme")) for _ in range(2)]
    async with graphjobs_storage.session() as session, session.begin():
        connection = await session.connection()
        await connection.exec_driver_sql("UPDATE scheduler.graph_jobs SET tenant_id = '' WHERE id = $1", (odd.id,))

    worker = GraphJobWorker(graphjobs_storage, build=built, options=WorkerOptions(poll=_SOON))
    await asyncio.wait_for(worker.run(until_empty=True), 20)

    assert (1, 1) == (worker.counts.completed, worker.counts.unreadable)
    assert Status.COMPLETED is (await now(graphjobs_storage, sound)).status


async def test_one_row_that_somebody_holds_keeps_no_other_waiting(storage: Storage, tenant: str) -> None:
    """Its own end waits until the row is free."""
    held, *others = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(10)]
    go_on = asyncio.Event()

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await go_on.wait()
        return BuildResult("graph")

    worker = GraphJobWorker(storage, build=build, options=options(tenant))
    working = asyncio.ensure_future(worker.run(until_empty=True))
    await until(lambda: worker.counts.claimed == 10)
    async with storage.session() as session, session.begin():
        await storage.graph_job_queue.using(session).renew([await now(storage, held)])
        go_on.set()
        await until(lambda: worker.counts.completed == 9, seconds=5)
        assert Status.RUNNING is (await now(storage, held)).status
    await asyncio.wait_for(working, 5)

    assert (10, 0) == (worker.counts.completed, worker.counts.lost)
    assert {Status.COMPLETED} == {(await now(storage, job)).status for job in (held, *others)}


async def test_a_live_job_whose_row_was_held_for_long_is_not_rescued(storage: Storage, tenant: str) -> None:
    """Nobody could renew it meanwhile: its silence says nothing."""
    job = await storage.graph_jobs.add(build_job(tenant))
    go_on = asyncio.Event()

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await go_on.wait()
        return BuildResult("graph")

    worker = GraphJobWorker(storage, build=build, options=options(tenant, lease=timedelta(seconds=1)))
    working = asyncio.ensure_future(worker.run(until_empty=True))
    await until(lambda: worker.counts.claimed == 1)
    async with storage.session() as session, session.begin():
        await storage.graph_job_queue.using(session).renew([await now(storage, job)])
        await asyncio.sleep(2.5)
    await asyncio.sleep(1.0)
    go_on.set()
    await asyncio.wait_for(working, 10)

    assert (0, 1) == (worker.counts.rescued, worker.counts.completed)
    assert 1 == (await now(storage, job)).attempts


async def test_an_error_of_the_server_fails_no_job(
    storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever passes is waited for; only what is refused for itself is failed."""
    job = await storage.graph_jobs.add(build_job(tenant))
    real, errors = storage.graph_job_queue.end, [GraphJobsError("odd", sqlstate="26000")] * 3

    async def failing(*args: Any, **given: Any) -> Any:
        if errors:
            raise errors.pop()
        return await real(*args, **given)

    monkeypatch.setattr(storage.graph_job_queue, "end", failing)
    worker = await run(storage, tenant, build=built)

    assert (1, 0, 0) == (worker.counts.completed, worker.counts.failed, worker.counts.lost)
    assert Status.COMPLETED is (await now(storage, job)).status


# What a handler can do


async def test_progress_is_noted_in_the_payload_and_the_log_and_survives_the_end(storage: Storage, tenant: str) -> None:
    """Between heartbeats, which raise the version under it."""
    job = await storage.graph_jobs.add(build_job(tenant, metadata={"branch": "main"}))

    async def build(_job: GraphBuildJob, context: JobContext) -> BuildResult:
        for step in range(20):
            await asyncio.gather(context.renew(), context.progress(metadata={"step": str(step)}))
        noted = await context.progress(cartographer_job_id="cartographer-1")
        assert noted == context.job == (await now(storage, job))
        return BuildResult("graph", metadata={"nodes": "5"})

    await run(storage, tenant, build=build)

    ended = await now(storage, job)
    assert isinstance(ended, GraphBuildJob)
    assert {"branch": "main", "step": "19", "nodes": "5"} == dict(ended.metadata)
    assert "cartographer-1" == ended.cartographer_job_id
    assert 2 + 21 + 1 == len(await events(storage, job))


async def test_progress_that_somebody_else_noted_is_kept(storage: Storage, tenant: str) -> None:
    """It is noted on the job as it then is."""
    job = await storage.graph_jobs.add(build_job(tenant))

    async def build(_job: GraphBuildJob, context: JobContext) -> BuildResult:
        found = await now(storage, job)
        assert isinstance(found, GraphBuildJob)
        other = found.renew(metadata={"by": "another"})
        assert (await storage.graph_jobs.update(other, expected=Status.RUNNING)).applied
        await context.progress(metadata={"mine": "too"})
        return BuildResult("graph")

    await run(storage, tenant, build=build)

    assert {"by": "another", "mine": "too"} == dict((await now(storage, job)).metadata)


async def test_a_job_that_was_canceled_is_cancelled_here_and_stays_canceled(storage: Storage, tenant: str) -> None:
    """The next heartbeat finds out; progress and renewals before it say so, too."""
    job = await storage.graph_jobs.add(build_job(tenant))
    told: list[object] = []

    async def build(_job: GraphBuildJob, context: JobContext) -> BuildResult:
        running = await now(storage, job)
        await storage.graph_jobs.update(running.cancel(at=running.created_at), expected=Status.RUNNING)
        with pytest.raises(JobConflict):
            await context.progress(metadata={"a": "b"})
        told.append(context.cancelled)
        told.append(await context.renew())
        try:
            await asyncio.Event().wait()
        finally:
            told.append("ended")
        raise AssertionError

    worker = await run(storage, tenant, build=build, lease=timedelta(seconds=1))

    assert [True, False, "ended"] == told
    assert Status.CANCELED is (await now(storage, job)).status
    assert (0, 0, 1) == (worker.counts.completed, worker.counts.failed, worker.counts.lost)


async def test_running_jobs_are_renewed_and_so_not_rescued(storage: Storage, tenant: str) -> None:
    """For several leases, beside a rescuer that looks all the time."""
    job = await storage.graph_jobs.add(build_job(tenant))

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await asyncio.sleep(3.5)
        return BuildResult("graph")

    lease = timedelta(seconds=1)
    worker = GraphJobWorker(storage, build=build, options=options(tenant, lease=lease, rescue=False))
    working = asyncio.ensure_future(worker.run())
    await until(lambda: worker.counts.claimed == 1)
    rescuer = GraphJobWorker(storage, build=built, options=options(tenant, name="rescuer", lease=lease))
    rescuing = asyncio.ensure_future(rescuer.run())
    await until(lambda: worker.counts.completed == 1)
    for one in (worker, rescuer):
        one.stop()
    await asyncio.gather(working, rescuing)

    assert (0, 0) == (rescuer.counts.rescued, rescuer.counts.claimed)
    assert 1 == (await now(storage, job)).attempts


async def test_age_alone_takes_no_job(storage: Storage, tenant: str) -> None:
    """After an outage all versions are old: what is renewed between two looks is alive, what is not has stopped."""
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(2)]
    alive, stopped = (await storage.graph_job_queue.claim(tenant, "build", limit=2)).jobs
    async with storage.session() as session, session.begin():
        connection = await session.connection()
        await connection.exec_driver_sql(
            "UPDATE scheduler.graph_jobs SET updated_at = now() - interval '1 hour' WHERE tenant_id = $1", (tenant,)
        )
    worker = GraphJobWorker(storage, build=built, options=options(tenant))
    rescuer = worker._rescuer()
    (look,) = rescuer.looks

    await rescuer.taken_of(await look())
    assert [Status.RUNNING] * 2 == [(await now(storage, job)).status for job in jobs]
    await storage.graph_job_queue.renew([alive])
    await rescuer.taken_of(await look())

    assert [Status.RUNNING, Status.QUEUED] == [(await now(storage, job)).status for job in (alive, stopped)]
    assert 1 == worker.counts.rescued


async def test_a_job_whose_worker_is_gone_is_rescued_and_done(storage: Storage, tenant: str) -> None:
    """By another, at the next attempt."""
    job = await storage.graph_jobs.add(build_job(tenant))
    (claimed,) = (await storage.graph_job_queue.claim(tenant, "build", limit=1, actor="gone")).jobs

    worker = GraphJobWorker(storage, build=built, options=options(tenant, lease=timedelta(seconds=1)))
    working = asyncio.ensure_future(worker.run())
    await until(lambda: worker.counts.completed == 1)
    worker.stop()
    await working

    ended = await now(storage, job)
    assert (Status.COMPLETED, claimed.attempts + 1) == (ended.status, ended.attempts)
    assert 1 == worker.counts.rescued


async def test_a_job_it_lost_unnoticed_and_claims_again_is_done_at_the_new_attempt(
    storage: Storage, tenant: str
) -> None:
    """The handler of the attempt before is cut, and takes nothing with it: neither its limit nor its end."""
    job = await storage.graph_jobs.add(build_job(tenant))
    ran: list[str] = []

    async def build(given: GraphBuildJob, _context: JobContext) -> BuildResult:
        ran.append(f"begins {given.attempts}")
        try:
            if given.attempts == 1:
                await storage.graph_job_queue.end([AttemptResult.released(given)])
                await asyncio.Event().wait()
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            raise
        finally:
            ran.append(f"ends {given.attempts}")
        return BuildResult("graph")

    worker = await run(storage, tenant, build=build)

    assert ["begins 1", "begins 2", "ends 1", "ends 2"] == ran
    ended = await now(storage, job)
    assert (Status.COMPLETED, 2) == (ended.status, ended.attempts)
    assert (2, 1, 1) == (worker.counts.claimed, worker.counts.completed, worker.counts.lost)


# The end


async def test_told_to_stop_it_lets_handlers_end(storage: Storage, tenant: str) -> None:
    """Within the grace; it claims no more meanwhile, and tells the handlers."""
    first, second = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(2)]
    told: list[bool] = []

    async def build(_job: GraphBuildJob, context: JobContext) -> BuildResult:
        worker.stop()
        await asyncio.sleep(0.05)
        told.append(context.stopping)
        return BuildResult("graph")

    worker = GraphJobWorker(storage, build=build, options=options(tenant, concurrency=1))
    async with asyncio.timeout(5):
        await worker.run()

    assert [True] == told
    assert [Status.COMPLETED, Status.QUEUED] == [(await now(storage, job)).status for job in (first, second)]
    assert 0 == worker.in_hand


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenProcessPool("a child died")])
async def test_a_handler_whose_processes_were_told_to_stop_too_gives_back(
    storage: Storage, tenant: str, error: BaseException
) -> None:
    """The word to stop reaches the whole group of processes: that is no fault of the job's."""
    job = await storage.graph_jobs.add(build_job(tenant))

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        worker.stop()
        raise error

    worker = GraphJobWorker(storage, build=build, options=options(tenant))
    await asyncio.wait_for(worker.run(), 10)

    assert (Status.QUEUED, 1) == ((await now(storage, job)).status, worker.counts.given_back)


async def test_a_pool_that_broke_ends_the_worker_and_fails_no_job(storage: Storage, tenant: str) -> None:
    """It would fail all that is queued; and the job that broke it is not given back, to break the next one for ever."""
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(30)]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:

        async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
            await asyncio.get_running_loop().run_in_executor(pool, os._exit, 1)
            raise AssertionError

        worker = GraphJobWorker(storage, build=build, options=options(tenant, concurrency=2, batch=2))
        with pytest.raises(GraphJobsError, match="the handlers' executor is broken, so start the worker anew"):
            await asyncio.wait_for(worker.run(), 30)

    statuses = [(await now(storage, job)).status for job in jobs]
    assert {Status.QUEUED, Status.RUNNING} == set(statuses)
    assert 1 <= statuses.count(Status.RUNNING) <= 4


async def test_after_its_grace_it_gives_back_the_rest(storage: Storage, tenant: str) -> None:
    """In order: their attempts stay, and anybody may take them at once."""
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(3)]

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await asyncio.Event().wait()
        raise AssertionError

    worker = GraphJobWorker(storage, build=build, options=options(tenant, grace=timedelta(milliseconds=50)))
    working = asyncio.ensure_future(worker.run())
    await until(lambda: worker.counts.claimed == 3)
    worker.stop()
    async with asyncio.timeout(5):
        await working

    assert 3 == worker.counts.given_back
    for job in jobs:
        given_back = await now(storage, job)
        assert (Status.QUEUED, 1) == (given_back.status, given_back.attempts)
        assert ["queued", "running", "queued"] == [event.status.value for event in await events(storage, job)]


async def test_cancelled_it_gives_back_at_once(storage: Storage, tenant: str) -> None:
    """And only then the cancel goes on."""
    job = await storage.graph_jobs.add(build_job(tenant))

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await asyncio.Event().wait()
        raise AssertionError

    worker = GraphJobWorker(storage, build=build, options=options(tenant, grace=timedelta(hours=1)))
    working = asyncio.ensure_future(worker.run())
    await until(lambda: worker.counts.claimed == 1)
    working.cancel()
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await working

    assert Status.QUEUED is (await now(storage, job)).status


_FORGETS_ITS_WORKER = """
import asyncio, sys
from graphjobs import open_storage
from graphjobs.settings import Settings
from graphjobs.worker import GraphJobWorker, WorkerOptions

async def waits(job, context):
    await asyncio.Event().wait()

async def main():
    storage = await open_storage(Settings.load(database_url=sys.argv[1])).__aenter__()
    worker = GraphJobWorker(storage, build=waits, options=WorkerOptions(tenant="acme"))
    kept.append(asyncio.ensure_future(worker.run()))
    while worker.counts.claimed < 5:
        await asyncio.sleep(0.01)

kept = []
asyncio.run(main())
"""


async def test_an_event_loop_that_ends_takes_it_along_in_order(
    graphjobs_storage: Storage, graphjobs_settings: Any
) -> None:
    """`asyncio.run` cancels whatever there is at once: what ran is given back, and soon."""
    added = await graphjobs_storage.graph_jobs.add_many(build_job("acme") for _ in range(5))
    url = graphjobs_settings.database_url.get_secret_value()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _FORGETS_ITS_WORKER, url)
    assert 0 == await asyncio.wait_for(process.wait(), 20)
    for job in added:
        moves = [event.status for event in await events(graphjobs_storage, job)]
        assert [Status.QUEUED, Status.RUNNING, Status.QUEUED] == moves


async def test_a_second_word_to_stop_shortens_the_grace(storage: Storage, tenant: str) -> None:
    """As who presses Ctrl-C twice expects."""
    await storage.graph_jobs.add(build_job(tenant))

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await asyncio.Event().wait()
        raise AssertionError

    worker = GraphJobWorker(storage, build=build, options=options(tenant, grace=timedelta(hours=1)))
    working = asyncio.ensure_future(worker.run())
    await until(lambda: worker.counts.claimed == 1)
    worker.stop()
    worker.stop(grace=timedelta(0))
    async with asyncio.timeout(5):
        await working

    assert 1 == worker.counts.given_back


async def test_a_worker_runs_once(storage: Storage, tenant: str) -> None:
    """Stopped before it begins, it ends at once; and does not begin again."""
    worker = GraphJobWorker(storage, build=built, options=options(tenant))
    worker.stop()
    async with asyncio.timeout(5):
        await worker.run()
    with pytest.raises(ConfigurationError, match="a GraphJobWorker runs once"):
        await worker.run()


# Waking


async def test_a_notice_wakes_a_worker_that_would_not_look_for_long(graphjobs_settings: Any) -> None:
    """Where both sides were asked for it: the storage to tell, the worker to listen."""
    telling = graphjobs_settings.model_copy(update={"notify": True})
    async with open_storage(telling) as storage:
        ended = asyncio.Event()
        worker = GraphJobWorker(
            storage,
            build=built,
            options=options("acme", poll=timedelta(hours=1), listen=True),
            on_ended=lambda _ending: ended.set(),
        )
        working = asyncio.ensure_future(worker.run())
        for _ in range(3):
            await asyncio.sleep(0.1)
            ended.clear()
            await storage.graph_jobs.add(build_job("acme"))
            async with asyncio.timeout(5):
                await ended.wait()
        worker.stop()
        await working
    assert 3 == worker.counts.completed


async def test_a_notice_that_comes_amid_claims_of_others_is_not_lost(graphjobs_settings: Any) -> None:
    """A list of who waits is a moment old: finding nothing of theirs, it looks who else does."""
    async with open_storage(graphjobs_settings.model_copy(update={"notify": True})) as storage:
        await storage.graph_jobs.add(build_job("a"))
        begun: list[str] = []

        async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
            begun.append(job.tenant_id)
            if job.tenant_id == "a":
                await storage.graph_jobs.add(build_job("b"))
                await asyncio.Event().wait()
            return BuildResult("graph")

        given = WorkerOptions(poll=timedelta(hours=1), listen=True, concurrency=2, batch=1)
        worker = GraphJobWorker(storage, build=build, options=given)
        working = asyncio.ensure_future(worker.run())
        await until(lambda: "b" in begun, seconds=5)
        worker.stop(grace=timedelta(0))
        await working
    assert ["a", "b"] == begun


async def test_a_listening_connection_that_ended_is_opened_anew(graphjobs_settings: Any) -> None:
    """And what may have been missed meanwhile is looked for."""
    async with open_storage(graphjobs_settings.model_copy(update={"notify": True})) as storage:
        ended: list[AttemptResult] = []
        given = options("acme", poll=timedelta(hours=1), listen=True)
        worker = GraphJobWorker(storage, build=built, options=given, on_ended=ended.append)
        working = asyncio.ensure_future(worker.run())
        await storage.graph_jobs.add(build_job("acme"))
        await until(lambda: len(ended) == 1)
        async with storage.session() as session:
            await (await session.connection()).exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            )
        await storage.graph_jobs.add(build_job("acme"))
        await until(lambda: len(ended) == 2, seconds=20)
        worker.stop()
        await working
    assert 2 == worker.counts.completed


async def test_an_idle_worker_looks_again_by_itself(storage: Storage, tenant: str) -> None:
    """Without any notice."""
    worker = GraphJobWorker(storage, build=built, options=options(tenant))
    working = asyncio.ensure_future(worker.run())
    await asyncio.sleep(0.1)
    job = await storage.graph_jobs.add(build_job(tenant))
    await until(lambda: worker.counts.completed == 1)
    worker.stop()
    await working
    assert Status.COMPLETED is (await now(storage, job)).status


def test_waits_double_up_to_a_cap_and_no_two_workers_wait_alike() -> None:
    """Cut at random by up to a half; a poll is longer or shorter by up to a quarter."""
    backoff = Backoff(first_seconds=1.0, cap_seconds=8.0)
    waits = [backoff.next_seconds() for _ in range(100)]
    longest = [1.0, 2.0, 4.0, *[8.0] * 97]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert len(set(waits)) > 90
    assert (True, False) == (backoff.reset(), backoff.reset())
    assert backoff.next_seconds() <= 1.0
    polls = {jittered(4.0) for _ in range(100)}
    assert len(polls) > 90
    assert 3.0 <= min(polls) < 3.5 < 4.5 < max(polls) <= 5.0


async def test_nothing_is_told_unless_asked_for(storage: Storage, tenant: str) -> None:
    """A notice makes commits take turns: it is off the write path by default."""
    heard: list[None] = []
    listening = asyncio.ensure_future(storage.listen(lambda: heard.append(None)))
    await until(lambda: len(heard) == 1)  # it has begun to listen
    await storage.graph_jobs.add(build_job(tenant))
    await asyncio.sleep(0.2)
    listening.cancel()
    assert 1 == len(heard)


# Bad input


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"concurrency": 0}, "concurrency: it should be 1 to 10,000"),
        ({"concurrency": 10_001}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": 2.0}, "concurrency"),
        ({"batch": 1_001}, "batch: it should be 1 to 1,000"),
        ({"attempts_max": 0}, "attempts_max"),
        ({"poll": timedelta(0)}, "poll"),
        ({"poll": 1.0}, "poll: it should be a timedelta"),
        ({"lease": timedelta(milliseconds=999)}, "lease"),
        ({"lease": timedelta(days=2)}, "lease"),
        ({"time_limit": timedelta(days=8)}, "time_limit"),
        ({"grace": timedelta(seconds=-1)}, "grace"),
        ({"listen": 1}, "listen: it should be True or False"),
        ({"tenant": ""}, "tenant"),
        ({"name": "x" * 10_000}, "name"),
        ({"name": None}, "name"),
    ],
)
def test_options_out_of_their_bounds_are_named(given: dict[str, Any], named: str) -> None:
    """When they are made, not at night."""
    with pytest.raises(ConfigurationError, match=named):
        WorkerOptions(**given)


@pytest.mark.parametrize(
    "handlers",
    [{}, {"build": None}, {"build": "text"}, {"overlay": 5}, {"build": lambda _job: None}, {"overlay": built_by_three}],
)
async def test_handlers_that_cannot_be_are_refused(storage: Storage, handlers: dict[str, Any]) -> None:
    """A worker without any has nothing to do."""
    with pytest.raises(ConfigurationError):
        GraphJobWorker(storage, **handlers)


async def test_a_handler_that_cannot_be_awaited_fails_no_job(storage: Storage, tenant: str) -> None:
    """It could do none: the worker says so and ends, and its jobs are queued again."""
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(5)]

    def build(_job: GraphBuildJob, _context: JobContext) -> Any:
        return BuildResult("graph")

    worker = GraphJobWorker(storage, build=build, options=options(tenant))
    with pytest.raises(ConfigurationError, match="build: its handler cannot be awaited; write it as `async def`"):
        await asyncio.wait_for(worker.run(), 10)

    assert [Status.QUEUED] * 5 == [(await now(storage, job)).status for job in jobs]


async def test_a_function_that_gives_an_awaitable_is_a_handler(storage: Storage, tenant: str) -> None:
    """As a lambda that brings more along."""
    job = await storage.graph_jobs.add(build_job(tenant))
    await run(storage, tenant, build=lambda *given: built(*given[:2]))
    assert Status.COMPLETED is (await now(storage, job)).status


async def test_an_observer_that_raises_is_logged_and_harms_nothing(
    storage: Storage, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The jobs have ended, and the others end, too."""
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(3)]

    def on_ended(_ending: AttemptResult) -> None:
        raise ValueError("the observer")

    with caplog.at_level(logging.ERROR):
        worker = await run(storage, tenant, build=built, batch=1, on_ended=on_ended)

    assert 3 == worker.counts.completed
    assert [Status.COMPLETED] * 3 == [(await now(storage, job)).status for job in jobs]
    assert "observer" in caplog.text


async def test_the_counts_are_what_the_tables_say(storage: Storage, tenant: str) -> None:
    """Of a mixed lot."""
    await storage.graph_jobs.add_many(build_job(tenant, metadata={"n": str(number)}) for number in range(30))

    async def build(job: GraphBuildJob, context: JobContext) -> BuildResult:
        if int(job.metadata["n"]) % 3 == 0:
            raise ValueError("every third")
        return await built(job, context)

    worker = await run(storage, tenant, build=build)

    counts = [
        (await storage.graph_jobs.count(tenant, GraphJobQuery(statuses=(status,)))).value
        for status in (Status.COMPLETED, Status.FAILED)
    ]
    assert counts == [worker.counts.completed, worker.counts.failed] == [20, 10]
