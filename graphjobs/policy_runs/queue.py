"""The queue of policy runs: leases, heartbeats, ends and rescues, many runs in one statement each."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from graphjobs.core.fields import as_uuid, check_limit, check_name
from graphjobs.core.notifications import notify_queued
from graphjobs.core.pagination import parse_scan_cursor, scan_cursor
from graphjobs.core.queue_flow import QueueFlow, split_apart, stalled_from_rows
from graphjobs.core.results import ATTEMPTS_MAX, FinishResult, RescueResult, StalledItem, exhausted_reason
from graphjobs.core.sanitizing import sanitize_error
from graphjobs.core.transitions import ensure_transition_id, event_payload
from graphjobs.core.validation import (
    BATCH_MAX,
    check_actor,
    check_apart_after,
    check_attempts_max,
    check_duration,
    check_stalled,
    check_stored_tenant,
    check_type,
)
from graphjobs.database.executor import Executor
from graphjobs.errors import CorruptRow
from graphjobs.policy_runs.attempt_results import (
    LeaseBatch,
    LeaseHeartbeatResult,
    LeaseResult,
    RetryBackoff,
    TenantCursors,
)
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.params import (
    check_leased,
    check_results,
    cursor_params,
    finish_params,
    lease_params,
    take_over_params,
)
from graphjobs.policy_runs.row_mapping import row_columns, run_from_row
from graphjobs.policy_runs.sql import acquire, finish
from graphjobs.policy_runs.sql.expired import BRING_RUNS_FORWARD, LIST_EXPIRED_RUNS
from graphjobs.policy_runs.status import PolicyRunStatus

Status = PolicyRunStatus

_NO_DELAY: Final = timedelta(0)


class PolicyRunQueue:
    """Leases pending runs to dispatchers, and takes them back. Every transition writes its event in the same statement.

    Every method raises `InvalidJob` for an invalid argument, before any SQL, and `DatabaseUnavailable` or
    `SchemaOutOfDate` as the executor does. All times are the database's. `actor` is recorded in the events.

    Args:
        executor: runs the statements.
        notify: whether to notify listening dispatchers of pending runs, in one more statement.
    """

    def __init__(self, executor: Executor, *, notify: bool = False) -> None:
        self._executor = executor
        self._notify = notify
        self._flow: QueueFlow[PolicyRunJob] = QueueFlow(
            executor, finish.TAKE_OVER_RUNS, finish.FIND_TRANSITIONED, finish.GET_STATES, _explain_lost
        )

    def using(self, session: AsyncSession) -> Self:
        """Return the queue inside the caller's transaction, which commits or rolls back with the rest."""
        return type(self)(self._executor.using(session), notify=self._notify)

    async def lease(
        self,
        owner: str,
        duration: timedelta,
        *,
        attempts_max: int,
        limit: int = 1,
        tenant_id: str | None = None,
        after: TenantCursors | None = None,
        apart_after: int | None = None,
    ) -> LeaseBatch:
        """Lease pending runs that are available: they are dispatching, and belong to the owner until the lease ends.

        No two leases take the same run, and no lease waits for another. Emergencies come first: while one can be taken,
        a lease takes one in eight runs of the others. Tenants rotate, those with emergencies among themselves, and get
        equal shares of `limit`. Within a tenant, high priority comes before normal, and the run that has been available
        longest first. High runs never starve normal ones: of every eight runs taken of a tenant, one is the normal run
        that has waited longest, if it has waited for ten minutes.

        Args:
            owner: who leases, 1 to 256 characters; only the owner can renew and end the lease.
            duration: the length of the lease, up to a day.
            attempts_max: a run that has had so many attempts fails instead of being leased, 1 to 99,999; attempts that
                were released in order do not count, but for the last of the 99,999 that can be stored.
            limit: the most runs, 1 to 1,000.
            tenant_id: the tenant; None means all.
            after: the `cursors` of the lease before, for leases over all tenants; None begins with the first tenant.
            apart_after: a run that has had so many attempts that count (1 to 99,999), one of them lost, is left to be
                leased and run alone: what it runs beside may be what ends the process. None leaves no run.

        Raises:
            DatabaseUnavailable: nothing was taken.
            OutcomeUnknown: the connection was lost, and it is unknown what was taken. Such leases expire.
        """
        transition_id = uuid7()
        cursors = TenantCursors() if after is None else check_type(after, TenantCursors, "after")
        params: dict[str, object] = {
            "p_lease_owner": check_name(owner, "owner"),
            "p_lease_duration": check_duration(duration, "duration"),
            "p_attempts_max": check_attempts_max(attempts_max),
            "p_limit": check_limit(limit, limit_max=BATCH_MAX),
            "p_event_payload": event_payload(Status.PENDING, Status.DISPATCHING, transition_id, owner),
            # Random, so that shares smaller than eight have overdue runs, too.
            "p_rotation_offset": transition_id.int % acquire.OVERDUE_EVERY,
            "p_apart_after": check_apart_after(apart_after),
            **cursor_params(cursors),
        }
        statement = acquire.LEASE_RUNS
        if tenant_id is not None:
            params["p_tenant_id"] = check_name(tenant_id, "tenant_id")
            statement = acquire.LEASE_RUNS_OF_TENANT
        rows, lost = await self._flow.acquire(statement, acquire.FIND_LEASED_RUNS, params, transition_id)
        *_, emergency, others, _ = rows[0] if rows else (None, None, None)
        cursors = TenantCursors(emergency or cursors.emergency, others or cursors.others)
        apart, rows = split_apart(rows)
        batch = await self._classify_leased(rows, attempts_max, owner)
        return replace(batch, cursors=cursors, lost=lost, apart=apart)

    async def renew(self, jobs: Iterable[PolicyRunJob], duration: timedelta) -> LeaseHeartbeatResult:
        """Extend the leases of up to 1,000 runs from now on, also of one that has expired and was not taken.

        The statement is fenced: only the owner at the given attempt can renew. The holder learns here that the
        cancellation of a run was requested.

        Args:
            jobs: the runs as they were leased.
            duration: the length from now, up to a day.

        Raises:
            OutcomeUnknown: the connection was lost. Renew again: one more heartbeat does no harm.
        """
        leased, duration = check_leased(jobs), check_duration(duration, "duration")
        if not leased:
            return LeaseHeartbeatResult(())
        rows = await self._executor.fetch_all(finish.RENEW_RUNS, {**lease_params(leased), "p_lease_duration": duration})
        by_id = {as_uuid(job_id): columns for job_id, *columns in rows}
        renewed: list[PolicyRunJob] = []
        busy: set[UUID] = set()
        for job in leased:
            if job.id not in by_id:
                continue
            version, expires_at, cancellation_requested_at, reason = by_id[job.id]
            if version is None:
                busy.add(job.id)
                continue
            run = job.with_cancellation(cancellation_requested_at, reason)
            renewed.append(run.stored(updated_at=version, lease_expires_at=expires_at))
        lost = frozenset(job.id for job in leased if job.id not in by_id)
        return LeaseHeartbeatResult(tuple(renewed), lost, frozenset(busy))

    async def end(
        self, results: Iterable[LeaseResult], *, actor: str | None = None, transition_id: UUID | None = None
    ) -> FinishResult:
        """End up to 1,000 leases as submitted, failed, released or canceled, in one statement.

        It is fenced and waits for no lock, as `GraphJobQueue.end`. The same call with the same transition id ends
        nothing twice, and returns the same.

        Raises:
            DatabaseUnavailable: nothing was changed.
            OutcomeUnknown: the connection was lost, and it is unknown whether the leases were ended.
        """
        ended, actor = check_results(results), check_actor(actor)
        own_id = ensure_transition_id(transition_id)
        if not ended:
            return FinishResult({}, {})
        params = finish_params(ended, own_id, actor)
        versions = await self._flow.write(finish.FINISH_RUNS, params, own_id)
        available = any(result.status is Status.PENDING and result.delay == _NO_DELAY for result in ended)
        await notify_queued(self._executor, enabled=self._notify and available)
        return await self._flow.resolve_missing([result.job for result in ended], params, versions, transition_id)

    async def expired(
        self, *, tenant_id: str | None = None, after: str = "", limit: int = BATCH_MAX
    ) -> tuple[tuple[StalledItem, ...], str]:
        """Read a part of the leases, and list those that have expired by the database's clock, the earliest first.

        A lease from when that clock was ahead by more than the lease counts as expired, too.

        That alone does not show that a holder has died: no holder can renew while the database is away. List them, wait
        for longer than a heartbeat, and pass them to `rescue`, which takes those that have not changed.

        Args:
            tenant_id: the tenant; None means all.
            after: the cursor of the call before; empty begins.
            limit: how many leases to read, of all tenants, 1 to 1,000; a few more of equal times.

        Returns:
            The expired leases, and the cursor to continue after; it is empty where all leases were read.
        """
        params = {
            "p_tenant_id": None if tenant_id is None else check_name(tenant_id, "tenant_id"),
            "p_after_attempt_at": parse_scan_cursor(after).at,
            "p_limit": check_limit(limit, limit_max=BATCH_MAX),
        }
        rows = await self._executor.fetch_all(LIST_EXPIRED_RUNS, params)
        last, *_ = rows[0]
        return stalled_from_rows(item for _, *item in rows), scan_cursor(None if last is None else "", last)

    async def bring_forward(
        self, lease: timedelta, *, tenant_id: str | None = None, after: str = "", limit: int = BATCH_MAX
    ) -> tuple[int, str]:
        """Make pending runs available that wait only because the database's clock was ahead when they were written.

        Their versions are ahead of the clock by more than a lease, and so are the times of their next leases. They keep
        their delay. Runs that their callers delayed stay as they are. Repeat the call while it returns any.

        Args:
            lease: a version that is ahead by more than this counts, up to a day.
            tenant_id: the tenant; None means all.
            after: the cursor of the call before; empty begins.
            limit: the most tenants and the most runs, 1 to 1,000.

        Returns:
            The number of runs, and the cursor to continue after; it is empty where all tenants were read.
        """
        params = {
            "p_lease_duration": check_duration(lease, "lease"),
            "p_tenant_id": None if tenant_id is None else check_name(tenant_id, "tenant_id"),
            "p_after_tenant_id": check_stored_tenant(after, "after"),
            "p_limit": check_limit(limit, limit_max=BATCH_MAX),
        }
        ((last, number),) = await self._executor.fetch_all(BRING_RUNS_FORWARD, params)
        await notify_queued(self._executor, enabled=self._notify and number > 0)
        return number, "" if tenant_id is not None or last is None else last

    async def rescue(
        self,
        stalled: Iterable[StalledItem],
        *,
        attempts_max: int,
        backoff: RetryBackoff | None = None,
        actor: str | None = None,
    ) -> RescueResult:
        """Make up to 1,000 runs pending again that have not changed since; fail those without an attempt left.

        The last attempt of a run that lost none before does not count, if the bound is more than one: what ran beside
        it may have ended the process. See `apart_after` of `lease` for the others.

        A run that was renewed, ended or leased since is not touched, nor one with a locked row. A run with a
        requested cancellation is canceled, and reported as it would have been otherwise.

        Args:
            stalled: the items that `expired` returned.
            attempts_max: the most attempts of a run, 1 to 99,999; attempts that were released in order do not count.
            backoff: the delay of the next attempt; None means the default.
            actor: who rescues.
        """
        attempts_max, items, actor = check_attempts_max(attempts_max), check_stalled(stalled), check_actor(actor)
        backoff = RetryBackoff() if backoff is None else check_type(backoff, RetryBackoff, "backoff")
        targets = []
        for item in items:
            reason = exhausted_reason(item, attempts_max)
            if reason is None:
                problem = "the dispatcher stopped sending heartbeats, and its lease expired"
                targets.append((Status.PENDING, problem, backoff.after(item.attempts or 1)))
            else:
                targets.append((Status.FAILED, reason, _NO_DELAY))
        transition_id = uuid7()
        # The event of an attempt that does not count has no error, as that of a released one.
        uncounted = {item.job_id for item in items if not (item.ran_alone or item.has_attempts_left(attempts_max))}
        params = take_over_params(items, targets, transition_id, actor, rescued=True, uncounted=uncounted)
        failed = {item.job_id for item, (target, _, _) in zip(items, targets, strict=True) if target is Status.FAILED}
        return await self._flow.rescue(items, params, transition_id, failed)

    async def _classify_leased(self, rows: Sequence[Sequence[Any]], attempts_max: int, owner: str) -> LeaseBatch:
        """Read leased rows; fail the unreadable ones or have no attempt left, which harms no other."""
        runs: list[PolicyRunJob] = []
        final_attempt_ids: set[UUID] = set()
        unreadable: list[CorruptRow] = []
        exhausted: list[UUID] = []
        rejected: list[tuple[StalledItem, str]] = []
        for row in rows:
            *columns, counted_attempts, _, _ = row
            by_name = row_columns(columns)
            item = StalledItem(as_uuid(by_name["id"]), by_name["tenant_id"], by_name["updated_at"], by_name["attempts"])
            try:
                run = run_from_row(columns)
            except CorruptRow as error:
                unreadable.append(error)
                rejected.append((item, sanitize_error(str(error))))
                continue
            # The attempt after the last one that can be stored has no number.
            if counted_attempts > attempts_max or run.attempts >= ATTEMPTS_MAX:
                exhausted.append(item.job_id)
                rejected.append((item, f"all attempts were made: at most {attempts_max} are"))
                continue
            if counted_attempts == attempts_max:
                final_attempt_ids.add(item.job_id)
            runs.append(run)
        if rejected:
            await self._fail_rejected(rejected, owner)
        return LeaseBatch(tuple(runs), frozenset(final_attempt_ids), tuple(exhausted), tuple(unreadable))

    async def _fail_rejected(self, rejected: Sequence[tuple[StalledItem, str]], owner: str) -> None:
        transition_id = uuid7()
        targets = [(Status.FAILED, reason, _NO_DELAY) for _, reason in rejected]
        params = take_over_params([item for item, _ in rejected], targets, transition_id, owner)
        await self._flow.fail_rejected(params, transition_id, len(rejected), "policy runs that must not be dispatched")


def _explain_lost(job: PolicyRunJob, state: tuple[Any, ...] | None) -> str | None:
    if state is None:
        return f"tenant {job.tenant_id!r} has no such run"
    code, attempts, owner = state
    if (code, attempts, owner) == (Status.DISPATCHING.code, job.attempts, job.lease_owner):
        return None
    try:
        status: str = Status.from_code(code)
    except ValueError:
        status = f"with the unknown status {code}"
    holder = f" by {owner!r}" if owner else ""
    where = f"a later read found the run {status}{holder} at attempt {attempts}"
    return f"the lease of {job.lease_owner!r} at attempt {job.attempts} is lost: {where}"
