"""Claims, results and rescues of graph jobs: fairness, followups, unreadable and locked rows, notifications."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from graphjobs import (
    GraphBuildJob,
    GraphJobsError,
    GraphJobStatus,
    GraphJobType,
    GraphOverlayJob,
    open_storage,
)
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.storage import Storage
from graphjobs.worker import BuildResult, JobContext
from graphjobs.worker.tenant_rotation import TenantRotation
from tests.builders import build_job, overlay_job
from tests.worker.twins import JobTwin, execute, get_job, job_worker, run_jobs, statuses_of
from tests.worker.worker_control import return_after, return_result, wait_until, working

Status = GraphJobStatus


async def _overlay(_job: GraphOverlayJob, _context: JobContext) -> None:
    return None


# Job types and tenants


async def test_a_worker_claims_only_the_types_with_a_handler(storage: Storage, tenant: str) -> None:
    """The other type is left to other workers."""
    build, overlay = [await storage.graph_jobs.add(job) for job in (build_job(tenant), overlay_job(tenant))]

    await run_jobs(storage, tenant, build=return_result)

    assert [Status.COMPLETED, Status.QUEUED] == await statuses_of(storage, (build, overlay))


async def test_both_job_types_are_claimed_in_rotation(storage: Storage, tenant: str) -> None:
    """A long queue of one type does not delay the other."""
    await storage.graph_jobs.add_many(build_job(tenant) for _ in range(50))
    await storage.graph_jobs.add_many(overlay_job(tenant) for _ in range(5))
    order: list[str] = []

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        order.append(job.type)
        return BuildResult("graph")

    async def overlay(job: GraphOverlayJob, _context: JobContext) -> None:
        order.append(job.type)

    await run_jobs(storage, tenant, build=build, overlay=overlay, concurrency=2, batch=2)

    assert 5 == order[:25].count("overlay")


async def test_a_worker_of_all_tenants_serves_a_tenant_that_comes_late(graphjobs_storage: Storage) -> None:
    """A tenant with many jobs gets no more than its share."""
    storage = graphjobs_storage
    await storage.graph_jobs.add_many(build_job("busy") for _ in range(300))
    order: list[str] = []

    async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
        order.append(job.tenant_id)
        if len(order) == 1:
            await storage.graph_jobs.add(build_job("late"))
        await asyncio.sleep(0.005)
        return BuildResult("graph")

    await run_jobs(storage, None, build=build, concurrency=4, batch=4)

    assert 301 == len(order)
    # The list of waiting tenants is used for 0.1 seconds.
    assert "late" in order[: 4 + 4 * 40]


async def test_a_cached_list_of_tenants_is_read_again_if_it_yields_no_job(graphjobs_storage: Storage) -> None:
    """Other tenants may wait by then."""
    storage = graphjobs_storage
    worker = job_worker(storage, None, build=return_result)
    for tenant in ("a", "b"):
        await storage.graph_jobs.add(build_job(tenant))
        assert 1 == await worker._claim(GraphJobType.BUILD, 1)
    worker.stop()
    await worker.run()


async def test_concurrent_turns_return_different_tenants(graphjobs_storage: Storage) -> None:
    """A worker with two claims at once serves as many tenants as one with two claims in sequence."""
    tenants = {f"tenant-{number}" for number in range(6)}
    for tenant in tenants:
        await graphjobs_storage.graph_jobs.add(build_job(tenant))
    rotation = TenantRotation(graphjobs_storage.graph_job_queue, GraphJobType.BUILD, None)

    turns = await asyncio.gather(*(rotation.next_turn(2) for _ in range(3)))

    assert tenants == {tenant for listed, _ in turns for tenant in listed}


# Rows that are unreadable or locked


async def test_an_unreadable_row_is_reported_and_blocks_no_other(
    storage: Storage, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is failed, and not claimed again."""
    unreadable, readable = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(2)]
    await execute(storage, "UPDATE scheduler.graph_jobs SET payload = '[]' WHERE id = $1", unreadable.id)

    worker = await run_jobs(storage, tenant, build=return_result)

    assert Status.COMPLETED is (await get_job(storage, readable)).status
    assert (2, 1, 1) == (worker.stats.claimed, worker.stats.completed, worker.stats.unreadable)
    assert str(unreadable.id) in caplog.text


async def test_a_row_with_an_invalid_tenant_does_not_stop_a_worker(graphjobs_storage: Storage) -> None:
    """A row written by hand is failed, and all tenants are served."""
    storage = graphjobs_storage
    invalid, valid = [await storage.graph_jobs.add(build_job("acme")) for _ in range(2)]
    await execute(storage, "UPDATE scheduler.graph_jobs SET tenant_id = '' WHERE id = $1", invalid.id)

    worker = await run_jobs(storage, None, build=return_result)

    assert (1, 1) == (worker.stats.completed, worker.stats.unreadable)
    assert Status.COMPLETED is (await get_job(storage, valid)).status


