"""The queue of policy runs: leases, heartbeats, ends and rescues, many runs in one statement each."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from graphjobs.core.fields import check_limit, check_name, sanitize_error
from graphjobs.core.notifications import notify_queued
from graphjobs.core.recovery import rescue_result, resolve_missing, run_transition, stalled_from_rows, versions_by_id
from graphjobs.core.results import (
    ATTEMPTS_MAX,
    BATCH_MAX,
    FinishResult,
    RescueResult,
    StalledItem,
    check_actor,
    check_attempts_max,
    check_item_type,
    check_stalled,
    check_stored_tenant,
    check_wait,
    exhausted_reason,
    key_params,
)
from graphjobs.core.transitions import ensure_transition_id, event_payload
from graphjobs.database.executor import Executor, Row, SessionExecutor, resolve_outcome
from graphjobs.errors import CorruptRow, GraphJobsError, InvalidJob, OutcomeUnknown
from graphjobs.policy_runs.attempt_results import (
    LeaseBatch,
    LeaseHeartbeatResult,
    LeaseResult,
    RetryBackoff,
    TenantCursors,
    check_leased,
    check_results,
    finish_params,
    lease_params,
    take_over_params,
)
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.row_mapping import run_from_row
from graphjobs.policy_runs.sql import acquire, finish
from graphjobs.policy_runs.status import PolicyRunStatus

Status = PolicyRunStatus

_NO_DELAY: Final = timedelta(0)
_EXHAUSTED: Final = "it has had all its attempts: {attempts_max} are the most it gets"
_log = logging.getLogger(__name__)


class PolicyRunQueue:
    """Leases pending runs to dispatchers, and takes them back. Whatever moves a run writes its event with it.

    Every method raises `InvalidJob` for an argument that cannot be, before any SQL, and `DatabaseUnavailable` or
    `SchemaOutOfDate` as the executor does. No method takes a time from its caller's clock.

    Args:
        executor: runs the statements.
        notify: whether listening dispatchers are told of what is pending, in a statement more.
    """

    def __init__(self, executor: Executor, *, notify: bool = False) -> None:
        self._executor = executor
        self._notify = notify

    def using(self, session: AsyncSession) -> Self:
        """Gives the queue inside the caller's transaction, which commits or vanishes with the rest."""
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
    ) -> LeaseBatch:
        """Leases pending runs that are available: they are dispatching now, and the owner's until the lease ends.

        No two leases take the same run, and none waits for another. Emergencies go before all: as long as one of
        anybody's can be taken, a lease of everybody's takes nothing else. Tenants take turns, those with emergencies
        among themselves, and get equal shares of `limit`. Of one tenant high priority goes before normal, and what is
        available for longest first. No flood of high runs keeps normal ones for ever: of every eight that are taken of
        a tenant, one is the normal run that waits for longest, if it has waited for ten minutes.

        Args:
            owner: who leases, up to 256 characters; only he can renew and end.
            duration: how long, up to a day.
            attempts_max: a run that has had so many attempts is failed in place of being leased, 1 to 99,999; those
                that were given back in order do not count, but for the last of the 99,999 that can be told of.
            limit: the most runs to take, 1 to 1,000.
            tenant_id: whose runs; None means everybody's.
            after: the `turns` of the lease before, where it is everybody's; None begins with the first of the tenants.

        Raises:
            OutcomeUnknown: the connection was lost, and what was taken could not be found out; it will run out.
        """
        named, turns = uuid7(), TenantCursors() if after is None else check_item_type(after, TenantCursors, "after")
        params: dict[str, object] = {
            "p_lease_owner": check_name(owner, "owner"),
            "p_lease_duration": check_wait(duration, "duration"),
            "p_attempts_max": check_attempts_max(attempts_max),
            "p_limit": check_limit(limit, limit_max=BATCH_MAX),
            "p_event_payload": event_payload(Status.PENDING, Status.DISPATCHING, named, owner),
            # So that a share smaller than eight has its turn, too; the id is as good as a die.
            "p_rotation_offset": named.int % acquire.OVERDUE_EVERY,
            **_cursor_params(turns),
        }
        statement = acquire.LEASE_RUNS
        if tenant_id is not None:
            params["p_tenant_id"] = check_name(tenant_id, "tenant_id")
            statement = acquire.LEASE_RUNS_OF_TENANT
        try:
            rows = await self._executor.fetch_all(statement, params)
        except OutcomeUnknown as lost:
            rows = await resolve_outcome(lost, self._executor, lambda: self._find_leased(params, named))
        return await self._classify_leased(rows, attempts_max, owner, turns)

    async def renew(self, jobs: Iterable[PolicyRunJob], duration: timedelta) -> LeaseHeartbeatResult:
        """Lets the leases of up to 1,000 runs last from now for as long again, also one that has run out unnoticed.

        Fenced: only who still owns a run at the attempts given can renew it. A holder learns here that the end of a run
        was asked for.

        Args:
            jobs: the runs, as they were leased.
            duration: how long from now, up to a day.

        Raises:
            OutcomeUnknown: the connection was lost; ask again, for a heartbeat more does no harm.
        """
        held, length = check_leased(jobs), check_wait(duration, "duration")
        if not held:
            return LeaseHeartbeatResult(())
        rows = await self._executor.fetch_all(finish.RENEW_RUNS, {**lease_params(held), "p_lease_duration": length})
        found = {UUID(int=row[0].int): row for row in rows}
        renewed: list[PolicyRunJob] = []
        busy: set[UUID] = set()
        for job in held:
            row = found.get(job.id)
            if row is None:
                continue
            if row[1] is None:
                busy.add(job.id)
                continue
            _, version, until, asked_at, reason = row
            renewed.append(job.with_cancellation(asked_at, reason).stored(updated_at=version, lease_expires_at=until))
        lost = frozenset(job.id for job in held if job.id not in found)
        return LeaseHeartbeatResult(tuple(renewed), lost, frozenset(busy))

    async def end(
        self, results: Iterable[LeaseResult], *, actor: str | None = None, transition_id: UUID | None = None
    ) -> FinishResult:
        """Ends up to 1,000 leases as one statement: submitted, failed, given back or canceled.

        Fenced, and it waits for nobody, as `GraphJobQueue.end`; asked again with the same transition id it ends nothing
        twice, and answers the same.

        Raises:
            DatabaseUnavailable: nothing was changed.
            OutcomeUnknown: the connection was lost, and it could not be found out whether they ended.
        """
        given, who, named = check_results(results), check_actor(actor), ensure_transition_id(transition_id)
        if not given:
            return FinishResult({}, {})
        params = finish_params(given, named, who)
        rows = await run_transition(self._executor, finish.FINISH_RUNS, finish.FIND_TRANSITIONED, params, named)
        versions = versions_by_id(rows)
        at_once = any(ending.status is Status.PENDING and ending.delay == _NO_DELAY for ending in given)
        await notify_queued(self._executor, enabled=self._notify and at_once)
        missing = [ending.job for ending in given if ending.job.id not in versions]
        return await resolve_missing(
            self._executor,
            finish.FIND_TRANSITIONED,
            params,
            transition_id,
            versions,
            [job.id for job in missing],
            lambda: self._find_states(missing),
        )

    async def expired(self, *, tenant_id: str | None = None, limit: int = BATCH_MAX) -> tuple[StalledItem, ...]:
        """Lists leases that have run out by the database's clock, the longest ago first.

        That alone does not tell that their holders have died: nobody could renew while the database was away. See them,
        wait for longer than a heartbeat, and give them to `rescue`, which takes those that have not moved since.

        Args:
            tenant_id: whose; None means everybody's.
            limit: the most, 1 to 1,000.
        """
        params = {
            "p_tenant_id": None if tenant_id is None else check_name(tenant_id, "tenant_id"),
            "p_limit": check_limit(limit, limit_max=BATCH_MAX),
        }
        rows = await self._executor.fetch_all(acquire.LIST_EXPIRED_RUNS, params)
        return stalled_from_rows(rows)

    async def rescue(
        self,
        stalled: Iterable[StalledItem],
        *,
        attempts_max: int,
        backoff: RetryBackoff | None = None,
        actor: str | None = None,
    ) -> RescueResult:
        """Makes up to 1,000 runs pending again that are still as they were seen; those of too many attempts are failed.

        A run that was renewed, ended or leased since is not touched, nor one whose row somebody holds. One whose end
        was asked for is canceled, and told among those it would have been else.

        Args:
            stalled: what `expired` gave.
            attempts_max: a run that has had so many attempts fails, 1 to 99,999; those that were given back in order do
                not count.
            backoff: how long they wait; None means the default.
            actor: who rescues.
        """
        most, waits = check_attempts_max(attempts_max), RetryBackoff() if backoff is None else backoff
        if not isinstance(waits, RetryBackoff):
            raise InvalidJob("backoff: it should be a RetryBackoff", field="backoff")
        given, who = check_stalled(stalled), check_actor(actor)
        targets = []
        for sighting in given:
            reason = exhausted_reason(sighting, most)
            if reason is None:
                told = "its dispatcher gave no sign of life until its lease ran out"
                targets.append((Status.PENDING, told, waits.after(sighting.attempts or 1)))
            else:
                targets.append((Status.FAILED, reason, _NO_DELAY))
        taken = await self._take_over(given, targets, who, rescued=True)
        failed = {seen.job_id for seen, (target, _, _) in zip(given, targets, strict=True) if target is Status.FAILED}
        return rescue_result(taken, failed)

    async def _classify_leased(
        self, rows: Sequence[Row], attempts_max: int, owner: str, before: TenantCursors
    ) -> LeaseBatch:
        """Reads what was leased; fails what cannot be read or has had all its attempts, which harms no other."""
        runs: list[PolicyRunJob] = []
        last: set[UUID] = set()
        unreadable: list[CorruptRow] = []
        exhausted: list[UUID] = []
        aside: list[tuple[StalledItem, str]] = []
        for row in rows:
            *columns, tries, _, _ = row
            key, version = UUID(int=row[0].int), columns[-1]
            sighting = StalledItem(key, row[1], version, row[7])
            try:
                run = run_from_row(columns)
            except CorruptRow as error:
                unreadable.append(error)
                aside.append((sighting, sanitize_error(str(error))))
                continue
            # No number is left for the attempt after the last that can be told of.
            if tries > attempts_max or run.attempts >= ATTEMPTS_MAX:
                exhausted.append(key)
                aside.append((sighting, _EXHAUSTED.format(attempts_max=attempts_max)))
                continue
            if tries == attempts_max:
                last.add(key)
            runs.append(run)
        if aside:
            await self._fail_rejected(aside, owner)
        emergency, others = tuple(rows[0])[-2:] if rows else (None, None)
        turns = TenantCursors(emergency or before.emergency, others or before.others)
        return LeaseBatch(tuple(runs), frozenset(last), tuple(exhausted), tuple(unreadable), turns)

    async def _fail_rejected(self, rejected: Sequence[tuple[StalledItem, str]], owner: str) -> None:
        """Fails what was leased and is not to be dispatched, so that it neither stays nor comes again."""
        targets = [(Status.FAILED, reason, _NO_DELAY) for _, reason in rejected]
        try:
            await self._take_over([sighting for sighting, _ in rejected], targets, owner)
        except GraphJobsError:
            if isinstance(self._executor, SessionExecutor):
                raise  # the caller's transaction is broken, and nothing was taken
            # What can be dispatched must not be lost for it; a rescue will fail these.
            _log.warning("%s policy runs that cannot be dispatched were leased, and not failed yet", len(rejected))

    async def _take_over(
        self,
        stalled: Sequence[StalledItem],
        targets: Sequence[tuple[PolicyRunStatus, str, timedelta]],
        actor: str | None,
        *,
        rescued: bool = False,
    ) -> tuple[UUID, ...]:
        if not stalled:
            return ()
        named = uuid7()
        params = take_over_params(stalled, targets, named, actor, rescued=rescued)
        return tuple(
            versions_by_id(
                await run_transition(self._executor, finish.TAKE_OVER_RUNS, finish.FIND_TRANSITIONED, params, named)
            )
        )

    async def _find_leased(self, params: Mapping[str, object], transition_id: UUID) -> Sequence[Row] | None:
        """Looks for the runs of a lease whose answer was lost."""
        return (
            await self._executor.fetch_all(acquire.FIND_LEASED_RUNS, {**params, "p_transition_id": str(transition_id)})
            or None
        )

    async def _find_states(self, missing: Sequence[PolicyRunJob]) -> dict[UUID, str | None]:
        rows = await self._executor.fetch_all(finish.GET_STATES, key_params((job.id, job.tenant_id) for job in missing))
        found = {(UUID(int=row[0].int), row[1]): tuple(row)[2:] for row in rows}
        states = [(job, found.get((job.id, job.tenant_id))) for job in missing]
        held = Status.DISPATCHING.code
        return {
            job.id: None if state == (held, job.attempts, job.lease_owner) else _explain_lost(job, state)
            for job, state in states
        }


def _cursor_params(turns: TenantCursors) -> dict[str, object]:
    return {
        "p_after_emergency_tenant_id": check_stored_tenant(turns.emergency, "after.emergency"),
        "p_after_tenant_id": check_stored_tenant(turns.others, "after.others"),
    }


def _explain_lost(job: PolicyRunJob, state: tuple[object, ...] | None) -> str:
    if state is None:
        return f"tenant {job.tenant_id!r} has no such run"
    code, attempts, owner = state
    status = Status.from_code(code)  # type: ignore[arg-type]  # the table's check
    whose = f", of {owner!r}" if owner is not None else ""
    return (
        f"the lease of {job.lease_owner!r} at attempt {job.attempts} is over: a later look found the run {status} at "
        f"attempt {attempts}{whose}"
    )
