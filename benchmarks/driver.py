"""The bare driver as a competitor, through its own pool and through one held connection."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

import asyncpg
from sqlalchemy import Executable
from typing_extensions import override

from benchmarks.competitors import HELD, POOL, POOL_SIZE, Contestant
from benchmarks.measure import Call
from graphjobs.database.executor import compiled
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.graph_jobs.sql import lists, single
from graphjobs.graph_jobs.status import GraphJobStatus

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_Arguments: TypeAlias = dict[str, object]


class _Driver(Contestant):
    """The statements of graphjobs on the bare driver; arguments are ready before, and records stay records."""

    @abstractmethod
    async def fetch(self, sql: str, arguments: Sequence[object]) -> Sequence[asyncpg.Record]:
        """Runs one statement."""

    @override
    def get(self, job: GraphBuildJob) -> Call:
        return self.call(single.GET_JOB, {"p_job_id": job.id, "p_tenant_id": job.tenant_id, "p_type": job.type.code})

    @override
    def insert(self, job: GraphBuildJob) -> Call:
        return self.call(single.INSERT_JOB, _written(job))

    @override
    def try_replace(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        begins = job.status is GraphJobStatus.RUNNING
        fence = {
            "p_expected_status": expected.code,
            "p_expected_attempts": job.attempts - 1 if begins else job.attempts,
        }
        return self.call(single.REPLACE_JOB, _written(job) | fence)

    @override
    def newest(self, tenant_id: str, status: GraphJobStatus, limit: int) -> Call:
        chosen: _Arguments = {
            "p_tenant_id": tenant_id,
            "p_type": GraphBuildJob.type.code,
            "p_expected_status": status.code,
        }
        return self.call(lists.LIST_JOBS_BY_STATUS, chosen | {"p_limit": limit})

    def call(self, statement: Executable, arguments: Mapping[str, object]) -> Call:
        """Prepares one of our statements, of whatever room: its text and its arguments are ready."""
        form = compiled(statement)
        return partial(self.fetch, form.sql, [arguments[name] for name in form.binds])


def _written(job: GraphBuildJob) -> _Arguments:
    return {
        "p_job_id": job.id,
        "p_tenant_id": job.tenant_id,
        "p_type": job.type.code,
        "p_status": job.status.code,
        "p_payload": job.to_json(),
        "p_created_at": job.created_at,
        "p_correlation_id": job.correlation_id,
    }


class Pool(_Driver):
    """asyncpg's own pool, which resets a connection each time it comes back."""

    name = POOL

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def fetch(self, sql: str, arguments: Sequence[object]) -> Sequence[asyncpg.Record]:
        """Runs one statement on a connection of the pool."""
        async with self._pool.acquire() as connection:
            return await connection.fetch(sql, *arguments)


class Held(_Driver):
    """One connection that nobody else uses."""

    name = HELD

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def fetch(self, sql: str, arguments: Sequence[object]) -> Sequence[asyncpg.Record]:
        """Runs one statement on the connection."""
        return await self.connection.fetch(sql, *arguments)


@asynccontextmanager
async def bare_pool(url: str) -> AsyncIterator[Pool]:
    """Opens asyncpg's own pool, with its defaults."""
    async with asyncpg.create_pool(url, min_size=POOL_SIZE, max_size=POOL_SIZE) as pool:
        yield Pool(pool)


@asynccontextmanager
async def held_connection(url: str) -> AsyncIterator[Held]:
    """Opens one connection."""
    connection = await asyncpg.connect(url)
    try:
        yield Held(connection)
    finally:
        await connection.close()
