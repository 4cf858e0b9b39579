"""Program that measures the memory of a worker: print its resident megabytes after each 10,000 jobs."""

import asyncio
import sys
from typing import Final

import psutil  # type: ignore[import-untyped]

from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.settings import Settings
from graphjobs.storage import open_storage
from graphjobs.worker import BuildResult, GraphJobWorker, JobContext, WorkerOptions

_INTERVAL: Final = 10_000


async def main(url: str) -> None:
    """Run a worker until nothing is queued."""
    finished = 0

    async def build(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        return BuildResult("graph")

    def on_ended(_result: AttemptResult) -> None:
        nonlocal finished
        finished += 1
        if finished % _INTERVAL == 0:
            print(psutil.Process().memory_info().rss / 1e6, flush=True)

    async with open_storage(Settings.load(database_url=url)) as storage:
        options = WorkerOptions(batch=100, concurrency=400)
        await GraphJobWorker(storage, build=build, options=options, on_ended=on_ended).run(until_empty=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
