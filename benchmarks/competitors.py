"""The competitors: the bare driver twice, graphjobs, and a typical ORM session.

A competitor returns each operation as a prepared call. The inputs of a caller (a job to store, an id) are prepared
outside of the timed part; for the bare driver this includes the text of the payload, and its results stay raw records.
That is the strictest comparison for a layer with typed values.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Protocol

from typing_extensions import override

from benchmarks.measure import Call
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.settings import Settings
from graphjobs.storage import open_storage

POOL_SIZE: Final = 16
POOL: Final = "asyncpg pool"
HELD: Final = "held connection"
GRAPHJOBS: Final = "graphjobs"
ORM: Final = "ORM session"
LEGEND: Final = {
    POOL: f"asyncpg.create_pool({POOL_SIZE}), its defaults: the same SQL text and ready arguments in, raw records out",
    HELD: "the same on one connection of asyncpg's own, at 1 caller only: without acquire, release and reset",
    GRAPHJOBS: "the repository of open_storage(): GraphBuildJob in, GraphBuildJob out, each validated and compared",
    ORM: f"async_sessionmaker, pool_size={POOL_SIZE}: one session per operation, GraphBuildJob in and out; get is "
    "session.get(), try_replace reads the row, checks its status, sets attributes and commits (without a fence), "
    "the list is a plain select() of entities",
}
"""What each competitor does."""


class Competitor(Protocol):
    """A competitor that stores jobs. A successful call returns a true value."""

    name: str

    def get(self, job: GraphBuildJob) -> Call:
        """Read a job by its tenant and id."""
        ...

    def insert(self, job: GraphBuildJob) -> Call:
        """Insert a job."""
        ...

    def try_replace(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        """Replace a job that must be in the status `expected`."""
        ...

    def newest(self, tenant_id: str, status: GraphJobStatus, limit: int) -> Call:
        """List the newest build jobs of one status; the call returns a sequence."""
        ...


class Graphjobs(Competitor):
    """graphjobs with typed values, as a service uses it."""

    name = GRAPHJOBS

    def __init__(self, jobs: GraphJobRepository) -> None:
        self._jobs = jobs

    @override
    def get(self, job: GraphBuildJob) -> Call:
        return partial(self._jobs.get_build_job, job.tenant_id, job.id)

    @override
    def insert(self, job: GraphBuildJob) -> Call:
        return partial(self._jobs.insert, job)

    @override
    def try_replace(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        return partial(self._jobs.try_replace, job, expected)

    @override
    def newest(self, tenant_id: str, status: GraphJobStatus, limit: int) -> Call:
        return partial(self._jobs.list_build_jobs, tenant_id, status, limit=limit)

    def newest_of_all(self, tenant_id: str, limit: int) -> Call:
        """List the newest build jobs of any status."""
        return partial(self._jobs.list_build_jobs, tenant_id, limit=limit)


@asynccontextmanager
async def graphjobs(url: str) -> AsyncIterator[Graphjobs]:
    """Open graphjobs."""
    async with open_storage(Settings.load(database_url=url, pool_size=POOL_SIZE)) as storage:
        yield Graphjobs(GraphJobRepository(storage.database))
