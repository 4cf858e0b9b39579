"""Fixtures of graph jobs that several modules share: access to store and queue, in autocommit and in a session."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncSession

from graphjobs.graph_jobs.models import AnyJob
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.storage import Storage
from tests.builders import build_job, overlay_job


@dataclass(frozen=True)
class Access:
    """The store and the queue in autocommit or in a session, and raw SQL in the same way."""

    store: GraphJobStore
    queue: GraphJobQueue
    session: AsyncSession | None
    storage: Storage

    @classmethod
    def autocommit(cls, storage: Storage) -> "Access":
        """Return the access in which each call is its own transaction."""
        return cls(storage.graph_jobs, storage.graph_job_queue, None, storage)

    async def sql(self, statement: str, *parameters: object) -> None:
        """Run a statement that the package would not run."""
        if self.session is not None:
            await (await self.session.connection()).exec_driver_sql(statement, parameters)
            return
        async with self.storage.session() as session, session.begin():
            await (await session.connection()).exec_driver_sql(statement, parameters)

    async def now(self, job: AnyJob) -> AnyJob:
        """Read a job that must be stored."""
        found = await self.store.get_job(job.tenant_id, job.id)
        assert found is not None
        return found

    async def claimed(self, job: AnyJob) -> AnyJob:
        """Store a job and claim it."""
        await self.store.add(job)
        (claimed,) = (await self.queue.claim(job.tenant_id, job.type, limit=1)).jobs
        return claimed


@pytest_asyncio.fixture(params=["autocommit", "in a session"])
async def access(request: pytest.FixtureRequest, storage: Storage) -> AsyncIterator[Access]:
    """Both kinds of access: the guarantees are the same."""
    if request.param == "autocommit":
        yield Access.autocommit(storage)
        return
    async with storage.session() as session, session.begin():
        yield Access(storage.graph_jobs.using(session), storage.graph_job_queue.using(session), session, storage)


@pytest.fixture
def autocommit(storage: Storage) -> Access:
    """Access in autocommit only."""
    return Access.autocommit(storage)


@pytest.fixture
def store(access: Access) -> GraphJobStore:
    """The store, for tests without raw SQL."""
    return access.store


@pytest.fixture(params=[build_job, overlay_job], ids=["build", "overlay"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """The builder of each job type in turn."""
    builder: Callable[..., Any] = request.param
    return builder
