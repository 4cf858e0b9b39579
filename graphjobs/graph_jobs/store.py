"""The store of graph jobs: a job and its event are written in one statement, and every result says what happened."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Protocol, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import override

from graphjobs.core.fields import check_name, parse_id
from graphjobs.core.notifications import notify_queued
from graphjobs.core.pagination import COUNT_MAX, PAGE_MAX, SAMPLE_MAX, BoundedCount, PartialList, read_page
from graphjobs.core.queue_flow import versions_by_id
from graphjobs.core.recovery import confirm_replicated
from graphjobs.core.transitions import RefusedUpdate, Transition, UpdateOutcome, UpdateResult, ensure_transition_id
from graphjobs.core.update_flow import UpdateFlow
from graphjobs.core.validation import WINDOW_MAX, check_duration, check_query, parse_member
from graphjobs.database.executor import Executor, SessionExecutor
from graphjobs.errors import IllegalTransition, InvalidJob, JobAlreadyExists
from graphjobs.graph_jobs.filters import GraphJobCollection, GraphJobQuery, OverlayLag
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphJobEvent, GraphOverlayJob, Job
from graphjobs.graph_jobs.params import check_jobs, insert_many_params
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.graph_jobs.row_mapping import (
    any_job_from_row,
    check_job,
    job_from_row,
    job_params,
    page_key,
    swap_params,
)
from graphjobs.graph_jobs.sql import lists, single
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

Status = GraphJobStatus


class GraphJobStore(Protocol):
    """Adds, updates, lists and counts graph jobs, and reads their logs. Every write has its event in one statement.

    A job is found by its own tenant only. Every method raises `InvalidJob` for an invalid argument, before any SQL, and
    `DatabaseUnavailable` or `SchemaOutOfDate` as the executor does. `job_id` is a UUID or its text; text that is not a
    UUID is not found. A host may replace the store. Source: the plan's GraphJobStore.
    """

    @property
    def is_autocommit(self) -> bool:
        """True where each call is a transaction of its own; False inside a session."""
        ...

    async def add(self, job: Job, *, transition_id: UUID | None = None, actor: str | None = None) -> Job:
        """Insert a new job of any status, with its first event.

        Repeated with the same transition id, also while the first call is running, it inserts nothing and returns the
        job as it is now.

        Args:
            job: the job; `created_at` is the value's, the database sets `updated_at`.
            transition_id: identifies this insertion; None means a new id.
            actor: who adds the job, for the event.

        Returns:
            The job with its version, `updated_at`.

        Raises:
            JobAlreadyExists: the id is taken. Inside a session the transaction stays usable.
            OutcomeUnknown: the connection was lost, and it is unknown whether the job was added.
        """
        ...

    async def add_many(self, jobs: Iterable[AnyJob], *, actor: str | None = None) -> tuple[AnyJob, ...]:
        """Insert up to 1,000 new jobs of one tenant, each with its first event, in one statement.

        Returns:
            The added jobs in their order, with their versions. A job with a taken id is left out, so that the same
            call can be repeated after an `OutcomeUnknown`.

        Raises:
            OutcomeUnknown: the connection was lost before the answer.
        """
        ...

    async def get_job(self, tenant_id: str, job_id: UUID | str) -> AnyJob | None:
        """Return a job of either type; None where the tenant has no job with this id.

        Raises:
            CorruptRow: the row is unreadable.
        """
        ...

    async def get_build_job(self, tenant_id: str, job_id: UUID | str) -> GraphBuildJob | None:
        """Return a build job; None where the tenant has no build job with this id. Raises as `get_job`."""
        ...

    async def get_overlay_job(self, tenant_id: str, job_id: UUID | str) -> GraphOverlayJob | None:
        """Return an overlay job; None where the tenant has no overlay job with this id. Raises as `get_job`."""
        ...

    async def get_jobs(self, tenant_id: str, query: GraphJobQuery | None = None) -> GraphJobCollection:
        """Return one page of a tenant's jobs, newest first. Pages stay disjoint while jobs are added.

        With a filter by status, a job that changes its status between two pages can be on both, or on neither. Rows
        with times that Python does not represent are on no page. Rows with unknown status codes sort by code, lowest
        first; at most one page of them is reported.
        """
        ...

    async def get_active_overlay_jobs(self, tenant_id: str) -> GraphJobCollection:
        """Return a tenant's queued and running overlay jobs, the newest 1,000.

        Where there are more, `next_cursor` continues `GraphJobQuery(type=OVERLAY, statuses=(QUEUED, RUNNING))`.
        """
        ...

    async def count(self, tenant_id: str, query: GraphJobQuery | None = None) -> BoundedCount:
        """Count the jobs of a query, without its cursor and limit: exact up to 10,000, else "more than"."""
        ...

    async def events(
        self, tenant_id: str, job_id: UUID | str, *, after: int = 0, limit: int = PAGE_MAX
    ) -> PartialList[GraphJobEvent]:
        """List up to `limit` (1 to 1,000) events of a job after id `after`, oldest first; none of an unknown job."""
        ...

    async def update(
        self,
        job: Job,
        *,
        expected: GraphJobStatus,
        expected_version: datetime | None = None,
        transition_id: UUID | None = None,
        actor: str | None = None,
    ) -> UpdateResult[Job]:
        """Apply a transition of a job, with its event: both or neither.

        A transition to another status is applied if the row still has the status `expected` and the attempts that `job`
        follows from. One that keeps the status also compares the version, as does any with `expected_version`.

        The same transition repeated with the same transition id is applied once and returns the same result, also while
        the first call waits for a lock. After a lost connection the id is looked up for up to 15 seconds; nothing is
        repeated blindly. A cancelled call may have been applied: repeat it with the same id.

        Args:
            job: the job after the transition, made by one of its methods.
            expected: the status before it.
            expected_version: the version before it. None means `job.updated_at` for a transition that keeps the status,
                and any version for one that changes it.
            transition_id: identifies this transition; None means a new id.
            actor: who changes the job, for the event.

        Raises:
            InvalidJob: an invalid argument; or the update lost, and its transition id belongs to another transition.
            CorruptRow: the update lost, and the row is unreadable.
            OutcomeUnknown: the connection was lost, and it is unknown whether the transition was applied.
        """
        ...

    async def overlay_lag(self, tenant_id: str, *, window: timedelta) -> OverlayLag:
        """Return how far a tenant's overlay jobs lag behind.

        Args:
            tenant_id: the tenant.
            window: the percentiles cover jobs created at most this long ago; up to 366 days.
        """
        ...

    def using(self, session: AsyncSession) -> Self:
        """Return the store inside the caller's transaction, which commits or rolls back with the rest."""
        ...


