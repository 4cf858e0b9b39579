"""A worker or a dispatcher that is killed or stopped from outside.

Run as a program: `python worker_client.py URL HOW`. HOW is "storm" (short handlers and a short lease, until it is
killed), or "zombie" (one job, whose handler waits for a line on standard input; it beats for no heart);
"dispatch storm" and "dispatch zombie" do the same with policy runs.
"""

import asyncio
import random
import sys
from datetime import timedelta
from typing import Any

from graphjobs import GraphBuildJob, PolicyRunJob, open_storage
from graphjobs.policy_runs.attempt_results import RetryBackoff
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from graphjobs.worker import (
    BuildResult,
    DispatchContext,
    DispatcherOptions,
    GraphJobWorker,
    JobContext,
    PolicyRunDispatcher,
    WorkerOptions,
)
from graphjobs.worker.stats import DispatchCounts


def say(line: str) -> None:
    """Tells whoever started it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def at_random(job: GraphBuildJob, _context: JobContext) -> BuildResult:
    """Takes a while, as handlers do."""
    await asyncio.sleep(random.uniform(0.0, 0.1))  # noqa: S311  # no secret
    return BuildResult(f"graph of attempt {job.attempts}")


async def when_told(job: GraphBuildJob, _context: JobContext) -> BuildResult:
    """Waits for a line."""
    say(f"started {job.attempts}")
    await asyncio.to_thread(sys.stdin.readline)
    return BuildResult("graph of a zombie")


async def dispatch_at_random(_run: PolicyRunJob, _context: DispatchContext) -> None:
    """Takes a while, and fails now and then."""
    await asyncio.sleep(random.uniform(0.0, 0.1))  # noqa: S311  # no secret
    if random.random() < 0.1:  # noqa: S311  # no secret
        raise OSError("the engine is away")


async def dispatch_when_told(run: PolicyRunJob, _context: DispatchContext) -> None:
    """Waits for a line."""
    say(f"started {run.attempts}")
    await asyncio.to_thread(sys.stdin.readline)


def worker_of(storage: Storage, how: str) -> GraphJobWorker | PolicyRunDispatcher:
    """Makes what works."""
    storm = how.endswith("storm")
    options: dict[str, Any] = {
        "concurrency": 8 if storm else 1,
        "batch": 8,
        "poll": timedelta(milliseconds=50),
        "lease": timedelta(seconds=2) if storm else timedelta(days=1),
        "attempts_max": 100,
        "rescue": storm,
    }
    if how.startswith("dispatch"):
        at_once = RetryBackoff(first=timedelta(milliseconds=1), cap=timedelta(milliseconds=50))
        return PolicyRunDispatcher(
            storage,
            dispatch_at_random if storm else dispatch_when_told,
            options=DispatcherOptions(**options, backoff=at_once, time_limit=timedelta(minutes=15)),
        )
    return GraphJobWorker(storage, build=at_random if storm else when_told, options=WorkerOptions(**options))


def done_by(worker: GraphJobWorker | PolicyRunDispatcher) -> int:
    """Tells how much it has done."""
    counts = worker.counts
    return counts.submitted if isinstance(counts, DispatchCounts) else counts.completed


async def main(url: str, how: str) -> None:
    """Works until it is killed, or told."""
    async with open_storage(Settings.load(database_url=url, pool_size=6)) as storage:
        worker = worker_of(storage, how)
        working = asyncio.ensure_future(worker.run())
        if how.endswith("storm"):
            await working
        while not done_by(worker) + worker.counts.lost:
            await asyncio.sleep(0.01)
        say(f"completed {done_by(worker)} lost {worker.counts.lost}")
        worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
