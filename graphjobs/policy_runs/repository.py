"""The repository of policy runs: a run and its log move as one statement, and every answer says what happened."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Protocol, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import override

from graphjobs.core.fields import check_limit, check_name, parse_id
from graphjobs.core.notifications import notify_queued
from graphjobs.core.pagination import (
    COUNT_MAX,
    PAGE_DEFAULT,
    PAGE_MAX,
    BoundedCount,
    PageKey,
    PartialList,
    check_event_id,
    paginate,
    read_rows,
)
from graphjobs.core.results import check_actor
from graphjobs.core.transitions import RecordedTransition, Transition, UpdateOutcome, UpdateResult, ensure_transition_id
from graphjobs.database.executor import Executor, resolve_outcome
from graphjobs.errors import IllegalTransition, InvalidJob, JobAlreadyExists, OutcomeUnknown
from graphjobs.policy_runs.filters import (
    METRICS_WINDOW,
    PolicyRunCollection,
    PolicyRunMetrics,
    PolicyRunQuery,
    QueueDepth,
)
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunJob
from graphjobs.policy_runs.row_mapping import (
    check_run,
    event_from_row,
    infer_source_status,
    run_from_row,
    run_params,
    swap_params,
)
from graphjobs.policy_runs.sql import lists, single
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

Status = PolicyRunStatus

_WINDOW_MAX: Final = timedelta(days=366)


class PolicyRunRepository(Protocol):
    """Inserts, updates, reads, lists and counts policy runs.

    Whatever changes a run writes its event in the same statement, and each call is one round trip. A run is found only
    by its own tenant. Every method raises `InvalidJob` for an argument that cannot be, before any SQL, and
    `DatabaseUnavailable` or `SchemaOutOfDate` as the executor does. Source: the plan's PolicyRunService.
    """

    async def insert(self, job: PolicyRunJob, *, actor: str | None = None) -> PolicyRunJob:
        """Stores a new run of any status, and its first event; a second one of the same name gives back the first.

        `created_at` is the value's, `updated_at` the database's. A run that is available at once by the clock of who
        made it is so by the database's, too.

        Args:
            job: the run; its `run_id` is unique for the tenant.
            actor: who asked, for the event.

        Returns:
            The run as it is stored; where the tenant had one of this `run_id`, that one as it now is.

        Raises:
            JobAlreadyExists: its `id` is taken. Inside a session the transaction stays usable.
            CorruptRow: there is one of this `run_id`, and it cannot be read.
            OutcomeUnknown: the connection was lost, and it could not be found out whether the run was stored; the same
                call can be made again.
        """
        ...

    async def get(self, tenant_id: str, job_id: UUID | str) -> PolicyRunJob | None:
        """Reads a run by its id, a UUID or its text; None where the tenant has none of it.

        Raises:
            CorruptRow: it is there and cannot be read.
        """
        ...

    async def get_by_run_id(self, tenant_id: str, run_id: str) -> PolicyRunJob | None:
        """Reads a run by the asker's own name of it; None where the tenant has none of it. Raises as `get` does."""
        ...

    async def replace(
        self,
        job: PolicyRunJob,
        expected_lease_owner: str | None,
        *,
        transition_id: UUID | None = None,
        actor: str | None = None,
    ) -> UpdateResult[PolicyRunJob]:
        """Moves a run, and logs the move: both or neither.

        It is applied if the row still has the status the move starts from, this owner, and the attempts the run follows
        from. A move that keeps the status compares the version, too. What was asked for never changes: a value of
        another policy, mode, priority or payload is of no such run. A cancellation that was requested meanwhile is
        kept, and a run whose end was asked for is not made pending again.

        The same move asked again with the same transition id is applied once and answers the same. On a lost connection
        the id is looked up; nothing is repeated blindly.

        Args:
            job: the run as it shall be, made by one of its moves.
            expected_lease_owner: who leases it, for a move of a run that is dispatching; None for any other.
            transition_id: names this very move; one is made if none is given.
            actor: who moves it, for the event.

        Returns:
            What came of it; true where it was applied.

        Raises:
            InvalidJob: an argument that cannot be; or the move is lost, and its id names another move of this run.
            CorruptRow: the move is lost, and the run is there and cannot be read.
            OutcomeUnknown: the connection was lost, and it could not be found out whether the move was applied.
        """
        ...

    async def list(
        self,
        tenant_id: str,
        policy_id: str | None = None,
        mode: PolicyRunMode | str | None = None,
        statuses: Iterable[PolicyRunStatus | str] = (),
        queued_after: datetime | None = None,
        limit: int = PAGE_DEFAULT,
        cursor: str | None = None,
    ) -> PolicyRunCollection:
        """Reads one page of a tenant's runs, newest first: `queued_at DESC, id DESC`. Pages stay disjoint meanwhile.

        A run whose status changes while one walks can be met again, or missed, by a query for statuses only: it was in
        both, or in neither, at the time. See `PolicyRunQuery` for the filters.
        """
        ...

    async def count(
        self,
        tenant_id: str,
        policy_id: str | None = None,
        mode: PolicyRunMode | str | None = None,
        statuses: Iterable[PolicyRunStatus | str] = (),
        queued_after: datetime | None = None,
    ) -> BoundedCount:
        """Counts what `list` would page through: exact up to 10,000, else "more than"."""
        ...

    async def events(
        self, tenant_id: str, job_id: UUID | str, *, after: int = 0, limit: int = PAGE_MAX
    ) -> PartialList[PolicyRunEvent]:
        """Lists a run's log in its order, oldest first; empty where the tenant has no such run.

        Args:
            tenant_id: whose run.
            job_id: the run's `id`.
            after: the id of the event to go on from.
            limit: the most events to read, 1 to 1,000.
        """
        ...

    async def metrics(self, tenant_id: str, *, window: timedelta = METRICS_WINDOW) -> PolicyRunMetrics:
        """Tells how much of a tenant's is pending, for how long, and how long runs take.

        Args:
            tenant_id: whose runs.
            window: the percentiles are of runs asked for at most this long ago; up to 366 days.
        """
        ...

    def using(self, session: AsyncSession) -> Self:
        """Return the repository inside the caller's transaction, which commits or vanishes with the rest."""
        ...


