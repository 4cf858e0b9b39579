"""A worker whose memory is measured: prints its resident megabytes after each 10,000 jobs; run as a program."""

import asyncio
import sys
from typing import Final

import psutil  # type: ignore[import-untyped]

from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.settings import Settings
from graphjobs.storage import open_storage
from graphjobs.worker import BuildResult, GraphJobWorker, JobContext, WorkerOptions

_EACH: Final = 10_000


async def main(url: str) -> None:
    """Works until nothing is queued."""
    ended = 0

    async def nothing(_job: GraphBuildJob, _context: JobContext) -> BuildResult:
        return BuildResult("graph")

    def weigh(_ending: AttemptResult) -> None:
        nonlocal ended
        ended += 1
        if ended % _EACH == 0:
            print(psutil.Process().memory_info().rss / 1e6, flush=True)

    async with open_storage(Settings.load(database_url=url)) as storage:
        options = WorkerOptions(batch=100, concurrency=400)
        await GraphJobWorker(storage, build=nothing, options=options, on_ended=weigh).run(until_empty=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
