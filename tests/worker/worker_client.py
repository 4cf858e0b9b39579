"""A worker that is killed or stopped from outside.

Run as a program: `python worker_client.py URL HOW`. HOW is "storm" (short handlers and a short lease, until it is
killed), or "zombie" (one job, whose handler waits for a line on standard input; it beats for no heart).
"""

import asyncio
import random
import sys
from datetime import timedelta

from graphjobs import GraphBuildJob, open_storage
from graphjobs.settings import Settings
from graphjobs.worker import BuildResult, GraphJobWorker, JobContext, WorkerOptions


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


async def main(url: str, how: str) -> None:
    """Works until it is killed, or told."""
    storm = how == "storm"
    options = WorkerOptions(
        concurrency=8 if storm else 1,
        batch=8,
        poll=timedelta(milliseconds=50),
        lease=timedelta(seconds=2) if storm else timedelta(days=1),
        attempts_max=100,
        rescue=storm,
    )
    async with open_storage(Settings.load(database_url=url, pool_size=6)) as storage:
        worker = GraphJobWorker(storage, build=at_random if storm else when_told, options=options)
        working = asyncio.ensure_future(worker.run())
        if storm:
            await working
        while not worker.counts.completed + worker.counts.lost:
            await asyncio.sleep(0.01)
        say(f"completed {worker.counts.completed} lost {worker.counts.lost}")
        worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
