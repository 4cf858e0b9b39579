"""Claims, heartbeats, ends and rescues that meet at one job, interleaved by locks: one wins, and the log says which."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from graphjobs import GraphJobStatus
from graphjobs.core.results import StalledItem
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.storage import Storage
from tests.builders import build_job

Status = GraphJobStatus


@asynccontextmanager
async def transaction(storage: Storage) -> AsyncIterator[GraphJobQueue]:
    """The queue inside a transaction, which holds its locks until the end, and commits then."""
    async with storage.session() as session, session.begin():
        yield storage.graph_job_queue.using(session)


async def running(storage: Storage, tenant: str) -> AnyJob:
    """A job that runs."""
    await storage.graph_jobs.add(build_job(tenant))
    (job,) = (await storage.graph_job_queue.claim(tenant, "build", limit=1)).jobs
    return job


async def now(storage: Storage, job: AnyJob) -> AnyJob:
    """The job as it is."""
    found = await storage.graph_jobs.get_job(job.tenant_id, job.id)
    assert found is not None
    return found


async def statuses(storage: Storage, job: AnyJob) -> list[str]:
    """What the log tells, in order."""
    return [event.status.value for event in await storage.graph_jobs.events(job.tenant_id, job.id)]


def seen(job: AnyJob) -> StalledItem:
    """The job as a rescuer has seen it."""
    return StalledItem(job.id, job.tenant_id, job.updated_at, job.attempts)


def completed(job: AnyJob) -> AttemptResult:
    """How it ends."""
    return AttemptResult.completed(job, graph_snapshot_id="graph")


async def test_a_rescue_leaves_a_job_alone_whose_completion_is_under_way(storage: Storage, tenant: str) -> None:
    """It does not wait for it either: there is life in that job."""
    job = await running(storage, tenant)
    async with transaction(storage) as worker:
        ended = await worker.end([completed(job)])
        async with asyncio.timeout(5):
            rescued = await storage.graph_job_queue.rescue([seen(job)], attempts_max=3)
        assert ((), ()) == (rescued.requeued, rescued.failed)
    assert {job.id} == set(ended.versions)
    assert Status.COMPLETED is (await now(storage, job)).status
    assert ["queued", "running", "completed"] == await statuses(storage, job)


async def test_a_completion_that_meets_a_rescue_is_refused(storage: Storage, tenant: str) -> None:
    """It waits for nobody: as long as the rescue is under way it is told so, and then that its attempt is over."""
    job = await running(storage, tenant)
    async with transaction(storage) as rescuer:
        rescued = await rescuer.rescue([seen(job)], attempts_max=3)
        async with asyncio.timeout(5):
            during = await storage.graph_job_queue.end([completed(job)])
    ended = await storage.graph_job_queue.end([completed(job)])
    assert (job.id,) == rescued.requeued
    assert (frozenset({job.id}), 0, 0) == (during.busy, len(during.versions), len(during.lost))
    assert {} == ended.versions
    assert ended.lost[job.id].endswith("the job queued at attempt 1")
    assert job.requeue() == await now(storage, job)
    assert ["queued", "running", "queued"] == await statuses(storage, job)


async def test_a_completion_that_meets_a_rescue_that_rolls_back_is_done(storage: Storage, tenant: str) -> None:
    """What never happened does not fence."""
    job = await running(storage, tenant)
    async with storage.session() as session:
        await storage.graph_job_queue.using(session).rescue([seen(job)], attempts_max=3)
        during = await storage.graph_job_queue.end([completed(job)])
        await session.rollback()
    after = await storage.graph_job_queue.end([completed(job)])
    assert (frozenset({job.id}), {job.id}) == (during.busy, set(after.versions))
    assert ["queued", "running", "completed"] == await statuses(storage, job)


async def test_a_completion_that_meets_a_heartbeat_is_done(storage: Storage, tenant: str) -> None:
    """A heartbeat changes the row under it, and not its attempt: the end must not be lost on the way."""
    job = await running(storage, tenant)
    async with transaction(storage) as beating:
        renewed = await beating.renew([job])
        during = await storage.graph_job_queue.end([completed(job)])
    ended = await storage.graph_job_queue.end([completed(job)])
    assert {job.id} == during.busy
    assert {job.id} == set(ended.versions)
    assert ended.versions[job.id] > renewed.versions[job.id]
    assert Status.COMPLETED is (await now(storage, job)).status


async def test_a_rescue_leaves_a_job_alone_whose_heartbeat_is_under_way(storage: Storage, tenant: str) -> None:
    """Uncommitted, it holds the row; committed, it has raised the version that was seen."""
    job = await running(storage, tenant)
    async with transaction(storage) as worker:
        await worker.renew([job])
        during = await storage.graph_job_queue.rescue([seen(job)], attempts_max=3)
    after = await storage.graph_job_queue.rescue([seen(job)], attempts_max=3)
    assert [(), ()] == [during.requeued, after.requeued]
    assert Status.RUNNING is (await now(storage, job)).status


async def test_a_heartbeat_that_meets_a_rescue_neither_waits_nor_revives(storage: Storage, tenant: str) -> None:
    """Under way, the job counts as held still; once it is committed, as lost."""
    job = await running(storage, tenant)
    async with transaction(storage) as rescuer:
        await rescuer.rescue([seen(job)], attempts_max=3)
        async with asyncio.timeout(5):
            during = await storage.graph_job_queue.renew([job])
    after = await storage.graph_job_queue.renew([job])
    assert (0, frozenset()) == (len(during.versions), during.lost)
    assert (0, frozenset({job.id})) == (len(after.versions), after.lost)
    assert ["queued", "running", "queued"] == await statuses(storage, job)


async def test_a_row_that_somebody_holds_is_not_seen_as_stopped(storage: Storage, tenant: str) -> None:
    """It cannot be renewed meanwhile: a rescue would race the first heartbeat once the row is free."""
    held, stopped = await running(storage, tenant), await running(storage, tenant)
    async with storage.session() as session, session.begin():
        connection = await session.connection()
        await connection.exec_driver_sql("SELECT FROM scheduler.graph_jobs WHERE id = $1 FOR UPDATE", (held.id,))
        during, _ = await storage.graph_job_queue.stalled(tenant, "build", lease=timedelta(microseconds=1))
    after, _ = await storage.graph_job_queue.stalled(tenant, "build", lease=timedelta(microseconds=1))
    assert [stopped.id] == [sighting.job_id for sighting in during]
    assert {held.id, stopped.id} == {sighting.job_id for sighting in after}


async def test_one_row_that_is_held_does_not_stop_the_heartbeats_of_others(storage: Storage, tenant: str) -> None:
    """Each job's heartbeat is its own, though they are one statement."""
    held, free = await running(storage, tenant), await running(storage, tenant)
    async with transaction(storage) as somebody:
        await somebody.renew([held])
        async with asyncio.timeout(5):
            renewed = await storage.graph_job_queue.renew([held, free])
    assert ({free.id}, frozenset()) == (set(renewed.versions), renewed.lost)


