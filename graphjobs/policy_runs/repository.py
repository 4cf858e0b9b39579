"""The repository of policy runs: a run and its event are written in one statement; results say what happened."""

from datetime import datetime, timedelta
from typing import Protocol, Self
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import override

from graphjobs.core.event_log import read_log
from graphjobs.core.fields import check_name, parse_id
from graphjobs.core.notifications import notify_queued
from graphjobs.core.pagination import (
    COUNT_MAX,
    PAGE_MAX,
    SAMPLE_MAX,
    BoundedCount,
    PartialList,
    read_page,
)
from graphjobs.core.recovery import LookupResult, confirm_replicated, resolve_outcome
from graphjobs.core.transitions import RefusedUpdate, Transition, UpdateOutcome, UpdateResult, ensure_transition_id
from graphjobs.core.update_flow import Applied, UpdateFlow
from graphjobs.core.validation import WINDOW_MAX, check_actor, check_duration, check_query
from graphjobs.database.executor import Executor
from graphjobs.errors import IllegalTransition, JobAlreadyExists, OutcomeUnknown
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
    page_key,
    row_columns,
    run_from_row,
    run_params,
    swap_params,
)
from graphjobs.policy_runs.sql import lists, single
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

Status = PolicyRunStatus


class PolicyRunRepository(Protocol):
    """Inserts, updates, lists and counts policy runs, and reads their logs. Every write has its event in one statement.

    Each call is one round trip. A run is found by its own tenant only. Every method raises `InvalidJob` for an invalid
    argument, before any SQL, and `DatabaseUnavailable` or `SchemaOutOfDate` as the executor does. A host may replace
    the repository. Source: the plan's PolicyRunService.
    """

    async def insert(self, job: PolicyRunJob, *, actor: str | None = None) -> PolicyRunJob:
        """Insert a new run of any status, with its first event; a second run of the same name returns the first.

        `created_at` is the value's, the database sets `updated_at`. A run that is available when it is made is
        available from the insertion on, by the database's clock.

        Args:
            job: the run; its `run_id` is unique for the tenant.
            actor: who requested it, for the event.

        Returns:
            The run as it is stored; where the tenant had a run of this `run_id`, that run as it is now.

        Raises:
            JobAlreadyExists: its `id` is taken. Inside a session the transaction stays usable.
            CorruptRow: there is a run of this `run_id`, and it is unreadable.
            OutcomeUnknown: the connection was lost, and it is unknown whether the run was stored. The same call can be
                repeated.
        """
        ...

    async def get(self, tenant_id: str, job_id: UUID | str) -> PolicyRunJob | None:
        """Return a run by its id, a UUID or its text; None where the tenant has no such run.

        Raises:
            CorruptRow: the row is unreadable.
        """
        ...

    async def get_by_run_id(self, tenant_id: str, run_id: str) -> PolicyRunJob | None:
        """Return a run by its name; None where the tenant has no such run. Raises as `get`."""
        ...

    async def replace(
        self,
        job: PolicyRunJob,
        expected_lease_owner: str | None,
        *,
        through: PolicyRunJob | None = None,
        transition_id: UUID | None = None,
        actor: str | None = None,
    ) -> UpdateResult[PolicyRunJob]:
        """Apply a transition of a run, with its event: both or neither.

        It is applied if the row still has the status that the transition starts from, this owner, and the attempts that
        the run follows from. A transition that keeps the status compares the version, too. The request never changes: a
        value of another policy, mode, priority or payload does not match. A cancellation that was requested meanwhile
        is kept, and such a run does not become pending again.

        The same transition repeated with the same transition id is applied once and returns the same result. After a
        lost connection the id is looked up; nothing is repeated blindly.

        Args:
            job: the run after the transition, made by one of its methods.
            expected_lease_owner: the owner of the lease, for a transition of a dispatching run; None for any other.
            through: the run between two transitions, as after its submission and before its completion. Both are
                applied in one statement, each with its event: both or neither.
            transition_id: identifies this transition; None means a new id.
            actor: who changes the run, for the event.

        Raises:
            InvalidJob: an invalid argument; or the update lost, and its transition id belongs to another transition.
            CorruptRow: the update lost, and the row is unreadable.
            OutcomeUnknown: the connection was lost, and it is unknown whether the transition was applied.
        """
        ...

    async def list(self, tenant_id: str, query: PolicyRunQuery | None = None) -> PolicyRunCollection:
        """Return one page of a tenant's runs, newest first: `queued_at DESC, id DESC`. Pages stay disjoint.

        With a filter by status, a run that changes its status between two pages can be on both, or on neither. See
        `PolicyRunQuery` for the filters; None means all runs.
        """
        ...

    async def count(self, tenant_id: str, query: PolicyRunQuery | None = None) -> BoundedCount:
        """Count the runs of a query, without its cursor and limit: exact up to 10,000, else "more than"."""
        ...

    async def events(
        self, tenant_id: str, job_id: UUID | str, *, after: int = 0, limit: int = PAGE_MAX
    ) -> PartialList[PolicyRunEvent]:
        """List up to `limit` (1 to 1,000) events of a run after id `after`, oldest first; none of an unknown run."""
        ...

    async def metrics(self, tenant_id: str, *, window: timedelta = METRICS_WINDOW) -> PolicyRunMetrics:
        """Return how many runs of a tenant are pending, since when, and how long runs take.

        Args:
            tenant_id: the tenant.
            window: the percentiles cover runs requested at most this long ago; up to 366 days.
        """
        ...

    def using(self, session: AsyncSession) -> Self:
        """Return the repository inside the caller's transaction, which commits or rolls back with the rest."""
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
        self._flow = UpdateFlow(executor, single.FIND_TRANSITION)

    @override
    def using(self, session: AsyncSession) -> Self:
        return type(self)(self._executor.using(session), notify=self._notify)

    @override
    async def insert(self, job: PolicyRunJob, *, actor: str | None = None) -> PolicyRunJob:
        transition = Transition.for_insert(check_run(job), ensure_transition_id(None), check_actor(actor))
        params = {**run_params(job), "p_event_payload": transition.event_payload}
        try:
            rows = await self._executor.fetch_all(single.INSERT_RUN, params)
        except OutcomeUnknown as unknown:
            return await resolve_outcome(unknown, self._executor, lambda: self._find_inserted(job))
        if not rows:
            # A run of this name that was committed while the statement waited: only a later read sees it.
            found = await self._find_inserted(job)
            if found.value is None:
                raise JobAlreadyExists(job.id, what="policy run")
            await confirm_replicated(self._executor, found.server)
            return found.value
        *columns, is_new, has_standbys = rows[0]
        if not is_new:
            first = run_from_row(columns)
            if has_standbys:
                await confirm_replicated(self._executor)
            return first
        await notify_queued(self._executor, enabled=self._notify and job.status is Status.PENDING)
        stored = row_columns(columns)
        return job.stored(updated_at=stored["updated_at"], available_at=stored["available_at"])

    @override
    async def get(self, tenant_id: str, job_id: UUID | str) -> PolicyRunJob | None:
        tenant, job = check_name(tenant_id, "tenant_id"), parse_id(job_id, "job_id")
        if job is None:
            return None
        rows = await self._executor.fetch_all(single.GET_RUN, {"p_tenant_id": tenant, "p_job_id": job})
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
        through: PolicyRunJob | None = None,
        transition_id: UUID | None = None,
        actor: str | None = None,
    ) -> UpdateResult[PolicyRunJob]:
        own_id, actor = ensure_transition_id(transition_id), check_actor(actor)
        owner = None if expected_lease_owner is None else check_name(expected_lease_owner, "expected_lease_owner")
        try:
            source = infer_source_status(check_run(job if through is None else through), owner)
            if through is not None:
                through.status.require_transition(check_run(job).status)
        except IllegalTransition as error:
            return RefusedUpdate(UpdateOutcome.ILLEGAL, own_id, reason=str(error))
        swap = swap_params(job, source, owner)
        statement = single.TRANSITION_RUN_AT_VERSION if "p_expected_version" in swap else single.TRANSITION_RUN
        last_source = source
        if through is not None:
            statement, last_source = single.TRANSITION_RUN_THROUGH, through.status
            first_id = uuid5(own_id, through.status)  # each transition has its own, the same for a repeated call
            first = Transition.for_update(through, source, through.to_json(), first_id, actor)
            swap |= {"p_through_status": through.status.code, "p_through_event_payload": first.event_payload}
        transition = Transition.for_update(job, last_source, job.to_json(), own_id, actor)
        applied = await self._flow.apply(statement, swap, job, transition)
        if applied is None:
            return await self._conflict_result(job, source, owner, own_id)
        if applied.row is not None:
            await notify_queued(self._executor, enabled=self._notify and job.status is Status.PENDING)
        return transition.to_result(job.with_cancellation(*_cancellation(applied)), applied.recorded)

    @override
    async def list(self, tenant_id: str, query: PolicyRunQuery | None = None) -> PolicyRunCollection:
        tenant, query = check_name(tenant_id, "tenant_id"), check_query(query, PolicyRunQuery)
        # One row more than the page holds shows that the list goes on.
        params = lists.list_params(tenant, query, limit=query.limit + 1)
        rows = await self._executor.fetch_all(lists.statements_for(query).page, params)
        page = await read_page(run_from_row, rows, query, tenant, page_key)
        return PolicyRunCollection(page.items, page.next_cursor, page.unreadable)

    @override
    async def count(self, tenant_id: str, query: PolicyRunQuery | None = None) -> BoundedCount:
        tenant, query = check_name(tenant_id, "tenant_id"), check_query(query, PolicyRunQuery)
        params = lists.list_params(tenant, query.replace(cursor=None), limit=COUNT_MAX + 1)
        ((count,),) = await self._executor.fetch_all(lists.statements_for(query).bounded_count, params)
        return BoundedCount.from_count(count, COUNT_MAX)

    @override
    async def events(
        self, tenant_id: str, job_id: UUID | str, *, after: int = 0, limit: int = PAGE_MAX
    ) -> PartialList[PolicyRunEvent]:
        return await read_log(
            self._executor, single.LIST_EVENTS, event_from_row, tenant_id, job_id, after=after, limit=limit
        )

    @override
    async def metrics(self, tenant_id: str, *, window: timedelta = METRICS_WINDOW) -> PolicyRunMetrics:
        tenant, window = check_name(tenant_id, "tenant_id"), check_duration(window, "window", WINDOW_MAX)
        limits = {"p_limit": COUNT_MAX + 1, "p_completed_limit": SAMPLE_MAX}
        params = {**lists.metric_params(), **limits, "p_tenant_id": tenant, "p_window": window}
        rows = await self._executor.fetch_all(lists.RUN_METRICS, params)
        depths: dict[tuple[PolicyRunMode, PolicyRunPriority], QueueDepth] = {}
        for mode_code, priority_code, count, oldest, *_ in rows:
            bucket = (PolicyRunMode.from_code(mode_code), PolicyRunPriority.from_code(priority_code))
            age = None if oldest is None else max(oldest, 0.0)
            depths[bucket] = QueueDepth(BoundedCount.from_count(count, COUNT_MAX), age)
        *_, p50, p95, p99, completed = rows[0]
        queue = {bucket: depths[bucket] for bucket in lists.METRIC_BUCKETS}
        return PolicyRunMetrics(queue, p50, p95, p99, completed, window)

    async def _find_inserted(self, job: PolicyRunJob) -> LookupResult[PolicyRunJob]:
        params = {"p_tenant_id": job.tenant_id, "p_run_id": job.run_id}
        rows = await self._executor.fetch_all(single.FIND_RUN_BY_RUN_ID, params)
        return LookupResult.of(rows, lambda found: next(map(run_from_row, found), None))

    async def _conflict_result(
        self, job: PolicyRunJob, source: PolicyRunStatus, owner: str | None, transition_id: UUID
    ) -> UpdateResult[PolicyRunJob]:
        # A later read: reading in the losing statement would return the state before the winner.
        current = await self.get(job.tenant_id, job.id)
        if current is None:
            reason = f"tenant {job.tenant_id!r} has no policy run {job.id}"
            return RefusedUpdate(UpdateOutcome.NOT_FOUND, transition_id, reason=reason)
        expected = f"{source} by {owner!r}" if owner else str(source)
        holder = f" by {current.lease_owner!r}" if current.lease_owner else ""
        reason = (
            f"the run was no longer {expected}, or not at the attempts or the version that the update follows from, or "
            f"its request differs; a later read found it {current.status}{holder} at attempts {current.attempts}"
        )
        return RefusedUpdate(UpdateOutcome.CONFLICT, transition_id, current, reason=reason)


def _cancellation(applied: Applied) -> tuple[datetime | None, str | None]:
    """Return when and why cancellation was requested, as the row or its event has it."""
    if applied.row is not None:
        _, _, requested_at, reason = applied.row
        return requested_at, reason
    text = applied.recorded.payload.get(single.CANCELLATION_REQUESTED_AT)
    reason = applied.recorded.payload.get(single.CANCELLATION_REASON)
    return datetime.fromisoformat(text) if text else None, reason