async def test_a_locked_row_delays_no_other_result(storage: Storage, tenant: str) -> None:
    """The result of its own job waits until the row is unlocked."""
    locked, *others = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(10)]
    proceed = asyncio.Event()
    worker = job_worker(storage, tenant, build=return_after(proceed))
    running = asyncio.ensure_future(worker.run(until_empty=True))
    await wait_until(lambda: worker.stats.claimed == 10)
    async with storage.session() as session, session.begin():
        await storage.graph_job_queue.using(session).renew([await get_job(storage, locked)])
        proceed.set()
        await wait_until(lambda: worker.stats.completed == 9, seconds=5)
        assert Status.RUNNING is (await get_job(storage, locked)).status
    await asyncio.wait_for(running, 5)

    assert (10, 0) == (worker.stats.completed, worker.stats.lost)
    assert {Status.COMPLETED} == set(await statuses_of(storage, (locked, *others)))


async def test_a_live_job_with_a_locked_row_is_not_rescued(storage: Storage, tenant: str) -> None:
    """No heartbeat could be stored while the row was locked."""
    job = await storage.graph_jobs.add(build_job(tenant))
    proceed = asyncio.Event()
    worker = job_worker(storage, tenant, build=return_after(proceed), lease=timedelta(seconds=1))
    running = asyncio.ensure_future(worker.run(until_empty=True))
    await wait_until(lambda: worker.stats.claimed == 1)
    async with storage.session() as session, session.begin():
        await storage.graph_job_queue.using(session).renew([await get_job(storage, job)])
        await asyncio.sleep(2.5)
    await asyncio.sleep(1.0)
    proceed.set()
    await asyncio.wait_for(running, 10)

    assert (0, 1) == (worker.stats.rescued, worker.stats.completed)
    assert 1 == (await get_job(storage, job)).attempts


async def test_an_old_version_alone_does_not_make_a_job_stalled(storage: Storage, tenant: str) -> None:
    """After an outage all versions are old: a job with a heartbeat between two scans is alive, the other is stalled."""
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(2)]
    alive, stalled = (await storage.graph_job_queue.claim(tenant, "build", limit=2)).jobs
    aged = "UPDATE scheduler.graph_jobs SET updated_at = now() - interval '1 hour' WHERE tenant_id = $1"
    await execute(storage, aged, tenant)
    worker = job_worker(storage, tenant, build=return_result)
    rescuer = worker._rescuer()
    (scan,) = rescuer.scans

    await rescuer.process((await scan(""))[0])
    assert [Status.RUNNING] * 2 == await statuses_of(storage, jobs)
    await storage.graph_job_queue.renew([alive])
    await rescuer.process((await scan(""))[0])

    assert [Status.RUNNING, Status.QUEUED] == await statuses_of(storage, (alive, stalled))
    assert 1 == worker.stats.rescued


