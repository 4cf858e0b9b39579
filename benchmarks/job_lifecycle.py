"""Suite of the life cycle of jobs: a worker with empty handlers drains a backlog; and the memory of a worker.

The competitors take turns with the same backlog. The legend lists what each of them writes.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.measure import BenchmarkError, Figure, Ratio, compared
from benchmarks.processes import started
from benchmarks.seeding import Connection, connected, queued_job, settle, store, truncate
from benchmarks.suite import Bench
from graphjobs.database.schema import SCHEMA
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.settings import Settings
from graphjobs.storage import Storage, open_storage
from graphjobs.worker import BuildResult, GraphJobWorker, JobContext, WorkerOptions

if TYPE_CHECKING:
    from benchmarks.other_queues import PgQueuer, Procrastinate

PGQUEUER: Final = "PgQueuer"
PROCRASTINATE: Final = "Procrastinate"
OURS: Final = "graphjobs"
PGQUEUER_RATIO_MIN: Final = 1.0
"""Our rate to that of PgQueuer, at the same batch."""
PROCRASTINATE_RATIO_MIN: Final = 20.0
MEMORY_RATIO_MAX: Final = 1.1
"""The memory of a worker after 100,000 jobs to that after 20,000."""

LEGEND: Final = {
    OURS: "GraphJobWorker on jobs of four tenants: claim and end, two transitions and two events per job; "
    "GraphBuildJob in and BuildResult out; concurrency ten times the batch of 10, four times that of 100",
    PGQUEUER: "QueueManager.run in drain mode, with the same batch_size (10 is its default); it deletes the job, "
    "and keeps a log row per status",
    PROCRASTINATE: "run_worker_async at concurrency 16, for some seconds on the same backlog; a trigger writes its log",
}

_BACKLOG_AND_ROUNDS: Final = (20_000, 4)
_BACKLOG_AND_ROUNDS_QUICK: Final = (4_000, 2)
_CONCURRENCY: Final = {10: 100, 100: 400}
_TENANTS: Final = 4
_PROCRASTINATE_CONCURRENCY: Final = 16
_MEMORY_JOBS: Final = 100_000
_UNIT: Final = "jobs/s"


async def _build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
    return BuildResult("graph")


class _Graphjobs:
    """The worker of graphjobs, on tables with nothing but the backlog."""

    def __init__(self, url: str, storage: Storage, connection: Connection) -> None:
        self._url, self._storage, self._connection = url, storage, connection

    async def fill(self, number: int) -> None:
        await truncate(self._url)
        await store(self._url, (queued_job(f"tenant-{index % _TENANTS}", index) for index in range(number)))

    async def drain(self, number: int, *, batch: int) -> float:
        options = WorkerOptions(batch=batch, concurrency=_CONCURRENCY[batch])
        worker = GraphJobWorker(self._storage, build=_build, options=options)
        started = time.perf_counter()
        await worker.run(until_empty=True)
        seconds = time.perf_counter() - started
        events = await self._connection.fetchval(f"SELECT count(*) FROM {SCHEMA}.graph_job_events")
        if (worker.stats.completed, events) != (number, 2 * number):
            raise BenchmarkError(f"graphjobs completed {worker.stats.completed} of {number} jobs, with {events} events")
        return number / seconds


async def life(bench: Bench) -> list[Figure]:
    """Measure the rate of each competitor in turns, and the memory of our worker before and after many jobs."""
    quick = bench.many_rows < 1_000_000  # set by --quick
    backlog, rounds = _BACKLOG_AND_ROUNDS_QUICK if quick else _BACKLOG_AND_ROUNDS
    speeds: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_storage(Settings.load(database_url=bench.url)))
        connection = await stack.enter_async_context(connected(bench.url))
        ours = _Graphjobs(bench.url, storage, connection)
        # Imported here: the other suites need no other queue.
        from benchmarks.other_queues import open_procrastinate, pgqueuer

        theirs = await stack.enter_async_context(pgqueuer(bench.url))
        slow = await stack.enter_async_context(open_procrastinate(bench.url))
        bench.say(f"a backlog of {backlog:,} jobs per competitor")
        await slow.fill(backlog)
        for turn in range(rounds):
            bench.say(f"round {turn + 1} of {rounds}")
            for name, run in bench.order.sample(
                sorted(_competitors(ours, theirs, slow, bench.url, backlog).items()), 5
            ):
                speeds.setdefault(name, []).append(await run())
    figures = _figures(speeds)
    bench.say(f"memory over {_MEMORY_JOBS:,} jobs")
    figures += await _memory(bench)
    return figures


def _competitors(
    ours: _Graphjobs, theirs: "PgQueuer", slow: "Procrastinate", url: str, backlog: int
) -> dict[str, Callable[[], Awaitable[float]]]:
    async def drain(queue: "_Graphjobs | PgQueuer", batch: int) -> float:
        await queue.fill(backlog)
        await settle(url)
        return await queue.drain(backlog, batch=batch)

    async def work() -> float:
        await settle(url)
        return await slow.work(seconds=4.0, concurrency=_PROCRASTINATE_CONCURRENCY)

    return {
        **{f"{OURS} {batch}": lambda batch=batch: drain(ours, batch) for batch in _CONCURRENCY},  # type: ignore[misc]
        **{f"{PGQUEUER} {batch}": lambda batch=batch: drain(theirs, batch) for batch in _CONCURRENCY},  # type: ignore[misc]
        PROCRASTINATE: work,
    }


def _figures(speeds: dict[str, list[float]]) -> list[Figure]:
    def against(name: str, other: str, at_least: float | None) -> Ratio:
        return compared(speeds[name], speeds[other], of=OURS, against=other, at_least=at_least)

    figures = []
    for batch, concurrency in _CONCURRENCY.items():
        name, other = f"{OURS} {batch}", f"{PGQUEUER} {batch}"
        ratios = (
            against(name, other, PGQUEUER_RATIO_MIN),
            against(name, PROCRASTINATE, PROCRASTINATE_RATIO_MIN if batch == max(_CONCURRENCY) else None),
        )
        operation = f"life, batch {batch}"
        ours, theirs = statistics.median(speeds[name]), statistics.median(speeds[other])
        figures += [
            Figure(operation, concurrency, OURS, ours, ratios, unit=_UNIT),
            Figure(operation, concurrency, PGQUEUER, theirs, unit=_UNIT),
        ]
    median = statistics.median(speeds[PROCRASTINATE])
    return [*figures, Figure("life", _PROCRASTINATE_CONCURRENCY, PROCRASTINATE, median, unit=_UNIT)]


async def _memory(bench: Bench) -> list[Figure]:
    """Measure the process of a worker after each 10,000 jobs."""
    await truncate(bench.url)
    await store(bench.url, (queued_job(f"memory-{index % _TENANTS}", index) for index in range(_MEMORY_JOBS)))
    program = str(Path(__file__).with_name("worker_memory.py"))
    async with started(program, bench.url, stdout=asyncio.subprocess.PIPE) as process:
        output, _ = await process.communicate()
    megabytes = [float(line) for line in output.split()]
    if process.returncode or len(megabytes) != _MEMORY_JOBS // 10_000:
        raise BenchmarkError("the worker of the memory measurement did not complete its jobs")
    early, late = megabytes[1:3], megabytes[-2:]
    ratio = compared(late, early, of="at 100,000", against="at 20,000", at_most=MEMORY_RATIO_MAX)
    return [
        Figure("memory", 1, "at 20,000", statistics.median(early), unit="MB"),
        Figure("memory", 1, "at 100,000", statistics.median(late), (ratio,), unit="MB"),
    ]
