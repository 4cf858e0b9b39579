"""A client for tests that kill it: it starts and requeues its jobs, and prints each acknowledged transition.

Run as a program: `python crash_client.py URL TENANT HOW`. HOW is "alone", "session", "hold" (starts one job in a
session and keeps the transaction open) or "wait" (waits for the lock of one job).
"""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from graphjobs import GraphBuildJob, GraphJobStatus, open_storage
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage

QUEUED, RUNNING = GraphJobStatus.QUEUED, GraphJobStatus.RUNNING
WORKERS: Final = 6


async def start_and_requeue(storage: Storage, job: GraphBuildJob, *, in_session: bool) -> None:
    """Start and requeue the job in an endless loop."""
    while True:
        now = datetime.now(UTC)
        target = job.start(at=now) if job.status is QUEUED else job.requeue(at=now)
        if in_session:
            async with storage.session() as session, session.begin():
                jobs = GraphJobRepository(storage.database.using(session))
                won = await jobs.try_replace(target, job.status)
        else:
            won = await storage.graph_job_repository.try_replace(target, job.status)
        if not won:
            raise SystemExit("another client has changed this job")
        job = target
        sys.stdout.write(f"{job.id} {steps(job)}\n")
        sys.stdout.flush()


def steps(job: GraphBuildJob) -> int:
    """Count the transitions of a job."""
    return 2 * job.attempts - (job.status is RUNNING)


async def main(url: str, tenant: str, how: str, job_id: str = "") -> None:
    """Work until the process is killed."""
    async with open_storage(Settings.load(database_url=url)) as storage:
        if how in ("alone", "session"):
            jobs = [_job(tenant) for _ in range(WORKERS)]
            for job in jobs:
                await storage.graph_job_repository.insert(job)
            await asyncio.gather(*(start_and_requeue(storage, job, in_session=how == "session") for job in jobs))
        queued = await storage.graph_job_repository.get_build_job(tenant, UUID(job_id))
        if queued is None:
            raise SystemExit("no such job")
        async with storage.session() as session, session.begin():
            repository: GraphJobRepository = storage.graph_job_repository
            if how == "hold":
                repository = GraphJobRepository(storage.database.using(session))
            sys.stdout.write("begun\n")
            sys.stdout.flush()
            await repository.try_replace(queued.start(at=datetime.now(UTC)), QUEUED)
            sys.stdout.write("holding\n")
            sys.stdout.flush()
            await asyncio.Event().wait()


def _job(tenant: str) -> GraphBuildJob:
    return GraphBuildJob(
        tenant_id=tenant,
        sbom_id="sbom",
        sbom_version_id="sbom@1",
        sbom_digest="sha256:" + "a" * 64,
        trigger="manual",
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
