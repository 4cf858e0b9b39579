"""The repository of policy runs: a run and its log move as one statement, and every answer says what happened."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

from typing_extensions import override

from graphjobs.core.fields import id_or_none, require_limit, require_name
from graphjobs.core.notifications import send_notice
from graphjobs.core.pagination import (
    COUNT_MAX,
    PAGE_DEFAULT,
    PAGE_MAX,
    BoundedCount,
    Position,
    Readable,
    page_of,
    readable_of,
    require_event_id,
)
from graphjobs.core.results import check_actor
from graphjobs.core.transitions import Logged, Move, UpdateOutcome, UpdateResult, transition_named
from graphjobs.database.executor import find_out
from graphjobs.errors import IllegalTransition, InvalidJob, JobAlreadyExists, OutcomeUnknown
from graphjobs.policy_runs.filters import (
    METRICS_WINDOW,
    PolicyRunCollection,
    PolicyRunMetrics,
    PolicyRunQuery,
    QueueDepth,
)
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunJob
from graphjobs.policy_runs.queue import PolicyRunQueue, PostgresPolicyRunQueue
from graphjobs.policy_runs.row_mapping import columns_of, event_of, require_run, run_of, source_of, swap_of
from graphjobs.policy_runs.sql import lists, single
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

_WINDOW_MAX: Final = timedelta(days=366)
_S = PolicyRunStatus


class PolicyRunRepository(PolicyRunQueue, Protocol):
    """Inserts, moves, reads, pages and counts policy runs, and leases them as `PolicyRunQueue` says.

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
    ) -> Readable[PolicyRunEvent]:
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


