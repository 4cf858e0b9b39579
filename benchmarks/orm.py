"""A typical ORM session as a competitor; it shares the declared tables with graphjobs, but no SQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

import asyncpg
from pydantic_core import to_json
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from typing_extensions import override

from benchmarks.competitors import ORM, POOL_SIZE, Competitor
from benchmarks.measure import Call
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.graph_jobs.tables import GraphJobRow


class OrmSession(Competitor):
    """One session per operation, with entities inside and the same values as graphjobs outside."""

    name = ORM

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions

    @override
    def get(self, job: GraphBuildJob) -> Call:
        return partial(self._get, job.tenant_id, job.id)

    @override
    def insert(self, job: GraphBuildJob) -> Call:
        return partial(self._insert, job)

    @override
    def try_replace(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        return partial(self._try_replace, job, expected)

    @override
    def newest(self, tenant_id: str, status: GraphJobStatus, limit: int) -> Call:
        return partial(self._newest, tenant_id, status, limit)

    async def _get(self, tenant_id: str, job_id: UUID) -> GraphBuildJob | None:
        async with self._sessions() as session:
            row = await session.get(GraphJobRow, job_id)
            return _value(row) if row is not None and row.tenant_id == tenant_id else None

    async def _insert(self, job: GraphBuildJob) -> GraphBuildJob:
        async with self._sessions() as session:
            row = GraphJobRow(
                id=job.id,
                tenant_id=job.tenant_id,
                type=job.type.code,
                status=job.status.code,
                payload=_payload(job),
                created_at=job.created_at,
                correlation_id=job.correlation_id,
            )
            session.add(row)
            await session.commit()
            return job

    async def _try_replace(self, job: GraphBuildJob, expected: GraphJobStatus) -> bool:
        async with self._sessions() as session:
            row = await session.get(GraphJobRow, job.id)
            if row is None or row.tenant_id != job.tenant_id or row.status != expected.code:
                return False
            row.status = job.status.code
            row.payload = _payload(job)
            row.correlation_id = job.correlation_id
            row.updated_at = func.now()
            await session.commit()
            return True

    async def _newest(self, tenant_id: str, status: GraphJobStatus, limit: int) -> list[GraphBuildJob]:
        newest = (
            select(GraphJobRow)
            .where(
                GraphJobRow.tenant_id == tenant_id,
                GraphJobRow.type == GraphBuildJob.type.code,
                GraphJobRow.status == status.code,
            )
            .order_by(GraphJobRow.created_at.desc(), GraphJobRow.id.desc())
            .limit(limit)
        )
        async with self._sessions() as session:
            return [_value(row) for row in await session.scalars(newest)]


def _value(row: GraphJobRow) -> GraphBuildJob:
    # The payload of an entity is a dict, and strict values parse JSON text; to_json is the fastest way, about 2 µs.
    return GraphBuildJob.from_json(to_json(row.payload))


def _payload(job: GraphBuildJob) -> dict[str, object]:
    return job.model_dump(mode="json", exclude_none=True)


@asynccontextmanager
async def orm_session(url: str) -> AsyncIterator[OrmSession]:
    """Open an engine for sessions, like the asyncio documentation of SQLAlchemy."""

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(url)  # the driver parses the URL, with all options of libpq

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, pool_size=POOL_SIZE)
    try:
        yield OrmSession(async_sessionmaker(engine, expire_on_commit=False))
    finally:
        await engine.dispose()
