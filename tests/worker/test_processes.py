"""Workers as processes that are killed and stopped: each job is done once, and none is stuck."""

import asyncio
import random
import signal
import time
from collections import Counter
from datetime import timedelta
from typing import Any

from graphjobs import GraphBuildJob, GraphJobQuery, GraphJobStatus
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from graphjobs.worker import BuildResult, GraphJobWorker, JobContext, WorkerOptions
from tests.builders import build_job
from tests.worker.processes import client, clients, require_legal

Status = GraphJobStatus

_PROCESSES = 8
_JOBS = 5_000
_TENANTS = 7
_SEED = 20_260_102


async def _counted(storage: Storage, *statuses: GraphJobStatus) -> int:
    return sum(
        [
            (await storage.graph_jobs.count(f"tenant-{number}", GraphJobQuery(statuses=statuses))).value
            for number in range(_TENANTS)
        ]
    )


async def test_five_thousand_jobs_are_each_done_once_while_workers_are_killed(
    graphjobs_storage: Storage, graphjobs_settings: Settings
) -> None:
    """Eight processes; each second one of them, at random, is killed as hard as can be, and another takes its place."""
    chance = random.Random(_SEED)  # noqa: S311  # no secret
    for number in range(_TENANTS):
        of_tenant = [build_job(f"tenant-{number}") for _ in range(number, _JOBS, _TENANTS)]
        await graphjobs_storage.graph_jobs.add_many(of_tenant)
    killed = 0
    deadline = time.monotonic() + 120
    async with clients(graphjobs_settings, "storm", _PROCESSES) as processes:
        while await _counted(graphjobs_storage, Status.QUEUED, Status.RUNNING):
            assert time.monotonic() < deadline, "not in time"
            await asyncio.sleep(1)
            place = chance.randrange(_PROCESSES)
            processes[place].send_signal(signal.SIGKILL)
            await processes[place].wait()
            killed += 1
            processes[place] = await client(graphjobs_settings, "storm")

    assert killed >= 3
    assert _JOBS == await _counted(graphjobs_storage, Status.COMPLETED)
    rows = await _histories(graphjobs_storage)
    assert _JOBS == len(rows)
    attempts: Counter[int] = Counter()
    for job_attempts, snapshot, told in rows:
        require_legal(told, first="queued")
        assert 1 == told.count("running>completed")
        assert job_attempts == told.count("queued>running")
        assert f"graph of attempt {job_attempts}" == snapshot
        attempts[job_attempts] += 1
    # Some of those who were killed had jobs in hand: else this has tried nothing.
    assert attempts.total() > attempts[1]


async def _histories(storage: Storage) -> list[tuple[int, str, list[str]]]:
    """Each job's attempts, its graph, and its moves in the order of the log."""
    async with storage.session() as session:
        connection = await session.connection()
        found = await connection.exec_driver_sql(
            "SELECT (job.payload->>'attempts')::int, job.payload->>'graphSnapshotId', array_agg(concat_ws('>',"
            " event.payload->>'from', event.payload->>'to') ORDER BY event.id) FROM scheduler.graph_jobs AS job"
            " JOIN scheduler.graph_job_events AS event ON event.job_id = job.id GROUP BY job.id"
        )
        return [tuple(row) for row in found]


async def test_a_zombie_cannot_end_the_job_it_lost(graphjobs_storage: Storage, graphjobs_settings: Settings) -> None:
    """Stopped until its job is rescued and done by another, then continued: it is refused, and changes nothing."""
    storage = graphjobs_storage
    job = await storage.graph_jobs.add(build_job())
    async with clients(graphjobs_settings, "zombie", 1) as (zombie,):
        assert zombie.stdout is not None
        assert zombie.stdin is not None
        assert b"started 1\n" == await asyncio.wait_for(zombie.stdout.readline(), 30)
        zombie.send_signal(signal.SIGSTOP)

        await _done_by_another(storage)
        done, log = await _state(storage, job)
        zombie.stdin.write(b"go on\n")
        zombie.send_signal(signal.SIGCONT)

        assert b"completed 0 lost 1\n" == await asyncio.wait_for(zombie.stdout.readline(), 30)
        assert 0 == await asyncio.wait_for(zombie.wait(), 30)
    assert (done, log) == await _state(storage, job)
    assert (Status.COMPLETED, 2, "graph of another") == (done.status, done.attempts, done.graph_snapshot_id)
    assert ["queued", "running", "queued", "running", "completed"] == [event.status.value for event in log]


async def _done_by_another(storage: Storage) -> None:
    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        return BuildResult("graph of another")

    options = WorkerOptions(lease=timedelta(seconds=1), poll=timedelta(milliseconds=50), name="another")
    ended = asyncio.Event()
    worker = GraphJobWorker(storage, build=build, options=options, on_ended=lambda _ending: ended.set())
    working = asyncio.ensure_future(worker.run())
    await asyncio.wait_for(ended.wait(), 30)
    worker.stop()
    await working
    assert (1, 1) == (worker.counts.rescued, worker.counts.completed)


async def _state(storage: Storage, job: GraphBuildJob) -> tuple[GraphBuildJob, list[Any]]:
    found = await storage.graph_jobs.get_build_job(job.tenant_id, job.id)
    assert found is not None
    return found, list(await storage.graph_jobs.events(job.tenant_id, job.id))