class PostgresPolicyRunRepository(PostgresPolicyRunQueue, PolicyRunRepository):
    """`PolicyRunRepository` on PostgreSQL, by whatever executor it is given; see `PostgresPolicyRunQueue`."""

    @override
    async def insert(self, job: PolicyRunJob, *, actor: str | None = None) -> PolicyRunJob:
        move = Move.adding(require_run(job), transition_named(None), check_actor(actor))
        try:
            rows = await self._executor.rows(single.INSERT_RUN, {**columns_of(job), "entry": move.entry})
        except OutcomeUnknown as lost:
            return await find_out(lost, self._executor, lambda: self.get_by_run_id(job.tenant_id, job.run_id))
        if not rows:
            # Somebody else's, committed while we waited for it: only a later look sees it.
            first = await self.get_by_run_id(job.tenant_id, job.run_id)
            if first is None:
                raise JobAlreadyExists(job.id, what="policy run")
            return first
        *columns, is_new = rows[0]
        if not is_new:
            return run_of(columns)
        await send_notice(self._executor, wanted=self._notify and job.status is _S.PENDING)
        stored = dict(zip(single.COLUMNS, columns, strict=True))
        return job.stored(updated_at=stored["updated_at"], available_at=stored["available_at"])

    @override
    async def get(self, tenant_id: str, job_id: UUID | str) -> PolicyRunJob | None:
        tenant, job = require_name(tenant_id, "tenant_id"), id_or_none(job_id, "job_id")
        rows = await self._executor.rows(single.GET_RUN, {"tenant": tenant, "job": job}) if job else ()
        return run_of(rows[0]) if rows else None

    @override
    async def get_by_run_id(self, tenant_id: str, run_id: str) -> PolicyRunJob | None:
        params = {"tenant": require_name(tenant_id, "tenant_id"), "name": require_name(run_id, "run_id")}
        rows = await self._executor.rows(single.FIND_RUN, params)
        return run_of(rows[0]) if rows else None

    @override
    async def replace(
        self,
        job: PolicyRunJob,
        expected_lease_owner: str | None,
        *,
        transition_id: UUID | None = None,
        actor: str | None = None,
    ) -> UpdateResult[PolicyRunJob]:
        named, who = transition_named(transition_id), check_actor(actor)
        owner = None if expected_lease_owner is None else require_name(expected_lease_owner, "expected_lease_owner")
        try:
            source = source_of(require_run(job), owner)
        except IllegalTransition as error:
            return UpdateResult(UpdateOutcome.ILLEGAL, named, reason=str(error))
        swap = swap_of(job, source, owner)
        move = Move.of(job, source, job.to_json(), named, who)
        statement = single.MOVE_RUN_SEEN if "seen" in swap else single.MOVE_RUN
        try:
            rows = await self._executor.rows(statement, {**swap, "entry": move.entry})
        except OutcomeUnknown as lost:
            return _answer(job, move, await find_out(lost, self._executor, lambda: self._landed(job, move)))
        if rows:
            version, event_id, asked_at, reason = rows[0]
            await send_notice(self._executor, wanted=self._notify and job.status is _S.PENDING)
            return move.answer(job.asked_to_end(asked_at, reason), Logged(version, event_id))
        found = await self._find(job, move)
        return _answer(job, move, found) if found else await self._lost(job, source, owner, named)

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
        tenant = require_name(tenant_id, "tenant_id")
        asked = _query(policy_id, mode, statuses, queued_after, limit=limit, cursor=cursor)
        # One more than asked for tells whether there are more.
        binds = lists.binds_of(tenant, asked, limit=asked.limit + 1)
        rows = await self._executor.rows(lists.shape_of(asked).page, binds)
        page, last = page_of(run_of, rows, asked.limit, lambda row: Position(row[8], UUID(int=row[0].int)))
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
        tenant, asked = require_name(tenant_id, "tenant_id"), _query(policy_id, mode, statuses, queued_after)
        rows = await self._executor.rows(
            lists.shape_of(asked).counted, lists.binds_of(tenant, asked, limit=COUNT_MAX + 1)
        )
        return BoundedCount.of(rows[0][0], COUNT_MAX)

    @override
    async def events(
        self, tenant_id: str, job_id: UUID | str, *, after: int = 0, limit: int = PAGE_MAX
    ) -> Readable[PolicyRunEvent]:
        params = {
            "tenant": require_name(tenant_id, "tenant_id"),
            "limit_rows": require_limit(limit, limit_max=PAGE_MAX),
            "after_event": require_event_id(after),
        }
        job = id_or_none(job_id, "job_id")
        if job is None:
            return Readable()
        return readable_of(event_of, await self._executor.rows(single.LIST_EVENTS, {**params, "job": job}))

    @override
    async def metrics(self, tenant_id: str, *, window: timedelta = METRICS_WINDOW) -> PolicyRunMetrics:
        tenant = require_name(tenant_id, "tenant_id")
        if not isinstance(window, timedelta) or not timedelta(0) < window <= _WINDOW_MAX:
            raise InvalidJob("window: it should be a timedelta of more than zero, up to 366 days", field="window")
        most = {"limit_rows": COUNT_MAX + 1, "completed_rows": COUNT_MAX}
        params = {**lists.cells(), **most, "tenant": tenant, "window_length": window}
        rows = await self._executor.rows(lists.RUN_METRICS, params)
        depths: dict[tuple[PolicyRunMode, PolicyRunPriority], QueueDepth] = {}
        for mode_code, priority_code, number, oldest, *_ in rows:
            cell = (PolicyRunMode.from_code(mode_code), PolicyRunPriority.from_code(priority_code))
            age = None if oldest is None else max(oldest, 0.0)
            depths[cell] = QueueDepth(BoundedCount.of(number, COUNT_MAX), age)
        _, _, _, _, p50, p95, p99, completed = rows[0]
        queue = {cell: depths[cell] for cell in lists.CELLS}
        return PolicyRunMetrics(queue, p50, p95, p99, completed, window)

    async def _lost(
        self, job: PolicyRunJob, source: PolicyRunStatus, owner: str | None, named: UUID
    ) -> UpdateResult[PolicyRunJob]:
        """A later look tells a run that is elsewhere from one that is not there."""
        now = await self.get(job.tenant_id, job.id)
        if now is None:
            reason = f"tenant {job.tenant_id!r} has no policy run {job.id}"
            return UpdateResult(UpdateOutcome.NOT_FOUND, named, reason=reason)
        whose = f" of {now.lease_owner!r}" if now.lease_owner else ""
        held = f"{source} of {owner!r}" if owner else str(source)
        reason = (
            f"the run was not {held} any more, or not at the attempts or the version the move was made from, or what "
            f"was asked for is something else; a later look found it {now.status}{whose} at attempts {now.attempts}"
        )
        return UpdateResult(UpdateOutcome.CONFLICT, named, now, reason=reason)

    async def _landed(self, job: PolicyRunJob, move: Move) -> Logged | None:
        """Looks for a move whose answer was lost; another one under its id does not say that it will not land yet."""
        try:
            return await self._find(job, move)
        except InvalidJob:
            return None

    async def _find(self, job: PolicyRunJob, move: Move) -> Logged | None:
        """Looks a move up in the log, by its id; see `Move.among`."""
        rows = await self._executor.rows(
            single.FIND_TRANSITION,
            {"tenant": job.tenant_id, "job": job.id, "transition": str(move.transition_id)},
        )
        return move.among((told, Logged(version, event_id)) for event_id, told, version in rows)


def _answer(job: PolicyRunJob, move: Move, logged: Logged) -> UpdateResult[PolicyRunJob]:
    """What the caller of a move is told that was looked up: the same as the first time."""
    asked_at = logged.told.get(single.ASKED_AT)
    kept = job.asked_to_end(datetime.fromisoformat(asked_at) if asked_at else None, logged.told.get(single.REASON))
    return move.answer(kept, logged)


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
