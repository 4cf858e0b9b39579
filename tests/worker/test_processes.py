"""Workers and dispatchers as processes that are killed or suspended: each item is finished once, and none is stuck."""

import asyncio
import random
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from graphjobs.settings import Settings
from graphjobs.storage import Storage
from graphjobs.worker import BuildResult
from tests.worker.twins import TWINS, execute
from tests.worker.worker_control import run_until

_ROOT = Path(__file__).resolve().parents[2]
_SEED = 20_260_102


async def _start_client(settings: Settings, *arguments: str) -> Process:
    assert settings.database_url is not None
    command = (sys.executable, "-m", "tests.worker.worker_client", settings.database_url.get_secret_value(), *arguments)
    return await asyncio.create_subprocess_exec(*command, cwd=_ROOT, stdin=PIPE, stdout=PIPE)


@asynccontextmanager
async def _clients(settings: Settings, *arguments: str, number: int) -> AsyncIterator[list[Process]]:
    """Start processes of `worker_client.py`, and kill those that run at the end."""
    processes = [await _start_client(settings, *arguments) for _ in range(number)]
    try:
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _check_history(history: list[str], *, first: str) -> None:
    """Check that each transition starts at the status where the one before ended: none is missing or repeated."""
    assert first == history[0]
    status = first
    for transition in history[1:]:
        source, target = transition.split(">")
        assert status == source
        status = target


async def _histories(storage: Storage, table: str) -> list[tuple[int, str | None, list[str]]]:
    """Return the attempts, the graph and the transitions of each item, in the order of its event log."""
    async with storage.session() as session:
        connection = await session.connection()
        rows = await connection.exec_driver_sql(
            "SELECT coalesce(to_jsonb(item)->>'attempts', item.payload->>'attempts')::int,"
            " item.payload->>'graphSnapshotId', array_agg(concat_ws('>',"
            " event.payload->>'from', event.payload->>'to') ORDER BY event.id)"
            f" FROM scheduler.{table}s AS item"
            f" JOIN scheduler.{table}_events AS event ON event.job_id = item.id GROUP BY item.id"
        )
        return [tuple(row) for row in rows]


@pytest.mark.parametrize(
    ("kind", "processes_number", "items", "tenants", "kill_seconds"),
    [("worker", 8, 5_000, 7, 1.0), ("dispatcher", 4, 1_500, 5, 0.7)],
)
async def test_each_item_is_finished_once_while_processes_are_killed(
    graphjobs_storage: Storage,
    graphjobs_settings: Settings,
    kind: str,
    processes_number: int,
    items: int,
    tenants: int,
    kill_seconds: float,
) -> None:
    """A random process is killed with SIGKILL at intervals, and another process replaces it."""
    chance = random.Random(_SEED)  # noqa: S311  # no secret
    twin = TWINS[kind](graphjobs_storage, None)
    for number in range(tenants):
        await twin.add_many(len(range(number, items, tenants)), f"tenant-{number}")

    async def count(*statuses: str) -> int:
        return sum([await twin.count(f"tenant-{number}", statuses) for number in range(tenants)])

    killed = 0
    deadline = time.monotonic() + 120
    async with _clients(graphjobs_settings, kind, "storm", number=processes_number) as processes:
        while await count(twin.queued, twin.running):
            assert time.monotonic() < deadline, "not in time"
            await asyncio.sleep(kill_seconds)
            index = chance.randrange(processes_number)
            processes[index].send_signal(signal.SIGKILL)
            await processes[index].wait()
            killed += 1
            processes[index] = await _start_client(graphjobs_settings, kind, "storm")

    assert killed >= 3
    assert items == await count(twin.finished)
    histories = await _histories(graphjobs_storage, twin.table)
    assert items == len(histories)
    for attempts, snapshot, history in histories:
        _check_history(history, first=twin.queued)
        assert 1 == history.count(f"{twin.running}>{twin.finished}")
        assert attempts == history.count(f"{twin.queued}>{twin.running}")
        assert snapshot == (f"graph of attempt {attempts}" if kind == "worker" else None)
    # Some killed processes had items in flight, otherwise this test has tried nothing.
    async with graphjobs_storage.session() as session:
        connection = await session.connection()
        rescued = f"SELECT count(*) FROM scheduler.{twin.table}_events WHERE payload ? 'rescued'"
        assert (await connection.exec_driver_sql(rescued)).scalar_one() > 0