async def test_a_rescue_leaves_a_job_alone_that_was_claimed_anew(storage: Storage, tenant: str) -> None:
    """Given back and taken by another, it runs again, and is not what was seen."""
    job = await running(storage, tenant)
    await storage.graph_job_queue.end([AttemptResult.released(job)])
    async with transaction(storage) as claimer:
        (again,) = (await claimer.claim(tenant, "build", limit=1)).jobs
        during = await storage.graph_job_queue.rescue([seen(job)], attempts_max=3)
    after = await storage.graph_job_queue.rescue([seen(job)], attempts_max=3)
    assert [(), ()] == [during.requeued, after.requeued]
    assert (again, 2) == (await now(storage, job), again.attempts)


async def test_a_claim_does_not_see_a_job_whose_rescue_is_under_way(storage: Storage, tenant: str) -> None:
    """Nor waits for it; once it is committed, the job is the next claim's."""
    job = await running(storage, tenant)
    async with transaction(storage) as rescuer:
        await rescuer.rescue([seen(job)], attempts_max=3)
        async with asyncio.timeout(5):
            during = await storage.graph_job_queue.claim(tenant, "build", limit=1)
    after = await storage.graph_job_queue.claim(tenant, "build", limit=1)
    assert () == during.jobs
    assert [(job.id, 2)] == [(again.id, again.attempts) for again in after.jobs]


