"""Calls of the repository of graph jobs, in autocommit or in a transaction."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from graphjobs import GraphBuildJob, GraphJobStatus
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.storage import Storage

QUEUED, RUNNING = GraphJobStatus.QUEUED, GraphJobStatus.RUNNING


@asynccontextmanager
async def transaction(storage: Storage) -> AsyncIterator[GraphJobRepository]:
    """Open a transaction that commits at the end."""
    async with storage.session() as session, session.begin():
        yield GraphJobRepository(storage.database.using(session))


async def swapped(storage: Storage, job: GraphBuildJob, expected: GraphJobStatus, *, in_session: bool = False) -> bool:
    """Swap in autocommit, or in a transaction."""
    if not in_session:
        return await storage.graph_job_repository.try_replace(job, expected)
    async with transaction(storage) as jobs:
        return await jobs.try_replace(job, expected)


async def stored(storage: Storage, job: GraphBuildJob) -> GraphBuildJob:
    """Read a job that must be stored."""
    found = await storage.graph_job_repository.get_build_job(job.tenant_id, job.id)
    assert found is not None
    return found