@pytest.mark.parametrize("processes_number", [1, 3])
@pytest.mark.parametrize("kind", TWINS)
async def test_an_item_that_kills_its_process_fails_alone(
    graphjobs_storage: Storage, graphjobs_settings: Settings, kind: str, processes_number: int
) -> None:
    """What runs beside it loses attempts, too, and gets the last one in a process without another item."""
    twin = TWINS[kind](graphjobs_storage, None)
    items = list(twin.new_items(40, "acme"))
    items[5] = items[5].replace(metadata={"poison": "yes"})
    poison, *innocent = [await twin.insert(item) for item in (items[5], *items[:5], *items[6:])]
    deadline = time.monotonic() + 60
    async with _clients(graphjobs_settings, kind, "poison", number=processes_number) as processes:
        while await twin.count("acme", (twin.queued, twin.running)):
            assert time.monotonic() < deadline, "not in time"
            await asyncio.sleep(0.05)
            for index, process in enumerate(processes):
                if process.returncode is not None:
                    processes[index] = await _start_client(graphjobs_settings, kind, "poison")

    assert ("failed", 3) == await twin.status(poison)
    assert "at most 3 attempts are made" in await twin.error(poison)
    assert [twin.finished] * 39 == [(await twin.status(item))[0] for item in innocent]


@pytest.mark.parametrize("kind", TWINS)
async def test_a_suspended_process_does_not_finish_the_item_that_it_lost(
    graphjobs_storage: Storage, graphjobs_settings: Settings, kind: str
) -> None:
    """It is suspended until another worker rescues and finishes the item; its result is refused and changes nothing."""
    twin = TWINS[kind](graphjobs_storage, None)
    item = await twin.add()
    async with _clients(graphjobs_settings, kind, "zombie", number=1) as (zombie,):
        assert zombie.stdout is not None
        assert zombie.stdin is not None
        assert b"started 1\n" == await asyncio.wait_for(zombie.stdout.readline(), 30)
        zombie.send_signal(signal.SIGSTOP)
        if kind == "dispatcher":
            await execute(graphjobs_storage, "UPDATE scheduler.policy_runs SET lease_expires_at = now()")
        await _finish_by_another(graphjobs_storage, kind)
        finished, log = await twin.get(item), await twin.events(item)
        zombie.stdin.write(b"continue\n")
        zombie.send_signal(signal.SIGCONT)

        assert b"finished 0 lost 1\n" == await asyncio.wait_for(zombie.stdout.readline(), 30)
        assert 0 == await asyncio.wait_for(zombie.wait(), 30)
    assert (finished, log) == (await twin.get(item), await twin.events(item))
    assert (twin.finished, 2) == (finished.status.value, finished.attempts)
    assert kind == "dispatcher" or "graph of another" == finished.graph_snapshot_id
    assert [twin.queued, twin.running] * 2 + [twin.finished] == await twin.statuses(item)


async def _finish_by_another(storage: Storage, kind: str) -> None:
    async def handler(_item: object, _context: object) -> BuildResult:
        return BuildResult("graph of another")

    twin = TWINS[kind](storage, None)
    worker = twin.worker(handler, lease=timedelta(seconds=1), poll=timedelta(milliseconds=50), name="another")
    await run_until(worker, lambda: twin.finished_by(worker) == 1)
    assert 1 == worker.stats.rescued
