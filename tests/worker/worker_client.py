"""A worker or a dispatcher in its own process, which a test kills or suspends.

Run `python -m tests.worker.worker_client URL KIND MODE`. KIND is "worker" or "dispatcher". MODE is "storm" (short
handlers and a short lease, until it is killed), "poison" (the same, and an item with the metadata
"poison" kills the process) or "zombie" (one item with a lease of a day; the handler
waits for a line on standard input).
"""

import asyncio
import os
import random
import signal
import sys
from datetime import timedelta
from typing import Any

from graphjobs import PolicyRunJob, open_storage
from graphjobs.policy_runs.attempt_results import RetryBackoff
from graphjobs.settings import Settings
from graphjobs.worker import BuildResult
from tests.worker.twins import TWINS


def print_line(line: str) -> None:
    """Print a line for the test."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def work_shortly(item: Any, _context: object) -> BuildResult:
    """Work for a random time; fail one policy run in ten."""
    await asyncio.sleep(random.uniform(0.0, 0.1))  # noqa: S311  # no secret
    if isinstance(item, PolicyRunJob) and random.random() < 0.1:  # noqa: S311  # no secret
        raise OSError("the engine is away")
    return BuildResult(f"graph of attempt {item.attempts}")


async def die_of_poison(item: Any, _context: object) -> BuildResult:
    """Work for a while, beside others; kill this process at an item with the metadata "poison"."""
    if "poison" in item.metadata:
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.2)
    return BuildResult("graph")


async def wait_for_line(item: Any, _context: object) -> BuildResult:
    """Wait for a line on standard input."""
    print_line(f"started {item.attempts}")
    await asyncio.to_thread(sys.stdin.readline)
    return BuildResult("graph of a zombie")


async def main(url: str, kind: str, mode: str) -> None:
    """Work until the process is killed, or until the zombie's item is finished or lost."""
    is_storm = mode != "zombie"
    handler = {"storm": work_shortly, "poison": die_of_poison, "zombie": wait_for_line}[mode]
    options: dict[str, Any] = {
        "concurrency": 8 if is_storm else 1,
        "batch": 8,
        "poll": timedelta(milliseconds=50),
        "lease": timedelta(seconds=2) if is_storm else timedelta(days=1),
        "attempts_max": 3 if mode == "poison" else 100,
        "rescue": is_storm,
        "time_limit": timedelta(minutes=15),
    }
    if kind == "dispatcher":
        options["backoff"] = RetryBackoff(first=timedelta(milliseconds=1), cap=timedelta(milliseconds=50))
    async with open_storage(Settings.load(database_url=url, pool_size=6)) as storage:
        twin = TWINS[kind](storage, None)
        worker = twin.worker(handler, **options)
        running = asyncio.ensure_future(worker.run())
        if is_storm:
            await running
        while not twin.finished_by(worker) + worker.stats.lost:
            await asyncio.sleep(0.01)
        print_line(f"finished {twin.finished_by(worker)} lost {worker.stats.lost}")
        worker.stop()
        await running


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
