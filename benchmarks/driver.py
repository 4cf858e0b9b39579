"""The bare driver as a competitor, with its own pool or with one connection."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
from sqlalchemy import Executable
from typing_extensions import override

from benchmarks.competitors import HELD, POOL, POOL_SIZE, Competitor
from benchmarks.measure import Call
from benchmarks.seeding import Connection, connected
from graphjobs.database.executor import compiled
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.graph_jobs.row_mapping import job_params, swap_params
from graphjobs.graph_jobs.sql import lists, single
from graphjobs.graph_jobs.status import GraphJobStatus


class _Driver(Competitor):
    """The statements of graphjobs on the bare driver, with prepared arguments and raw records."""

    @abstractmethod
    async def fetch(self, sql: str, arguments: Sequence[object]) -> Sequence[asyncpg.Record]:
        """Run one statement."""

    @override
    def get(self, job: GraphBuildJob) -> Call:
        return self.call(single.GET_JOB, {"p_job_id": job.id, "p_tenant_id": job.tenant_id, "p_type": job.type.code})

    @override
    def insert(self, job: GraphBuildJob) -> Call:
        return self.call(single.INSERT_JOB, job_params(job))

    @override
    def try_replace(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        return self.call(single.REPLACE_JOB, swap_params(job, expected, None))

    @override
    def newest(self, tenant_id: str, status: GraphJobStatus, limit: int) -> Call:
        arguments = {
            "p_tenant_id": tenant_id,
            "p_type": GraphBuildJob.type.code,
            "p_status": status.code,
            "p_limit": limit,
        }
        return self.call(lists.LIST_JOBS_BY_STATUS, arguments)

    def call(self, statement: Executable, arguments: Mapping[str, object]) -> Call:
        """Prepare a statement of graphjobs, with compiled text and ordered arguments."""
        query = compiled(statement)
        return partial(self.fetch, query.sql, [arguments[name] for name in query.binds])


class Pool(_Driver):
    """asyncpg's own pool, which resets each returned connection."""

    name = POOL

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def fetch(self, sql: str, arguments: Sequence[object]) -> Sequence[asyncpg.Record]:
        """Run one statement on a connection of the pool."""
        async with self._pool.acquire() as connection:
            return await connection.fetch(sql, *arguments)


class HeldConnection(_Driver):
    """One connection without other users."""

    name = HELD

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def fetch(self, sql: str, arguments: Sequence[object]) -> Sequence[asyncpg.Record]:
        """Run one statement on the connection."""
        return await self.connection.fetch(sql, *arguments)


@asynccontextmanager
async def bare_pool(url: str) -> AsyncIterator[Pool]:
    """Open asyncpg's own pool with its defaults."""
    async with asyncpg.create_pool(url, min_size=POOL_SIZE, max_size=POOL_SIZE) as pool:
        yield Pool(pool)


@asynccontextmanager
async def held_connection(url: str) -> AsyncIterator[HeldConnection]:
    """Open one connection."""
    async with connected(url) as connection:
        yield HeldConnection(connection)
