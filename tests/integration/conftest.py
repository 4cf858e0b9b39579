"""Shared fixtures: access to jobs and runs in autocommit and in a session, empty databases and the command."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncSession

from graphjobs import PolicyRunRepository
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.storage import Storage
from tests.builders import build_job, overlay_job
from tests.migrations.cli_tools import Command, many_graphjobs
from tests.migrations.conftest import empty_url  # noqa: F401  # a fixture


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

    async def now(self, job: AnyJob) -> Any:
        """Read a job that must be stored."""
        found = await self.store.get_job(job.tenant_id, job.id)
        assert found is not None
        return found

    async def claimed(self, job: AnyJob) -> Any:
        """Store a job and claim it."""
        await self.store.add(job)
        (claimed,) = (await self.queue.claim(job.tenant_id, job.type, limit=1)).jobs
        return claimed


@pytest_asyncio.fixture(params=["autocommit", "in a session"])
async def session(request: pytest.FixtureRequest, storage: Storage) -> AsyncIterator[AsyncSession | None]:
    """No session, and a session in a transaction: the guarantees are the same."""
    if request.param == "autocommit":
        yield None
        return
    async with storage.session() as session, session.begin():
        yield session


@pytest.fixture
def access(session: AsyncSession | None, storage: Storage) -> Access:
    """Both kinds of access to graph jobs."""
    if session is None:
        return Access.autocommit(storage)
    return Access(storage.graph_jobs.using(session), storage.graph_job_queue.using(session), session, storage)


@pytest.fixture
def runs(session: AsyncSession | None, storage: Storage) -> PolicyRunRepository:
    """The repository of policy runs, with both kinds of access."""
    return storage.policy_runs if session is None else storage.policy_runs.using(session)


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


@pytest.fixture(scope="module")
def graphjobs() -> Iterator[Command]:
    """The command `graphjobs`; each call is a process of its own."""
    with many_graphjobs() as command:
        yield command
