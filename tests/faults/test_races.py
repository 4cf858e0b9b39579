"""Concurrent swaps by the repository of graph jobs: exactly one wins, and the others change nothing."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from graphjobs import DatabaseUnavailable, GraphBuildJob, GraphJobEvent, open_storage
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job, overlay_job
from tests.faults.backend_monitor import Watch, with_settings
from tests.faults.swaps import QUEUED, RUNNING, stored, swapped, transaction


def at(step: int) -> timedelta:
    """Return another time for each racer, so that the row shows which value it has."""
    return timedelta(microseconds=step)


Racer = Callable[[GraphBuildJob, int], GraphBuildJob]


def start(queued: GraphBuildJob, step: int) -> GraphBuildJob:
    """Return the job started."""
    return queued.start(at=AT + at(step))


def end(queued: GraphBuildJob, step: int) -> GraphBuildJob:
    """Return the job cancelled or failed: its attempts are the same, and only the status differs."""
    return queued.cancel(at=AT + at(step)) if step % 2 else queued.fail(at=AT + at(step), error=f"racer {step}")


def edit(queued: GraphBuildJob, step: int) -> GraphBuildJob:
    """Return the job edited: its status and attempts are the same, and only the version differs."""
    return queued.edit(metadata={"racer": str(step)})


@pytest.mark.parametrize(
    ("racer", "in_session"), [(start, False), (start, True), (end, False), (end, True), (edit, False)]
)
async def test_of_fifty_swaps_of_one_queued_job_one_wins(
    storage: Storage, tenant: str, racer: Racer, in_session: bool
) -> None:
    queued = await storage.graph_job_repository.insert(build_job(tenant))
    targets = [racer(queued, step) for step in range(50)]

    won = await asyncio.gather(*(swapped(storage, job, QUEUED, in_session=in_session) for job in targets))

    assert [answer for answer in won if answer] == [True]
    assert targets[won.index(True)] == await stored(storage, queued)


async def test_of_fifty_starts_of_one_overlay_job_one_wins(storage: Storage, tenant: str) -> None:
    queued = await storage.graph_job_repository.insert(overlay_job(tenant))
    starts = [queued.start(at=AT + at(step)) for step in range(50)]

    won = await asyncio.gather(*(storage.graph_job_repository.try_replace_overlay(job, QUEUED) for job in starts))

    assert [answer for answer in won if answer] == [True]
    assert starts[won.index(True)] == await storage.graph_job_repository.get_overlay_job(tenant, queued.id)


async def test_a_second_edit_of_the_same_version_is_lost(storage: Storage, tenant: str) -> None:
    queued = await storage.graph_job_repository.insert(build_job(tenant))
    first, second = queued.edit(correlation_id="first"), queued.edit(correlation_id="second")

    assert await swapped(storage, first, QUEUED)
    assert not await storage.graph_job_repository.try_replace(second, QUEUED)

    now = await stored(storage, queued)
    assert first == now
    assert await swapped(storage, now.edit(correlation_id="third"), QUEUED)


@pytest.mark.parametrize("racer", [edit, start, end])
@pytest.mark.parametrize("in_session", [False, True], ids=["alone", "in a session"])
@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_swap_that_waits_for_the_lock_of_another_wins_only_after_a_rollback(
    storage: Storage, shared_watch: Watch, tenant: str, racer: Racer, in_session: bool, ending: str
) -> None:
    """The second swap waits for the row lock, and reads the row after the end of the first transaction."""
    queued = await storage.graph_job_repository.insert(build_job(tenant))
    first, second = racer(queued, 1), racer(queued, 2)

    async with storage.session() as session:
        assert await GraphJobRepository(storage.database.using(session)).try_replace(first, QUEUED)
        waiting = asyncio.create_task(swapped(storage, second, QUEUED, in_session=in_session))
        await shared_watch.until_waiting()
        await getattr(session, ending)()

    assert (ending == "rollback") == await waiting
    assert (second if ending == "rollback" else first) == await stored(storage, queued)


async def test_a_worker_that_lost_its_job_can_change_nothing_of_it(storage: Storage, tenant: str) -> None:
    """The job was rescued from A and started by B: finish, failure, renewal and release by A change nothing."""
    jobs = storage.graph_job_repository
    queued = await jobs.insert(build_job(tenant))
    assert await jobs.try_replace(queued.start(at=AT), QUEUED)
    of_a = await stored(storage, queued)
    assert await jobs.try_replace(of_a.requeue(at=AT), RUNNING)
    assert await jobs.try_replace((await stored(storage, queued)).start(at=AT), QUEUED)
    of_b = await stored(storage, queued)
    assert (of_a.attempts, of_b.attempts) == (1, 2)

    for late in (
        of_a.complete(at=AT, graph_snapshot_id="by A"),
        of_a.fail(at=AT, error="by A"),
        of_a.cancel(at=AT),
        of_a.requeue(at=AT),
        of_a.renew(metadata={"by": "A"}),
        # The newest version does not help: the attempts are those of B.
        of_a.renew(metadata={"by": "A"}).stored(updated_at=of_b.updated_at),
    ):
        assert not await jobs.try_replace(late, RUNNING)

    now = await stored(storage, queued)
    assert of_b == now
    assert of_b.updated_at == now.updated_at
    assert await jobs.try_replace(of_b.complete(at=AT, graph_snapshot_id="by B"), RUNNING)


async def test_a_finish_that_waits_while_the_job_is_rescued_is_refused(
    storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """The finish by A waits for the transaction that rescues and restarts the job, and changes nothing."""
    queued = await storage.graph_job_repository.insert(build_job(tenant))
    assert await swapped(storage, queued.start(at=AT), QUEUED)
    of_a = await stored(storage, queued)

    async with transaction(storage) as jobs:
        assert await jobs.try_replace(of_a.requeue(at=AT), RUNNING)
        of_b = of_a.requeue(at=AT).start(at=AT)
        assert await jobs.try_replace(of_b, QUEUED)
        finish = asyncio.create_task(
            storage.graph_job_repository.try_replace(of_a.complete(at=AT, graph_snapshot_id="by A"), RUNNING)
        )
        await shared_watch.until_waiting()

    assert not await finish
    assert of_b == await stored(storage, queued)


async def test_a_start_from_before_a_release_is_refused(storage: Storage, tenant: str) -> None:
    """A read the queued job, B started and released it: the start by A is of another attempt."""
    jobs = storage.graph_job_repository
    read_by_a = await jobs.insert(build_job(tenant))
    assert await jobs.try_replace(read_by_a.start(at=AT), QUEUED)
    assert await jobs.try_replace((await stored(storage, read_by_a)).requeue(at=AT), RUNNING)
    released = await stored(storage, read_by_a)
    assert (read_by_a.attempts, released.attempts) == (0, 1)

    assert not await jobs.try_replace(read_by_a.start(at=AT), QUEUED)
    assert not await jobs.try_replace(read_by_a.cancel(at=AT), QUEUED)

    assert released == await stored(storage, read_by_a)
    assert await jobs.try_replace(released.start(at=AT), QUEUED)


async def test_a_lost_swap_under_repeatable_read_is_an_error(storage: Storage, tenant: str) -> None:
    """A session in REPEATABLE READ gets SQLSTATE 40001 instead of False: a new transaction can try again."""
    queued = await storage.graph_job_repository.insert(build_job(tenant))
    started = queued.start(at=AT)

    async with storage.session() as session:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        jobs = GraphJobRepository(storage.database.using(session))
        assert queued == await jobs.get_build_job(tenant, queued.id)
        assert await swapped(storage, started, QUEUED)
        with pytest.raises(DatabaseUnavailable) as caught:
            await jobs.try_replace(queued.cancel(at=AT), QUEUED)

        # The transaction has failed: each further call says so until the rollback.
        with pytest.raises(DatabaseUnavailable, match="roll it back") as failed:
            await jobs.get_build_job(tenant, queued.id)
        await session.rollback()
        assert started == await jobs.get_build_job(tenant, queued.id)

    assert (caught.value.sqlstate, failed.value.sqlstate) == ("40001", "25P02")
    assert started == await stored(storage, queued)


async def test_the_isolation_a_session_chose_does_not_leak_to_the_next(shared_settings: Settings, tenant: str) -> None:
    async with open_storage(with_settings(shared_settings, pool_size=1)) as storage:
        queued = await storage.graph_job_repository.insert(build_job(tenant))
        async with storage.session() as session:
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            jobs = GraphJobRepository(storage.database.using(session))
            await jobs.get_build_job(tenant, queued.id)
        async with transaction(storage) as in_next:
            assert queued == await in_next.get_build_job(tenant, queued.id)
            assert await swapped(storage, queued.start(at=AT), QUEUED)
            assert not await in_next.try_replace(queued.cancel(at=AT), QUEUED)


async def test_a_deadlock_fails_one_transaction_only(storage: Storage, shared_watch: Watch, tenant: str) -> None:
    one, two = [await storage.graph_job_repository.insert(build_job(tenant)) for _ in range(2)]
    second_may_begin, both_hold_one = asyncio.Event(), asyncio.Event()

    async def swap_both(first: GraphBuildJob, then: GraphBuildJob, go_on: asyncio.Event, ready: asyncio.Event) -> None:
        async with transaction(storage) as jobs:
            assert await jobs.try_replace(first, QUEUED)
            ready.set()
            await go_on.wait()
            assert await jobs.try_replace(then, QUEUED)

    by_a = [job.start(at=AT) for job in (one, two)]
    by_b = [job.start(at=AT + at(1)) for job in (two, one)]
    a = asyncio.create_task(swap_both(by_a[0], by_a[1], both_hold_one, second_may_begin))
    await second_may_begin.wait()
    a_waits = asyncio.Event()
    b = asyncio.create_task(swap_both(by_b[0], by_b[1], a_waits, both_hold_one))
    await both_hold_one.wait()
    await shared_watch.until_waiting()
    a_waits.set()
    ends = await asyncio.gather(a, b, return_exceptions=True)

    errors = [end for end in ends if end is not None]
    assert [getattr(error, "sqlstate", error) for error in errors] == ["40P01"]
    assert isinstance(errors[0], DatabaseUnavailable)
    winner = by_a if ends[0] is None else list(reversed(by_b))
    assert winner == [await stored(storage, one), await stored(storage, two)]


@pytest.mark.parametrize(
    ("waits", "sqlstate", "variable"),
    [
        ({"lock_timeout": 0.1}, "55P03", "GRAPHJOBS_LOCK_TIMEOUT"),
        ({"statement_timeout": 0.5}, "57014", "GRAPHJOBS_STATEMENT_TIMEOUT"),
    ],
)
@pytest.mark.parametrize("in_session", [False, True], ids=["alone", "in a session"])
async def test_a_swap_that_waits_too_long_for_a_lock_changes_nothing(
    shared_settings: Settings,
    shared_watch: Watch,
    tenant: str,
    waits: dict[str, float],
    sqlstate: str,
    variable: str,
    in_session: bool,
) -> None:
    """The server ends the wait; the error names the setting, and the swap is not applied later."""
    async with open_storage(with_settings(shared_settings, pool_size=1, **waits)) as storage:
        queued = await storage.graph_job_repository.insert(build_job(tenant))
        async with shared_watch.holding(queued.id), asyncio.timeout(5):
            with pytest.raises(DatabaseUnavailable, match=variable) as caught:
                await swapped(storage, queued.start(at=AT), QUEUED, in_session=in_session)
            assert queued == await stored(storage, queued)

        assert sqlstate == caught.value.sqlstate
        await shared_watch.until_settled()
        assert queued == await stored(storage, queued)
        assert await swapped(storage, queued.start(at=AT), QUEUED, in_session=in_session)


async def test_an_event_waits_for_the_transitions_of_its_job(
    storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """It gets its id under the lock of the job, so that ids are in the order of the transitions."""
    job = await storage.graph_job_repository.insert(build_job(tenant))
    started = job.start(at=AT)
    late = GraphJobEvent(job_id=job.id, tenant_id=tenant, status=RUNNING, payload={"n": 2})
    async with transaction(storage) as jobs:
        assert await jobs.try_replace(started, QUEUED)
        waiting = asyncio.create_task(storage.graph_job_repository.append_event(late))
        await shared_watch.until_waiting()
        first = await jobs.append_event(late.replace(payload={"n": 1}))
    second = await waiting
    assert (first, second) == await storage.graph_job_repository.list_events(tenant, job.id)


async def test_a_claim_skips_a_queued_job_with_an_edit_in_progress(storage: Storage, tenant: str) -> None:
    job = await storage.graph_jobs.add(build_job(tenant))
    async with storage.session() as session, session.begin():
        edited = job.edit(metadata={"branch": "main"})
        assert (await storage.graph_jobs.using(session).update(edited, expected=QUEUED)).applied
        during = await storage.graph_job_queue.claim(tenant, "build", limit=1)
    after = await storage.graph_job_queue.claim(tenant, "build", limit=1)
    assert () == during.jobs
    assert [{"branch": "main"}] == [dict(claimed.metadata) for claimed in after.jobs]
