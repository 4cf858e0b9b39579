"""A killed client: acknowledged writes are stored, its locks are free, and its waiting statements are not applied."""

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
    """Run a client process, and kill it at the end if it is still running."""
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


async def read_line(process: asyncio.subprocess.Process) -> str:
    """Read the client's next line; empty after its end."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), LINE_SECONDS)).decode().strip()


@pytest.mark.parametrize("way", ["alone", "session"])
async def test_acknowledged_writes_of_a_killed_client_are_stored(
    graphjobs_settings: Settings, graphjobs_storage: Storage, watch: Watch, way: str
) -> None:
    """Each row has all acknowledged transitions, and at most one more that was in flight."""
    acknowledged: dict[str, int] = {}
    async with client(graphjobs_settings, way) as process:
        while sum(acknowledged.values()) < 150:
            job_id, step = (await read_line(process)).split()
            acknowledged[job_id] = int(step)
        process.kill()
        while line := await read_line(process):
            job_id, step = line.split()
            acknowledged[job_id] = int(step)

    # No backend is busy; the idle ones belong to this test's own storage.
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
    """The server rolls back the open transaction of the client, and the next update succeeds."""
    queued = await graphjobs_storage.graph_job_repository.insert(build_job(TENANT))
    async with client(graphjobs_settings, "hold", str(queued.id)) as process:
        assert ["begun", "holding"] == [await read_line(process) for _ in range(2)]
        swap = asyncio.create_task(graphjobs_storage.graph_job_repository.try_replace(queued.cancel(at=AT), QUEUED))
        await watch.until_waiting()
        process.kill()
        assert await asyncio.wait_for(swap, 3)


async def test_a_waiting_update_of_a_killed_client_is_not_applied_later(
    graphjobs_settings: Settings, graphjobs_storage: Storage, watch: Watch
) -> None:
    """The server checks its client every 5 seconds; without that check the update would be applied after the lock."""
    queued = await graphjobs_storage.graph_job_repository.insert(build_job(TENANT))
    async with watch.holding(queued.id), client(graphjobs_settings, "wait", str(queued.id)) as process:
        assert await read_line(process) == "begun"
        pids = await watch.until_waiting()
        process.kill()
        await watch.until_gone(pids)

    await watch.until_settled()
    assert queued == await graphjobs_storage.graph_job_repository.get_build_job(TENANT, queued.id)
