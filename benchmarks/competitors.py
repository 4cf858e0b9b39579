"""Who is measured: the bare driver twice, graphjobs, and an ORM session as most people write it.

Each gives an operation as a call that is ready to be made. What a caller has at hand (a job to store, an id) is
prepared outside of the timed part; for the bare driver that goes as far as the text of the payload, and what it
answers stays raw records: the strictest bar there is for a layer that takes and gives typed values.
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
    HELD: "the same on one connection of asyncpg's own, at 1 caller only: nothing is acquired, released or reset",
    GRAPHJOBS: "the repository of open_storage(): GraphBuildJob in, GraphBuildJob out, each validated and compared",
    ORM: f"async_sessionmaker, pool_size={POOL_SIZE}: a session an operation, GraphBuildJob in and out; get is "
    "session.get(), the swap reads the row, checks its status, sets attributes and commits (and fences nothing), "
    "the list is a plain select() of entities",
}
"""What each of them does, and who builds what."""


class Contestant(Protocol):
    """Somebody who stores jobs. A call answers with something true where it did what it should."""

    name: str

    def get(self, job: GraphBuildJob) -> Call:
        """Reads a job by its tenant and id."""
        ...

    def insert(self, job: GraphBuildJob) -> Call:
        """Stores a new job."""
        ...

    def try_replace(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        """Swaps a job in that must be in the status `expected`."""
        ...

    def newest(self, tenant_id: str, status: GraphJobStatus, limit: int) -> Call:
        """Lists the newest build jobs of one status; answers with a sequence."""
        ...


class Graphjobs(Contestant):
    """graphjobs as a service uses it: typed values in and out."""

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
        """Lists the newest build jobs, whatever their status."""
        return partial(self._jobs.list_build_jobs, tenant_id, limit=limit)


@asynccontextmanager
async def graphjobs(url: str) -> AsyncIterator[Graphjobs]:
    """Opens graphjobs."""
    async with open_storage(Settings.load(database_url=url, pool_size=POOL_SIZE)) as storage:
        yield Graphjobs(GraphJobRepository(storage.database))
