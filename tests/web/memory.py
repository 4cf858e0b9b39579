"""An implementation of `GraphJobStore` in memory, in place of the store that a rollback returns to."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import override

from graphjobs import (
    GraphBuildJob,
    GraphJobEvent,
    GraphJobStatus,
    GraphOverlayJob,
    JobAlreadyExists,
    UpdateResult,
)
from graphjobs.core.fields import parse_id
from graphjobs.core.pagination import BoundedCount, PartialList
from graphjobs.core.transitions import AppliedUpdate
from graphjobs.graph_jobs.filters import GraphJobCollection, GraphJobQuery, OverlayLag
from graphjobs.graph_jobs.models import AnyJob, Job
from graphjobs.graph_jobs.store import GraphJobStore


class MemoryGraphJobStore(GraphJobStore):
    """The methods that the routes need."""

    is_autocommit = True

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, UUID], AnyJob] = {}
        self.log: list[GraphJobEvent] = []
        self.transition_ids: dict[UUID, UUID | None] = {}

    @override
    def using(self, session: AsyncSession) -> Self:
        raise NotImplementedError("this store has no sessions")

    @override
    async def add(self, job: Job, *, transition_id: UUID | None = None, actor: str | None = None) -> Job:
        stored = self.jobs.get((job.tenant_id, job.id))
        is_repeated = transition_id is not None and self.transition_ids.get(job.id) == transition_id
        if isinstance(stored, type(job)) and is_repeated:
            return stored
        if stored is not None:
            raise JobAlreadyExists(job.id)
        self.transition_ids[job.id] = transition_id
        return self._store(job, actor)

    @override
    async def add_many(self, jobs: Iterable[AnyJob], *, actor: str | None = None) -> tuple[AnyJob, ...]:
        return tuple([await self.add(job, actor=actor) for job in jobs])

    @override
    async def get_job(self, tenant_id: str, job_id: UUID | str) -> AnyJob | None:
        parsed = parse_id(job_id, "job_id")
        return self.jobs.get((tenant_id, parsed)) if parsed else None

    @override
    async def get_build_job(self, tenant_id: str, job_id: UUID | str) -> GraphBuildJob | None:
        job = await self.get_job(tenant_id, job_id)
        return job if isinstance(job, GraphBuildJob) else None

    @override
    async def get_overlay_job(self, tenant_id: str, job_id: UUID | str) -> GraphOverlayJob | None:
        job = await self.get_job(tenant_id, job_id)
        return job if isinstance(job, GraphOverlayJob) else None

    @override
    async def get_jobs(self, tenant_id: str, query: GraphJobQuery | None = None) -> GraphJobCollection:
        jobs = [job for (tenant, _), job in self.jobs.items() if tenant == tenant_id]
        newest = sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)
        return GraphJobCollection(tuple(newest[: (query or GraphJobQuery()).limit]))

    @override
    async def get_active_overlay_jobs(self, tenant_id: str) -> GraphJobCollection:
        return GraphJobCollection(())

    @override
    async def count(self, tenant_id: str, query: GraphJobQuery | None = None) -> BoundedCount:
        return BoundedCount(len([tenant for tenant, _ in self.jobs if tenant == tenant_id]))

    @override
    async def events(
        self, tenant_id: str, job_id: UUID | str, *, after: int = 0, limit: int = 1_000
    ) -> PartialList[GraphJobEvent]:
        key = (tenant_id, parse_id(job_id, "job_id"))
        events = [event for event in self.log if (event.tenant_id, event.job_id) == key]
        return PartialList(event for event in events[:limit] if (event.id or 0) > after)

    @override
    async def update(
        self,
        job: Job,
        *,
        expected: GraphJobStatus,
        expected_version: datetime | None = None,
        transition_id: UUID | None = None,
        actor: str | None = None,
    ) -> UpdateResult[Job]:
        stored = self._store(job, actor)
        return AppliedUpdate(transition_id or uuid4(), stored, len(self.log))

    @override
    async def overlay_lag(self, tenant_id: str, *, window: timedelta) -> OverlayLag:
        return OverlayLag({status: BoundedCount(0) for status in GraphJobStatus}, None, None, None, 0, window)

    def _store(self, job: Job, actor: str | None) -> Job:
        stored = job.stored(updated_at=datetime.now(UTC))
        self.jobs[job.tenant_id, job.id] = stored  # type: ignore[assignment]  # build or overlay job
        payload = {"to": job.status.value, "actor": actor}
        self.log.append(
            GraphJobEvent(
                id=len(self.log) + 1, job_id=job.id, tenant_id=job.tenant_id, status=job.status, payload=payload
            )
        )
        return stored