class PostgresGraphJobStore(GraphJobStore):
    """`GraphJobStore` on PostgreSQL.

    Args:
        executor: runs the statements: `storage.database`, or a session's.
        notify: whether to notify listening workers of queued jobs, in one more statement.
    """

    def __init__(self, executor: Executor, *, notify: bool = False) -> None:
        self._executor = executor
        self._notify = notify
        self._repository = GraphJobRepository(executor)
        self._flow = UpdateFlow(executor, single.FIND_TRANSITION)

    @property
    @override
    def is_autocommit(self) -> bool:
        return not isinstance(self._executor, SessionExecutor)

    @override
    def using(self, session: AsyncSession) -> Self:
        return type(self)(self._executor.using(session), notify=self._notify)

    @override
    async def add(self, job: Job, *, transition_id: UUID | None = None, actor: str | None = None) -> Job:
        transition = Transition.for_insert(check_job(job), ensure_transition_id(transition_id), actor)
        applied = await self._flow.apply(single.INSERT_JOB_WITH_EVENT, job_params(job), job, transition)
        if applied is None:
            raise JobAlreadyExists(job.id)
        if applied.row is not None:
            await self._notify_queued(job.status)
        elif applied.is_repeat:
            current = await self._get(job)
            if current is None:
                raise JobAlreadyExists(job.id)
            return current
        return job.stored(updated_at=applied.recorded.version)

    @override
    async def add_many(self, jobs: Iterable[AnyJob], *, actor: str | None = None) -> tuple[AnyJob, ...]:
        added = check_jobs(jobs)
        if not added:
            return ()
        if len({job.tenant_id for job in added}) > 1:
            raise InvalidJob("jobs must be of one tenant", field="jobs")
        params = {
            "p_tenant_id": added[0].tenant_id,
            "p_job_ids": [job.id for job in added],
            "p_new_statuses": [job.status.code for job in added],
            **insert_many_params(added, actor),
        }
        versions = versions_by_id(await self._executor.fetch_all(single.INSERT_JOBS_WITH_EVENTS, params))
        await self._notify_queued(*(job.status for job in added))
        if len(versions) < len(added):  # perhaps by an earlier call of the same jobs
            await confirm_replicated(self._executor)
        return tuple(job.stored(updated_at=versions[job.id]) for job in added if job.id in versions)

    @override
    async def get_job(self, tenant_id: str, job_id: UUID | str) -> AnyJob | None:
        tenant, job = check_name(tenant_id, "tenant_id"), parse_id(job_id, "job_id")
        if job is None:
            return None
        rows = await self._executor.fetch_all(single.GET_ANY_JOB, {"p_tenant_id": tenant, "p_job_id": job})
        return any_job_from_row(rows[0]) if rows else None

    @override
    async def get_build_job(self, tenant_id: str, job_id: UUID | str) -> GraphBuildJob | None:
        return await self._repository.get_build_job(tenant_id, job_id)

    @override
    async def get_overlay_job(self, tenant_id: str, job_id: UUID | str) -> GraphOverlayJob | None:
        return await self._repository.get_overlay_job(tenant_id, job_id)

    @override
    async def get_jobs(self, tenant_id: str, query: GraphJobQuery | None = None) -> GraphJobCollection:
        tenant, query = check_name(tenant_id, "tenant_id"), check_query(query, GraphJobQuery)
        # One row more than the page holds shows that the list goes on.
        params = lists.list_params(tenant, query, limit=query.limit + 1)
        rows = await self._executor.fetch_all(lists.statements_for(query).page, params)
        page = await read_page(any_job_from_row, rows, query, tenant, page_key)
        return GraphJobCollection(page.items, page.next_cursor, page.unreadable)

    @override
    async def get_active_overlay_jobs(self, tenant_id: str) -> GraphJobCollection:
        active = (Status.QUEUED, Status.RUNNING)
        return await self.get_jobs(tenant_id, GraphJobQuery(type=GraphJobType.OVERLAY, statuses=active, limit=PAGE_MAX))

    @override
    async def count(self, tenant_id: str, query: GraphJobQuery | None = None) -> BoundedCount:
        tenant, query = check_name(tenant_id, "tenant_id"), check_query(query, GraphJobQuery)
        params = lists.list_params(tenant, query.replace(cursor=None), limit=COUNT_MAX + 1)
        ((count,),) = await self._executor.fetch_all(lists.statements_for(query).bounded_count, params)
        return BoundedCount.from_count(count, COUNT_MAX)

    @override
    async def events(
        self, tenant_id: str, job_id: UUID | str, *, after: int = 0, limit: int = PAGE_MAX
    ) -> PartialList[GraphJobEvent]:
        return await self._repository.list_events(tenant_id, job_id, after=after, limit=limit)

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
        source, own_id = parse_member(GraphJobStatus, expected, "expected"), ensure_transition_id(transition_id)
        try:
            swap = swap_params(check_job(job), source, expected_version)
        except IllegalTransition as error:
            return RefusedUpdate(UpdateOutcome.ILLEGAL, own_id, reason=str(error))
        transition = Transition.for_update(job, source, str(swap["p_payload"]), own_id, actor)
        statement = single.TRANSITION_JOB_AT_VERSION if "p_expected_version" in swap else single.TRANSITION_JOB
        applied = await self._flow.apply(statement, swap, job, transition)
        if applied is None:
            return await self._conflict_result(job, source, own_id)
        if applied.row is not None and job.status is not source:
            await self._notify_queued(job.status)
        return transition.to_result(job, applied.recorded)

    @override
    async def overlay_lag(self, tenant_id: str, *, window: timedelta) -> OverlayLag:
        tenant, window = check_name(tenant_id, "tenant_id"), check_duration(window, "window", WINDOW_MAX)
        params = {"p_tenant_id": tenant, "p_window": window, "p_limit": COUNT_MAX + 1, "p_completed_limit": SAMPLE_MAX}
        ((*counts, oldest, p50, p95, completed),) = await self._executor.fetch_all(lists.OVERLAY_LAG, params)
        by_status = dict(zip(Status, (BoundedCount.from_count(count, COUNT_MAX) for count in counts), strict=True))
        return OverlayLag(by_status, None if oldest is None else max(oldest, 0.0), p50, p95, completed, window)

    async def _notify_queued(self, *statuses: GraphJobStatus) -> None:
        await notify_queued(self._executor, enabled=self._notify and Status.QUEUED in statuses)

    async def _get(self, job: Job) -> Job | None:
        params = {"p_tenant_id": job.tenant_id, "p_job_id": job.id, "p_type": job.type.code}
        rows = await self._executor.fetch_all(single.GET_JOB, params)
        return job_from_row(type(job), rows[0]) if rows else None

    async def _conflict_result(self, job: Job, expected: GraphJobStatus, transition_id: UUID) -> UpdateResult[Job]:
        # A later read: reading in the losing statement would return the state before the winner.
        current = await self._get(job)
        if current is None:
            reason = f"tenant {job.tenant_id!r} has no {job.type} job {job.id}"
            return RefusedUpdate(UpdateOutcome.NOT_FOUND, transition_id, reason=reason)
        reason = (
            f"the job was no longer {expected}, or not at the attempts or the version that the update follows from; a "
            f"later read found it {current.status} at attempts {current.attempts}"
        )
        return RefusedUpdate(UpdateOutcome.CONFLICT, transition_id, current, reason=reason)
