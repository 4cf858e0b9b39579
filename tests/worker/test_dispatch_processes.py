"""Dispatchers as processes that are killed and stopped: each run is handed over, each move is legal, none is stuck."""

import asyncio
import random
import signal
import time
from datetime import timedelta

from graphjobs import PolicyRunDispatcher, PolicyRunJob, PolicyRunStatus
from graphjobs.policy_runs.attempt_results import RetryBackoff
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from graphjobs.worker import DispatchContext, DispatcherOptions
from tests.builders import policy_run
from tests.worker.processes import client, clients, require_legal

Status = PolicyRunStatus

_PROCESSES = 4
_RUNS = 1_500
_TENANTS = 5
_SEED = 20_260_102


async def _counted(storage: Storage, *statuses: PolicyRunStatus) -> int:
    counts = [await storage.policy_runs.count(f"tenant-{number}", statuses=statuses) for number in range(_TENANTS)]
    return sum(count.value for count in counts)


async def test_each_run_is_submitted_once_while_dispatchers_are_killed(
    graphjobs_storage: Storage, graphjobs_settings: Settings
) -> None:
    """Four processes; now and then one at random is killed as hard as can be, and another takes its place."""
    chance = random.Random(_SEED)  # noqa: S311  # no secret
    storage = graphjobs_storage
    for number in range(_RUNS):
        priority = ("normal", "normal", "high", "emergency")[number % 4]
        await storage.policy_runs.insert(policy_run(f"tenant-{number % _TENANTS}", priority=priority))
    killed = 0
    deadline = time.monotonic() + 120
    async with clients(graphjobs_settings, "dispatch storm", _PROCESSES) as processes:
        while await _counted(storage, Status.PENDING, Status.DISPATCHING):
            assert time.monotonic() < deadline, "not in time"
            await asyncio.sleep(0.7)
            place = chance.randrange(_PROCESSES)
            processes[place].send_signal(signal.SIGKILL)
            await processes[place].wait()
            killed += 1
            processes[place] = await client(graphjobs_settings, "dispatch storm")

    assert killed >= 3
    assert _RUNS == await _counted(storage, Status.SUBMITTED)
    rows = await _histories(storage)
    assert _RUNS == len(rows)
    for attempts, told in rows:
        require_legal(told, first="pending")
        assert 1 == told.count("dispatching>submitted")
        assert attempts == told.count("pending>dispatching")
    # Some of those who were killed had runs in hand: else this has tried nothing.
    assert await _rescued(storage) > 0


async def _histories(storage: Storage) -> list[tuple[int, list[str]]]:
    """Each run's attempts, and its moves in the order of the log."""
    async with storage.session() as session:
        connection = await session.connection()
        found = await connection.exec_driver_sql(
            "SELECT run.attempts, array_agg(concat_ws('>', event.payload->>'from', event.payload->>'to')"
            " ORDER BY event.id) FROM scheduler.policy_runs AS run"
            " JOIN scheduler.policy_run_events AS event ON event.job_id = run.id GROUP BY run.id"
        )
        return [tuple(row) for row in found]


async def _rescued(storage: Storage) -> int:
    async with storage.session() as session:
        connection = await session.connection()
        found = await connection.exec_driver_sql(
            "SELECT count(*) FROM scheduler.policy_run_events WHERE payload ? 'rescued'"
        )
        number: int = found.scalar_one()
        return number


async def test_a_zombie_cannot_submit_the_run_it_lost(graphjobs_storage: Storage, graphjobs_settings: Settings) -> None:
    """Stopped until its run is rescued and handed over by another, then continued: refused, and nothing is changed."""
    storage = graphjobs_storage
    run = await storage.policy_runs.insert(policy_run())
    async with clients(graphjobs_settings, "dispatch zombie", 1) as (zombie,):
        assert zombie.stdout is not None
        assert zombie.stdin is not None
        assert b"started 1\n" == await asyncio.wait_for(zombie.stdout.readline(), 30)
        zombie.send_signal(signal.SIGSTOP)
        await _lease_runs_out(storage, run)
        await _submitted_by_another(storage)
        done = await storage.policy_runs.get(run.tenant_id, run.id)
        zombie.stdin.write(b"go on\n")
        zombie.send_signal(signal.SIGCONT)

        assert b"completed 0 lost 1\n" == await asyncio.wait_for(zombie.stdout.readline(), 30)
        assert 0 == await asyncio.wait_for(zombie.wait(), 30)
    assert done is not None
    assert (Status.SUBMITTED, 2) == (done.status, done.attempts)
    assert done == await storage.policy_runs.get(run.tenant_id, run.id)
    log = [event.status.value for event in await storage.policy_runs.events(run.tenant_id, run.id)]
    assert ["pending", "dispatching", "pending", "dispatching", "submitted"] == log


async def _lease_runs_out(storage: Storage, run: PolicyRunJob) -> None:
    """Its lease is of a day; nobody waits for that here."""
    async with storage.session() as session, session.begin():
        connection = await session.connection()
        await connection.exec_driver_sql(
            "UPDATE scheduler.policy_runs SET lease_expires_at = now() WHERE id = $1", (run.id,)
        )


async def _submitted_by_another(storage: Storage) -> None:
    async def dispatch(_run: PolicyRunJob, _context: DispatchContext) -> None:
        return

    at_once = RetryBackoff(first=timedelta(milliseconds=1), cap=timedelta(milliseconds=1))
    options = DispatcherOptions(
        lease=timedelta(seconds=1), poll=timedelta(milliseconds=50), name="another", backoff=at_once
    )
    ended = asyncio.Event()
    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options, on_ended=lambda _ending: ended.set())
    working = asyncio.ensure_future(dispatcher.run())
    await asyncio.wait_for(ended.wait(), 30)
    dispatcher.stop()
    await working
    assert (1, 1) == (dispatcher.counts.rescued, dispatcher.counts.submitted)