async def test_of_two_rescues_of_one_job_one_wins(storage: Storage, tenant: str) -> None:
    """The other, which saw the same, finds it moved."""
    job = await running(storage, tenant)
    async with transaction(storage) as first:
        one = await first.rescue([seen(job)], attempts_max=3)
        during = await storage.graph_job_queue.rescue([seen(job)], attempts_max=3)
    after = await storage.graph_job_queue.rescue([seen(job)], attempts_max=3)
    assert [(job.id,), (), ()] == [one.requeued, during.requeued, after.requeued]
    assert ["queued", "running", "queued"] == await statuses(storage, job)


async def test_a_claim_does_not_wait_for_the_claims_of_others(storage: Storage, tenant: str) -> None:
    """It goes past what they hold, and takes the next."""
    jobs = [await storage.graph_jobs.add(build_job(tenant)) for _ in range(6)]
    async with transaction(storage) as first:
        one = await first.claim(tenant, "build", limit=2)
        async with asyncio.timeout(5):
            two = await storage.graph_job_queue.claim(tenant, "build", limit=2)
    three = await storage.graph_job_queue.claim(tenant, "build", limit=2)
    assert [job.id for job in jobs] == [job.id for claimed in (one, two, three) for job in claimed.jobs]


async def test_a_queued_job_that_is_being_edited_is_claimed_afterwards_as_it_then_is(
    storage: Storage, tenant: str
) -> None:
    """An edit under way is gone past; a claim takes what was committed, not what its snapshot saw."""
    job = await storage.graph_jobs.add(build_job(tenant))
    async with storage.session() as session, session.begin():
        edited = job.edit(metadata={"branch": "main"})
        assert (await storage.graph_jobs.using(session).update(edited, expected=Status.QUEUED)).applied
        during = await storage.graph_job_queue.claim(tenant, "build", limit=1)
    after = await storage.graph_job_queue.claim(tenant, "build", limit=1)
    assert () == during.jobs
    assert [{"branch": "main"}] == [dict(claimed.metadata) for claimed in after.jobs]


@pytest.mark.parametrize("limit", [1, 7, 50])
async def test_many_claims_at_once_never_take_the_same_job(storage: Storage, tenant: str, limit: int) -> None:
    """And together take all."""
    added = await storage.graph_jobs.add_many(build_job(tenant) for _ in range(300))
    taken: list[AnyJob] = []

    async def claimer() -> None:
        while jobs := (await storage.graph_job_queue.claim(tenant, "build", limit=limit)).jobs:
            assert len(jobs) <= limit
            taken.extend(jobs)

    await asyncio.gather(*(claimer() for _ in range(12)))

    assert sorted(job.id for job in added) == sorted(job.id for job in taken)
    assert {1} == {job.attempts for job in taken}


async def test_batches_in_opposite_orders_never_deadlock(storage: Storage, tenant: str) -> None:
    """Ends, heartbeats and rescues of the same jobs at once; each locks in the order of ids."""
    await storage.graph_jobs.add_many(build_job(tenant) for _ in range(200))
    jobs = list((await storage.graph_job_queue.claim(tenant, "build", limit=200)).jobs)

    async def at_random(turn: int) -> int:
        order = jobs if turn % 2 else jobs[::-1]
        match turn % 3:
            case 0:
                number, left = 0, set(jobs)
                while left:
                    ended = await storage.graph_job_queue.end([completed(job) for job in order if job in left])
                    number += len(ended.versions)
                    left = {job for job in left if job.id in ended.busy}
                return number
            case 1:
                await storage.graph_job_queue.renew(order)
            case _:
                rescued = await storage.graph_job_queue.rescue([seen(job) for job in order], attempts_max=3)
                return len(rescued.requeued)
        return 0

    moved = await asyncio.gather(*(at_random(turn) for turn in range(24)))

    assert len(jobs) == sum(moved)
    for job in jobs[:20]:
        assert 3 == len(await statuses(storage, job))
