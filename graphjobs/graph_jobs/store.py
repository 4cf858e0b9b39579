"""The store of graph jobs: a job and its log move as one statement, and every answer says what happened."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Protocol, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import override

from graphjobs.core.fields import check_name, parse_id
from graphjobs.core.notifications import notify_queued
from graphjobs.core.pagination import COUNT_MAX, PAGE_MAX, BoundedCount, PageKey, PartialList, paginate
from graphjobs.core.transitions import RecordedTransition, Transition, UpdateOutcome, UpdateResult, ensure_transition_id
from graphjobs.database.executor import Executor, SessionExecutor, resolve_outcome
from graphjobs.errors import IllegalTransition, InvalidJob, JobAlreadyExists, OutcomeUnknown
from graphjobs.graph_jobs.filters import GraphJobCollection, GraphJobQuery, OverlayLag
from graphjobs.graph_jobs.models import GraphBuildJob, GraphJob, GraphJobEvent, GraphOverlayJob
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.graph_jobs.row_mapping import (
    AnyJob,
    Job,
    any_job_from_row,
    check_job,
    job_from_row,
    job_params,
    parse_status,
    swap_params,
)
from graphjobs.graph_jobs.sql import lists, single
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

ADD_MANY_MAX: Final = 1_000
"""The most jobs `add_many` takes at once."""

GraphJobUpdateResult = UpdateResult
"""What came of an update of a graph job."""

_WINDOW_MAX: Final = timedelta(days=366)


class GraphJobStore(Protocol):
    """Adds, moves, pages, counts and logs graph jobs. Whatever changes a job writes its event in the same statement.

    A job is found only by its own tenant. Every method raises `InvalidJob` for an argument that cannot be, before any
    SQL, and `DatabaseUnavailable` or `SchemaOutOfDate` as the executor does. `job_id` is a UUID or its text; text that
    is no UUID is not found. Source: the plan's GraphJobStore.

    Attributes:
        commits_alone: True where each call is its own transaction; False inside a session's.
    """

    @property
    def is_autocommit(self) -> bool:
        """True where each call is its own transaction; False inside a session's."""
        ...

    async def add(self, job: Job, *, transition_id: UUID | None = None, actor: str | None = None) -> Job:
        """Stores a new job of any status, and its first event.

        Asked again with the same transition id, also while the first is under way, it adds nothing and gives the job as
        it now is.

        Args:
            job: the job; `created_at` is its own, `updated_at` the database's to give.
            transition_id: names this very addition; one is made if none is given.
            actor: who asked, for the event.

        Returns:
            The job with its version, `updated_at`.

        Raises:
            JobAlreadyExists: the id is taken. Inside a session the transaction stays usable.
            OutcomeUnknown: the connection was lost, and it could not be found out whether the job was added.
        """
        ...

    async def add_many(self, jobs: Iterable[AnyJob], *, actor: str | None = None) -> tuple[AnyJob, ...]:
        """Stores up to 1,000 new jobs of one tenant, each with its first event, as one statement: all in one commit.

        Returns:
            Those that were added, in their order, with their versions. A job whose id is taken is left out, so after an
            `OutcomeUnknown` the same call can be made again.

        Raises:
            OutcomeUnknown: the connection was lost before the answer.
        """
        ...

    async def get_job(self, tenant_id: str, job_id: UUID | str) -> AnyJob | None:
        """Reads a job of either kind; None where the tenant has none of this id.

        Raises:
            CorruptRow: it is there and cannot be read.
        """
        ...

    async def get_build_job(self, tenant_id: str, job_id: UUID | str) -> GraphBuildJob | None:
        """Reads a build job; None where the tenant has none of this id. Raises as `get_job` does."""
        ...

    async def get_overlay_job(self, tenant_id: str, job_id: UUID | str) -> GraphOverlayJob | None:
        """Reads an overlay job; None where the tenant has none of this id. Raises as `get_job` does."""
        ...

    async def get_jobs(self, tenant_id: str, query: GraphJobQuery | None = None) -> GraphJobCollection:
        """Reads one page of a tenant's jobs, newest first. Pages stay disjoint while jobs are added.

        A job whose status changes while one walks can be met again, or missed, by a query for statuses only: it was in
        both, or in neither, at the time. A row whose `created_at` no Python can hold is on no page; of rows whose
        status is none, those of the lowest number come first, and more of them than a page holds are not all named.
        """
        ...

    async def get_active_overlay_jobs(self, tenant_id: str) -> GraphJobCollection:
        """Reads a tenant's overlay jobs that are queued or running, the newest 1,000.

        Where there are more, `next_cursor` continues `GraphJobQuery(type=OVERLAY, statuses=(QUEUED, RUNNING))`.
        """
        ...

    async def count(self, tenant_id: str, query: GraphJobQuery | None = None) -> BoundedCount:
        """Counts the jobs of a query, whatever its cursor and limit: exact up to 10,000, else "more than"."""
        ...

    async def events(
        self, tenant_id: str, job_id: UUID | str, *, after: int = 0, limit: int = PAGE_MAX
    ) -> PartialList[GraphJobEvent]:
        """Lists a job's log in its order, oldest first; empty where the tenant has no such job.

        Args:
            tenant_id: whose job.
            job_id: which job.
            after: the id of the event to go on from.
            limit: the most events to read, 1 to 1,000.
        """
        ...

    async def update(
        self,
        job: Job,
        *,
        expected: GraphJobStatus,
        expected_version: datetime | None = None,
        transition_id: UUID | None = None,
        actor: str | None = None,
    ) -> GraphJobUpdateResult[Job]:
        """Moves a job, and logs the move: both or neither.

        A move that changes the status is applied if the row still has the status `expected` and the attempts `job`
        follows from. One that keeps it also compares the version, and so does any move that is given `seen`.

        The same move asked again with the same transition id is applied once and answers the same, also when the first
        still waits for a lock. A move that is lost and whose id names another one of this job is refused. On a lost
        connection the id is looked up, for up to 15 seconds; nothing is repeated blindly. A cancelled call may have
        been applied: ask again with the same id.

        Args:
            job: the job as it shall be, made by one of its moves.
            expected: the status it moves from.
            expected_version: the version the move was made from. None means `job.updated_at` for a move that keeps the
                status, and
                any version for one that changes it.
            transition_id: names this very move; one is made if none is given.
            actor: who moves it, for the event.

        Raises:
            InvalidJob: an argument that cannot be; or the move is lost, and its id names another move of this job.
            CorruptRow: the move is lost, and the job is there and cannot be read.
            OutcomeUnknown: the connection was lost, and it could not be found out whether the move was applied.
        """
        ...

    async def overlay_lag(self, tenant_id: str, *, window: timedelta) -> OverlayLag:
        """Tells how far behind a tenant's overlays are.

        Args:
            tenant_id: whose overlays.
            window: the percentiles are of jobs created at most this long ago; up to 366 days.
        """
        ...

    def using(self, session: AsyncSession) -> Self:
        """Gives the store inside the caller's transaction, which commits or vanishes with the rest."""
        ...