class PostgresPolicyRunRepository(PolicyRunRepository):
    """`PolicyRunRepository` on PostgreSQL.

    Args:
        executor: runs the statements: `storage.database`, or a session's.
        notify: whether to notify listening dispatchers of pending runs, in one more statement.
    """

    def __init__(self, executor: Executor, *, notify: bool = False) -> None:
        self._executor = executor
        self._notify = notify

    @override
    def using(self, session: AsyncSession) -> Self:
        return type(self)(self._executor.using(session), notify=self._notify)

    @override
    async def insert(self, job: PolicyRunJob, *, actor: str | None = None) -> PolicyRunJob:
        move = Transition.for_insert(check_run(job), ensure_transition_id(None), check_actor(actor))
        try:
            rows = await self._executor.fetch_all(
                single.INSERT_RUN, {**run_params(job), "p_event_payload": move.event_payload}
            )
        except OutcomeUnknown as lost:
            return await resolve_outcome(lost, self._executor, lambda: self.get_by_run_id(job.tenant_id, job.run_id))
        if not rows:
            # Somebody else's, committed while we waited for it: only a later look sees it.
            first = await self.get_by_run_id(job.tenant_id, job.run_id)
            if first is None:
                raise JobAlreadyExists(job.id, what="policy run")
            return first
        *columns, is_new = rows[0]
        if not is_new:
            return run_from_row(columns)
        await notify_queued(self._executor, enabled=self._notify and job.status is Status.PENDING)
        stored = dict(zip(single.COLUMNS, columns, strict=True))
        return job.stored(updated_at=stored["updated_at"], available_at=stored["available_at"])

    @override
    async def get(self, tenant_id: str, job_id: UUID | str) -> PolicyRunJob | None:
        tenant, job = check_name(tenant_id, "tenant_id"), parse_id(job_id, "job_id")
        rows = await self._executor.fetch_all(single.GET_RUN, {"p_tenant_id": tenant, "p_job_id": job}) if job else ()
        return run_from_row(rows[0]) if rows else None

    @override
    async def get_by_run_id(self, tenant_id: str, run_id: str) -> PolicyRunJob | None:
        params = {"p_tenant_id": check_name(tenant_id, "tenant_id"), "p_run_id": check_name(run_id, "run_id")}
        rows = await self._executor.fetch_all(single.GET_RUN_BY_RUN_ID, params)
        return run_from_row(rows[0]) if rows else None

    @override
    async def replace(
        self,
        job: PolicyRunJob,
        expected_lease_owner: str | None,
        *,
        transition_id: UUID | None = None,
        actor: str | None = None,
    ) -> UpdateResult[PolicyRunJob]:
        named, who = ensure_transition_id(transition_id), check_actor(actor)
        owner = None if expected_lease_owner is None else check_name(expected_lease_owner, "expected_lease_owner")
        try:
            source = infer_source_status(check_run(job), owner)
        except IllegalTransition as error:
            return UpdateResult(UpdateOutcome.ILLEGAL, named, reason=str(error))
        swap = swap_params(job, source, owner)
        move = Transition.for_update(job, source, job.to_json(), named, who)
        statement = single.TRANSITION_RUN_AT_VERSION if "p_expected_version" in swap else single.TRANSITION_RUN
        try:
            rows = await self._executor.fetch_all(statement, {**swap, "p_event_payload": move.event_payload})
        except OutcomeUnknown as lost:
            return _recorded_result(
                job, move, await resolve_outcome(lost, self._executor, lambda: self._find_applied(job, move))
            )
        if rows:
            version, event_id, asked_at, reason = rows[0]
            await notify_queued(self._executor, enabled=self._notify and job.status is Status.PENDING)
            return move.to_result(job.with_cancellation(asked_at, reason), RecordedTransition(version, event_id))
        found = await self._find_transition(job, move)
        return _recorded_result(job, move, found) if found else await self._conflict_result(job, source, owner, named)

    @override
    async def list(
        self,
        tenant_id: str,
        policy_id: str | None = None,
        mode: PolicyRunMode | str | None = None,
        statuses: Iterable[PolicyRunStatus | str] = (),
        queued_after: datetime | None = None,
        limit: int = PAGE_DEFAULT,
        cursor: str | None = None,
    ) -> PolicyRunCollection:
        tenant = check_name(tenant_id, "tenant_id")
        asked = _query(policy_id, mode, statuses, queued_after, limit=limit, cursor=cursor)
        # One more than asked for tells whether there are more.
        binds = lists.list_params(tenant, asked, limit=asked.limit + 1)
        rows = await self._executor.fetch_all(lists.statements_for(asked).page, binds)
        page, last = paginate(run_from_row, rows, asked.limit, lambda row: PageKey(row[8], UUID(int=row[0].int)))
        return PolicyRunCollection(tuple(page), asked.cursor_after(tenant, last) if last else None, page.unreadable)

    @override
    async def count(
        self,
        tenant_id: str,
        policy_id: str | None = None,
        mode: PolicyRunMode | str | None = None,
        statuses: Iterable[PolicyRunStatus | str] = (),
        queued_after: datetime | None = None,
    ) -> BoundedCount:
        tenant, asked = check_name(tenant_id, "tenant_id"), _query(policy_id, mode, statuses, queued_after)
        rows = await self._executor.fetch_all(
            lists.statements_for(asked).bounded_count, lists.list_params(tenant, asked, limit=COUNT_MAX + 1)
        )
        return BoundedCount.from_count(rows[0][0], COUNT_MAX)

    @override
    async def events(
        self, tenant_id: str, job_id: UUID | str, *, after: int = 0, limit: int = PAGE_MAX
    ) -> PartialList[PolicyRunEvent]:
        params = {
            "p_tenant_id": check_name(tenant_id, "tenant_id"),
            "p_limit": check_limit(limit, limit_max=PAGE_MAX),
            "p_after_event_id": check_event_id(after),
        }
        job = parse_id(job_id, "job_id")
        if job is None:
            return PartialList()
        return read_rows(
            event_from_row, await self._executor.fetch_all(single.LIST_EVENTS, {**params, "p_job_id": job})
        )

    @override
    async def metrics(self, tenant_id: str, *, window: timedelta = METRICS_WINDOW) -> PolicyRunMetrics:
        tenant = check_name(tenant_id, "tenant_id")
        if not isinstance(window, timedelta) or not timedelta(0) < window <= _WINDOW_MAX:
            raise InvalidJob("window: it should be a timedelta of more than zero, up to 366 days", field="window")
        most = {"p_limit": COUNT_MAX + 1, "p_completed_limit": COUNT_MAX}
        params = {**lists.metric_params(), **most, "p_tenant_id": tenant, "p_window": window}
        rows = await self._executor.fetch_all(lists.RUN_METRICS, params)
        depths: dict[tuple[PolicyRunMode, PolicyRunPriority], QueueDepth] = {}
        for mode_code, priority_code, number, oldest, *_ in rows:
            cell = (PolicyRunMode.from_code(mode_code), PolicyRunPriority.from_code(priority_code))
            age = None if oldest is None else max(oldest, 0.0)
            depths[cell] = QueueDepth(BoundedCount.from_count(number, COUNT_MAX), age)
        _, _, _, _, p50, p95, p99, completed = rows[0]
        queue = {cell: depths[cell] for cell in lists.METRIC_BUCKETS}
        return PolicyRunMetrics(queue, p50, p95, p99, completed, window)

    async def _conflict_result(
        self, job: PolicyRunJob, source: PolicyRunStatus, owner: str | None, transition_id: UUID
    ) -> UpdateResult[PolicyRunJob]:
        """A later look tells a run that is elsewhere from one that is not there."""
        now = await self.get(job.tenant_id, job.id)
        if now is None:
            reason = f"tenant {job.tenant_id!r} has no policy run {job.id}"
            return UpdateResult(UpdateOutcome.NOT_FOUND, transition_id, reason=reason)
        whose = f" of {now.lease_owner!r}" if now.lease_owner else ""
        held = f"{source} of {owner!r}" if owner else str(source)
        reason = (
            f"the run was not {held} any more, or not at the attempts or the version the move was made from, or what "
            f"was asked for is something else; a later look found it {now.status}{whose} at attempts {now.attempts}"
        )
        return UpdateResult(UpdateOutcome.CONFLICT, transition_id, now, reason=reason)

    async def _find_applied(self, job: PolicyRunJob, move: Transition) -> RecordedTransition | None:
        """Looks for a move whose answer was lost; another one under its id does not say that it will not land yet."""
        try:
            return await self._find_transition(job, move)
        except InvalidJob:
            return None

    async def _find_transition(self, job: PolicyRunJob, move: Transition) -> RecordedTransition | None:
        """Looks a move up in the log, by its id; see `Move.among`."""
        rows = await self._executor.fetch_all(
            single.FIND_TRANSITION,
            {"p_tenant_id": job.tenant_id, "p_job_id": job.id, "p_transition_id": str(move.transition_id)},
        )
        return move.match_recorded((told, RecordedTransition(version, event_id)) for event_id, told, version in rows)


def _recorded_result(job: PolicyRunJob, move: Transition, logged: RecordedTransition) -> UpdateResult[PolicyRunJob]:
    """What the caller of a move is told that was looked up: the same as the first time."""
    asked_at = logged.payload.get(single.CANCELLATION_REQUESTED_AT)
    kept = job.with_cancellation(
        datetime.fromisoformat(asked_at) if asked_at else None, logged.payload.get(single.CANCELLATION_REASON)
    )
    return move.to_result(kept, logged)


def _query(
    policy_id: str | None,
    mode: PolicyRunMode | str | None,
    statuses: Iterable[PolicyRunStatus | str],
    queued_after: datetime | None,
    *,
    limit: int = PAGE_DEFAULT,
    cursor: str | None = None,
) -> PolicyRunQuery:
    return PolicyRunQuery(
        policy_id=policy_id,
        mode=mode,  # type: ignore[arg-type]  # a word is read
        statuses=statuses,  # type: ignore[arg-type]  # and so are they
        queued_after=queued_after,
        limit=limit,
        cursor=cursor,
    )