async def test_an_error_of_the_server_fails_no_job(
    storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary error is retried; only a result that is refused for its own values is replaced."""
    job = await storage.graph_jobs.add(build_job(tenant))
    end, errors = storage.graph_job_queue.end, [GraphJobsError("odd", sqlstate="26000")] * 3

    async def failing_end(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return await end(*arguments, **options)

    monkeypatch.setattr(storage.graph_job_queue, "end", failing_end)
    worker = await run_jobs(storage, tenant, build=return_result)

    assert (1, 0, 0) == (worker.stats.completed, worker.stats.failed, worker.stats.lost)
    assert Status.COMPLETED is (await get_job(storage, job)).status


async def test_the_stats_agree_with_the_tables(storage: Storage, tenant: str) -> None:
    await storage.graph_jobs.add_many(build_job(tenant, metadata={"n": str(number)}) for number in range(30))

    async def build(job: GraphBuildJob, context: JobContext) -> BuildResult:
        if int(job.metadata["n"]) % 3 == 0:
            raise ValueError("every third")
        return await return_result(job, context)

    worker = await run_jobs(storage, tenant, build=build)

    twin = JobTwin(storage, tenant)
    stored = [await twin.count(tenant, [status]) for status in ("completed", "failed")]
    assert stored == [worker.stats.completed, worker.stats.failed] == [20, 10]


# Followups


async def test_followups_are_processed_before_the_worker_ends(storage: Storage, tenant: str) -> None:
    """A worker that runs until nothing is queued does not miss the followup of its last job."""
    for _ in range(15):
        job = await storage.graph_jobs.add(build_job(tenant))
        followup = overlay_job(tenant, build_job_id=job.id)

        async def build(_job: object, _context: object, followup: GraphOverlayJob = followup) -> BuildResult:
            return BuildResult("graph", followups=[followup])

        await run_jobs(storage, tenant, build=build, overlay=_overlay)
        assert Status.COMPLETED is (await get_job(storage, followup)).status


async def test_a_job_with_a_followup_of_a_taken_id_fails_alone(storage: Storage, tenant: str) -> None:
    """The results that are stored with it are."""
    foreign = await storage.graph_jobs.add(overlay_job(f"{tenant} other"))
    poison, *others = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(5)]

    async def build(job: GraphBuildJob, _context: object) -> BuildResult:
        return BuildResult("graph", followups=[overlay_job(tenant, id=foreign.id)] if job.id == poison.id else [])

    await job_worker(storage, tenant, build=build).run(until_empty=True)

    assert [Status.FAILED, *[Status.COMPLETED] * 4] == await statuses_of(storage, (poison, *others))
    assert str(foreign.id) in ((await get_job(storage, poison)).error or "")


async def test_a_followup_added_during_an_empty_claim_is_processed(
    storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim without jobs says nothing about an attempt that ended during the claim."""
    job = await storage.graph_jobs.add(build_job(tenant))
    followup = overlay_job(tenant, build_job_id=job.id)
    proceed = asyncio.Event()

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        await proceed.wait()
        return BuildResult("graph", followups=[followup])

    worker = job_worker(storage, tenant, build=build, overlay=_overlay)
    claim_batch = worker._claim_batch

    async def slow_claim_batch() -> int:
        claimed = await claim_batch()
        if not claimed and not proceed.is_set():
            proceed.set()
            await wait_until(lambda: not worker.in_flight)
        return claimed

    monkeypatch.setattr(worker, "_claim_batch", slow_claim_batch)
    await asyncio.wait_for(worker.run(until_empty=True), 10)

    assert Status.COMPLETED is (await get_job(storage, followup)).status


# Waking


async def test_a_notification_during_a_claim_of_other_tenants_is_not_lost(graphjobs_settings: Any) -> None:
    """The cached list of tenants is read again if it yields no job."""
    async with open_storage(graphjobs_settings.model_copy(update={"notify": True})) as storage:
        await storage.graph_jobs.add(build_job("a"))
        started: list[str] = []

        async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
            started.append(job.tenant_id)
            if job.tenant_id == "a":
                await storage.graph_jobs.add(build_job("b"))
                await asyncio.Event().wait()
            return BuildResult("graph")

        worker = job_worker(storage, None, build=build, poll=timedelta(hours=1), listen=True, concurrency=2, batch=1)
        async with working(worker, grace=timedelta(0)):
            await wait_until(lambda: "b" in started, seconds=5)
    assert ["a", "b"] == started


async def test_a_closed_listening_connection_is_opened_again(graphjobs_settings: Any) -> None:
    """Jobs of missed notifications are found."""
    async with open_storage(graphjobs_settings.model_copy(update={"notify": True})) as storage:
        ended: list[AttemptResult] = []
        worker = job_worker(
            storage, "acme", build=return_result, poll=timedelta(hours=1), listen=True, on_ended=ended.append
        )
        async with working(worker):
            await storage.graph_jobs.add(build_job("acme"))
            await wait_until(lambda: len(ended) == 1)
            terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            await execute(storage, terminate)
            await storage.graph_jobs.add(build_job("acme"))
            await wait_until(lambda: len(ended) == 2, seconds=20)
    assert 2 == worker.stats.completed


async def test_an_idle_worker_polls_without_notifications(storage: Storage, tenant: str) -> None:
    worker = job_worker(storage, tenant, build=return_result)
    async with working(worker):
        await asyncio.sleep(0.1)
        job = await storage.graph_jobs.add(build_job(tenant))
        await wait_until(lambda: worker.stats.completed == 1)
    assert Status.COMPLETED is (await get_job(storage, job)).status


async def test_nothing_is_notified_by_default(storage: Storage, tenant: str) -> None:
    """Commits with notifications wait for each other, so the option is off by default."""
    notifications: list[None] = []
    listening = asyncio.ensure_future(storage.listen(lambda: notifications.append(None)))
    await wait_until(lambda: len(notifications) == 1)  # the first call reports that it listens
    await storage.graph_jobs.add(build_job(tenant))
    await asyncio.sleep(0.2)
    listening.cancel()
    assert 1 == len(notifications)