class PostgresGraphJobStore(GraphJobStore):
    """`GraphJobStore` on PostgreSQL, by whatever executor it is given: `storage.database`, or a session's.

    Args:
        executor: runs the statements.
        notify: whether listening workers are told of what is queued, in a statement more.
    """

    def __init__(self, executor: Executor, *, notify: bool = False) -> None:
        self._executor = executor
        self._notify = notify
        self._repository = GraphJobRepository(executor)

    @property
    @override
    def is_autocommit(self) -> bool:
        return not isinstance(self._executor, SessionExecutor)

    @override
    def using(self, session: AsyncSession) -> Self:
        return type(self)(self._executor.using(session), notify=self._notify)

    @override
    async def add(self, job: Job, *, transition_id: UUID | None = None, actor: str | None = None) -> Job:
        move = Transition.for_insert(check_job(job), ensure_transition_id(transition_id), actor)
        try:
            rows = await self._executor.fetch_all(
                single.INSERT_JOB_WITH_EVENT, {**job_params(job), "p_event_payload": move.event_payload}
            )
        except OutcomeUnknown as lost:
            logged = await resolve_outcome(lost, self._executor, lambda: self._find_applied(job, move))
            return job.stored(updated_at=logged.version)
        if rows:
            await self._notify_queued(job.status)
            return job.stored(updated_at=rows[0][0])
        if await self._find_transition(job, move) is not None:
            now = await self._get(type(job), job)
            if now is not None:
                return now
        raise JobAlreadyExists(job.id)

    @override
    async def add_many(self, jobs: Iterable[AnyJob], *, actor: str | None = None) -> tuple[AnyJob, ...]:
        given = _check_jobs(jobs)
        if not given:
            return ()
        entries = [Transition.for_insert(job, ensure_transition_id(None), actor).event_payload for job in given]
        columns = [job_params(job) for job in given]
        rows = await self._executor.fetch_all(
            single.INSERT_JOBS_WITH_EVENTS,
            {
                "p_tenant_id": given[0].tenant_id,
                "p_job_ids": [job.id for job in given],
                "p_types": [of_job["p_type"] for of_job in columns],
                "p_new_statuses": [of_job["p_status"] for of_job in columns],
                "p_payloads": [of_job["p_payload"] for of_job in columns],
                "p_created_ats": [job.created_at for job in given],
                "p_correlation_ids": [job.correlation_id for job in given],
                "p_event_payloads": entries,
            },
        )
        versions = {UUID(int=row[0].int): row[1] for row in rows}
        await self._notify_queued(*(job.status for job in given))
        return tuple(job.stored(updated_at=versions[job.id]) for job in given if job.id in versions)

    @override
    async def get_job(self, tenant_id: str, job_id: UUID | str) -> AnyJob | None:
        tenant, job = check_name(tenant_id, "tenant_id"), parse_id(job_id, "job_id")
        rows = (
            await self._executor.fetch_all(single.GET_ANY_JOB, {"p_tenant_id": tenant, "p_job_id": job}) if job else ()
        )
        return any_job_from_row(rows[0]) if rows else None

    @override
    async def get_build_job(self, tenant_id: str, job_id: UUID | str) -> GraphBuildJob | None:
        return await self._repository.get_build_job(tenant_id, job_id)

    @override
    async def get_overlay_job(self, tenant_id: str, job_id: UUID | str) -> GraphOverlayJob | None:
        return await self._repository.get_overlay_job(tenant_id, job_id)

    @override
    async def get_jobs(self, tenant_id: str, query: GraphJobQuery | None = None) -> GraphJobCollection:
        tenant, asked = check_name(tenant_id, "tenant_id"), _check_query(query)
        # One more than asked for tells whether there are more.
        binds = lists.list_params(tenant, asked, limit=asked.limit + 1)
        rows = await self._executor.fetch_all(lists.statements_for(asked).page, binds)
        page, last = paginate(any_job_from_row, rows, asked.limit, lambda row: PageKey(row[4], UUID(int=row[0].int)))
        return GraphJobCollection(tuple(page), asked.cursor_after(tenant, last) if last else None, page.unreadable)

    @override
    async def get_active_overlay_jobs(self, tenant_id: str) -> GraphJobCollection:
        active = (GraphJobStatus.QUEUED, GraphJobStatus.RUNNING)
        return await self.get_jobs(tenant_id, GraphJobQuery(type=GraphJobType.OVERLAY, statuses=active, limit=PAGE_MAX))

    @override
    async def count(self, tenant_id: str, query: GraphJobQuery | None = None) -> BoundedCount:
        tenant, asked = check_name(tenant_id, "tenant_id"), _check_query(query)
        binds = lists.list_params(tenant, asked.replace(cursor=None), limit=COUNT_MAX + 1)
        rows = await self._executor.fetch_all(lists.statements_for(asked).bounded_count, binds)
        return BoundedCount.from_count(rows[0][0], COUNT_MAX)

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
    ) -> GraphJobUpdateResult[Job]:
        source, named = parse_status(expected, "expected"), ensure_transition_id(transition_id)
        try:
            swap = swap_params(check_job(job), source, expected_version)
        except IllegalTransition as error:
            return GraphJobUpdateResult(UpdateOutcome.ILLEGAL, named, reason=str(error))
        move = Transition.for_update(job, source, str(swap["p_payload"]), named, actor)
        statement = single.TRANSITION_JOB_AT_VERSION if "p_expected_version" in swap else single.TRANSITION_JOB
        try:
            rows = await self._executor.fetch_all(statement, {**swap, "p_event_payload": move.event_payload})
        except OutcomeUnknown as lost:
            return move.to_result(
                job, await resolve_outcome(lost, self._executor, lambda: self._find_applied(job, move))
            )
        if rows:
            if job.status is not source:
                await self._notify_queued(job.status)
            return move.to_result(job, RecordedTransition(*rows[0]))
        logged = await self._find_transition(job, move)
        return move.to_result(job, logged) if logged else await self._conflict_result(job, source, move)

    @override
    async def overlay_lag(self, tenant_id: str, *, window: timedelta) -> OverlayLag:
        tenant = check_name(tenant_id, "tenant_id")
        if not isinstance(window, timedelta) or not timedelta(0) < window <= _WINDOW_MAX:
            raise InvalidJob("window: it should be a timedelta of more than zero, up to 366 days", field="window")
        params = {"p_tenant_id": tenant, "p_window": window, "p_limit": COUNT_MAX + 1}
        (row,) = await self._executor.fetch_all(lists.OVERLAY_LAG, params)
        *counts, oldest, p50, p95, completed = row
        return OverlayLag(
            counts={
                status: BoundedCount.from_count(found, COUNT_MAX)
                for status, found in zip(GraphJobStatus, counts, strict=True)
            },
            oldest_queued=None if oldest is None else max(oldest, 0.0),
            p50=p50,
            p95=p95,
            completed=completed,
            window=window,
        )

    async def _notify_queued(self, *statuses: GraphJobStatus) -> None:
        await notify_queued(self._executor, enabled=self._notify and GraphJobStatus.QUEUED in statuses)

    async def _get(self, kind: type[Job], job: Job) -> Job | None:
        """Reads a job as it now is."""
        rows = await self._executor.fetch_all(
            single.GET_JOB, {"p_tenant_id": job.tenant_id, "p_job_id": job.id, "p_type": kind.type.code}
        )
        return job_from_row(kind, rows[0]) if rows else None

    async def _conflict_result(
        self, job: Job, expected: GraphJobStatus, move: "Transition"
    ) -> GraphJobUpdateResult[Job]:
        """A later look tells a job that is elsewhere from one that is not there."""
        now = await self._get(type(job), job)
        if now is None:
            reason = f"tenant {job.tenant_id!r} has no {job.type} job {job.id}"
            return GraphJobUpdateResult(UpdateOutcome.NOT_FOUND, move.transition_id, reason=reason)
        reason = (
            f"the job was not {expected} any more, or not at the attempts or the version the move was made from; a "
            f"later look found it {now.status} at attempts {now.attempts}"
        )
        return GraphJobUpdateResult(UpdateOutcome.CONFLICT, move.transition_id, now, reason=reason)

    async def _find_applied(self, job: GraphJob, move: "Transition") -> "RecordedTransition | None":
        """Looks for a move whose answer was lost; another one under its id does not say that it will not land yet."""
        try:
            return await self._find_transition(job, move)
        except InvalidJob:
            return None

    async def _find_transition(self, job: GraphJob, move: "Transition") -> "RecordedTransition | None":
        """Looks a move up in the log, by its id; see `Move.among`."""
        rows = await self._executor.fetch_all(
            single.FIND_TRANSITION,
            {"p_tenant_id": job.tenant_id, "p_job_id": job.id, "p_transition_id": str(move.transition_id)},
        )
        return move.match_recorded((told, RecordedTransition(version, event_id)) for event_id, told, version in rows)


def _check_jobs(jobs: Iterable[AnyJob]) -> list[AnyJob]:
    """Lets what `add_many` takes pass: jobs of one tenant, few enough for one statement, each id once."""
    if not isinstance(jobs, Iterable):
        raise InvalidJob("jobs: it should be jobs, as a list", field="jobs")
    given = [check_job(job) for job, _ in zip(jobs, range(ADD_MANY_MAX + 1), strict=False)]
    if len(given) > ADD_MANY_MAX:
        raise InvalidJob(f"jobs: add_many takes at most {ADD_MANY_MAX} at once", field="jobs")
    if len({job.tenant_id for job in given}) > 1:
        raise InvalidJob("jobs: add_many takes jobs of one tenant at once", field="jobs")
    if len({job.id for job in given}) < len(given):
        raise InvalidJob("jobs: each should have an id of its own", field="jobs")
    return given


def _check_query(query: object) -> GraphJobQuery:
    if query is None:
        return GraphJobQuery()
    if isinstance(query, GraphJobQuery):
        return query
    raise InvalidJob(f"query: it should be a GraphJobQuery, not {type(query).__name__}", field="query")
