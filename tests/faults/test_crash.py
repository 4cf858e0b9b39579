"""A client that is killed: what it was told of is there, what it held is free, what it still asked for never comes."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from graphjobs import GraphJobStatus
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job
from tests.faults import crash_client
from tests.faults.backend_monitor import Watch, url_of
from tests.faults.crash_client import steps

QUEUED = GraphJobStatus.QUEUED
TENANT = "acme"
LINE_SECONDS = 20.0


@asynccontextmanager
async def client(settings: Settings, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A client process, which is killed at the end if it still lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(crash_client.__file__)), url_of(settings), TENANT, *arguments, stdout=-1
    )
    try:
        yield process
    finally:
        try:
            await asyncio.wait_for(process.wait(), 1)  # killed by the test; a second signal would confuse asyncio
        except TimeoutError:
            process.kill()
        await process.communicate()


async def line_of(process: asyncio.subprocess.Process) -> str:
    """Reads the client's next line; empty at its end."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), LINE_SECONDS)).decode().strip()


@pytest.mark.parametrize("way", ["alone", "session"])
async def test_what_a_killed_client_was_told_of_is_there(
    graphjobs_settings: Settings, graphjobs_storage: Storage, watch: Watch, way: str
) -> None:
    """Killed amid its swaps: each acknowledged one is in its row, and at most the one under way comes on top."""
    acknowledged: dict[str, int] = {}
    async with client(graphjobs_settings, way) as process:
        while sum(acknowledged.values()) < 150:
            job_id, step = (await line_of(process)).split()
            acknowledged[job_id] = int(step)
        process.kill()
        while line := await line_of(process):
            job_id, step = line.split()
            acknowledged[job_id] = int(step)

    # All its backends are gone; idle ones of this test's own storage are not the client's.
    await watch.until_settled(seconds=3)
    rows = await graphjobs_storage.graph_job_repository.list_build_jobs(TENANT, limit=100)
    assert rows.unreadable == ()
    assert crash_client.WORKERS == len(acknowledged) == len(rows)
    for job in rows:
        assert steps(job) - acknowledged[str(job.id)] in (0, 1)
        target = job.start(at=AT) if job.status is QUEUED else job.requeue(at=AT)
        assert await graphjobs_storage.graph_job_repository.try_replace(target, job.status)


async def test_the_locks_of_a_killed_client_are_free_at_once(
    graphjobs_settings: Settings, graphjobs_storage: Storage, watch: Watch
) -> None:
    """It swapped a job in a transaction it never ended: the server takes it back, and the next one swaps."""
    queued = await graphjobs_storage.graph_job_repository.insert(build_job(TENANT))
    async with client(graphjobs_settings, "hold", str(queued.id)) as process:
        assert ["begun", "holding"] == [await line_of(process) for _ in range(2)]
        swap = asyncio.create_task(graphjobs_storage.graph_job_repository.try_replace(queued.cancel(at=AT), QUEUED))
        await watch.until_waiting()
        process.kill()
        assert await asyncio.wait_for(swap, 3)


async def test_a_swap_that_a_killed_client_still_waited_for_does_not_land_later(
    graphjobs_settings: Settings, graphjobs_storage: Storage, watch: Watch
) -> None:
    """The server looks every 5 seconds whether its client still is; without that the swap lands when the lock frees."""
    queued = await graphjobs_storage.graph_job_repository.insert(build_job(TENANT))
    async with watch.holding(queued.id), client(graphjobs_settings, "wait", str(queued.id)) as process:
        assert await line_of(process) == "begun"
        pids = await watch.until_waiting()
        process.kill()
        await watch.until_gone(pids)

    await watch.until_settled()
    assert queued == await graphjobs_storage.graph_job_repository.get_build_job(TENANT, queued.id)
