"""The queue of graph jobs: claims, heartbeats, endings and rescues, many jobs in one statement each."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from graphjobs.core.fields import check_limit, check_name
from graphjobs.core.notifications import notify_queued
from graphjobs.core.recovery import rescue_result, resolve_missing, run_transition, stalled_from_rows, versions_by_id
from graphjobs.core.results import (
    BATCH_MAX,
    FinishResult,
    HeartbeatResult,
    RescueResult,
    StalledItem,
    check_actor,
    check_attempts_max,
    check_stalled,
    check_stored_tenant,
    check_wait,
    exhausted_reason,
    key_params,
)
from graphjobs.core.transitions import ensure_transition_id, event_payload
from graphjobs.database.executor import Executor, Row, SessionExecutor, resolve_outcome
from graphjobs.errors import CorruptRow, GraphJobsError, OutcomeUnknown
from graphjobs.graph_jobs.attempt_results import AttemptResult, ClaimResult
from graphjobs.graph_jobs.params import (
    check_jobs,
    check_results,
    check_tenants,
    finish_params,
    heartbeat_params,
    parse_type,
    take_over_params,
    tenant_share_params,
)
from graphjobs.graph_jobs.row_mapping import AnyJob, any_job_from_row, parse_status
from graphjobs.graph_jobs.sql import acquire, finish
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

Status = GraphJobStatus

_log = logging.getLogger(__name__)


class GraphJobQueue:
    """Hands queued jobs to workers, and takes them back. Whatever moves a job writes its event in the same statement.

    Every method raises `InvalidJob` for an argument that cannot be, before any SQL, and `DatabaseUnavailable` or
    `SchemaOutOfDate` as the executor does. No method takes a time from its caller's clock. `actor` is who does it, for
    the events.

    Args:
        executor: runs the statements.
        notify: whether listening workers are told of what is queued, in a statement more.
    """

    def __init__(self, executor: Executor, *, notify: bool = False) -> None:
        self._executor = executor
        self._notify = notify

    def using(self, session: AsyncSession) -> Self:
        """Gives the queue inside the caller's transaction, which commits or vanishes with the rest."""
        return type(self)(self._executor.using(session), notify=self._notify)

    async def tenants_with(
        self,
        kind: GraphJobType | str,
        status: GraphJobStatus | str = Status.QUEUED,
        *,
        after: str = "",
        limit: int = BATCH_MAX,
    ) -> tuple[str, ...]:
        """Lists tenants that have jobs of a kind in a status: the only read across tenants.

        Args:
            kind: build or overlay.
            status: the status.
            after: the tenant to begin after; the list goes on in a circle, and ends with this one.
            limit: the most tenants, 1 to 1,000.
        """
        params = {
            "p_type": parse_type(kind).code,
            "p_status": parse_status(status, "status").code,
            "p_after_tenant_id": check_stored_tenant(after, "after"),
            "p_limit": check_limit(limit, limit_max=BATCH_MAX),
        }
        return tuple(row[0] for row in await self._executor.fetch_all(acquire.LIST_TENANTS_WITH_STATUS, params))

    async def claim(
        self,
        tenants: str | Iterable[str] | None,
        kind: GraphJobType | str,
        *,
        limit: int,
        after: str = "",
        actor: str | None = None,
    ) -> ClaimResult:
        """Starts the oldest queued jobs: they run from now on, at one attempt more, and are the caller's.

        No two claims take the same job, and none waits for another. Of one tenant the oldest come first; of jobs that
        were created in the same microsecond any. Of many tenants each gets an equal share of `limit`, so a claim may
        take fewer than there are. Of all tenants those that have work get their turns from a cursor: with T of them
        waiting, each is served within ceil(T / limit) claims.

        Args:
            tenants: whose jobs; several, at most `limit`, as `tenants_with` lists them; None means everybody's.
            kind: build or overlay.
            limit: the most jobs to take, 1 to 1,000.
            after: the `cursor` of the claim before, where it is everybody's.
            actor: who claims.

        Raises:
            OutcomeUnknown: the connection was lost, and what was taken could not be found out; it will be rescued.
        """
        code, most, who = parse_type(kind).code, check_limit(limit, limit_max=BATCH_MAX), check_actor(actor)
        if tenants is None:
            served = await self.tenants_with(kind, after=after, limit=most)
        else:
            served = check_tenants(tenants, most)
        if not served:
            return ClaimResult((), cursor=after)
        named = uuid7()
        whose = {**tenant_share_params(served, most), "p_type": code}
        entry = event_payload(Status.QUEUED, Status.RUNNING, named, who)
        try:
            rows = await self._executor.fetch_all(acquire.CLAIM_JOBS, {**whose, "p_event_payload": entry})
        except OutcomeUnknown as lost:
            rows = await resolve_outcome(lost, self._executor, lambda: self._find_claimed(whose, named))
        jobs, strange = _split_unreadable(rows)
        if strange:
            await self._fail_unreadable(strange, who)
        return ClaimResult(tuple(jobs), tuple(error for _, error in strange), served[-1])

    async def renew(self, jobs: Iterable[AnyJob]) -> HeartbeatResult:
        """Tells that up to 1,000 running jobs are alive: raises their versions, changes and logs nothing else."""
        held = check_jobs(jobs)
        if not held:
            return HeartbeatResult({}, frozenset())
        rows = await self._executor.fetch_all(finish.RENEW_JOBS, heartbeat_params(held))
        found = versions_by_id(rows)
        lost = frozenset(job.id for job in held if job.id not in found)
        return HeartbeatResult({job_id: version for job_id, version in found.items() if version is not None}, lost)

    async def end(
        self, results: Iterable[AttemptResult], *, actor: str | None = None, transition_id: UUID | None = None
    ) -> FinishResult:
        """Ends up to 1,000 attempts: completed, failed or given back, as one statement, with what follows from them.

        Fenced: a job that no longer runs at the attempt given is left as it is, and told as lost. It waits for nobody:
        a job whose row somebody else has at the moment is told as busy. The same call made again with the same
        transition id ends nothing twice, and answers the same.

        Args:
            results: how they end.
            actor: who ends them.
            transition_id: names these very moves; one is made if none is given.

        Raises:
            DatabaseUnavailable: nothing was changed.
            OutcomeUnknown: the connection was lost, and it could not be found out whether they ended.
        """
        given, who, named = check_results(results), check_actor(actor), ensure_transition_id(transition_id)
        if not given:
            return FinishResult({}, {})
        params = finish_params(given, named, who)
        statement = finish.FINISH_JOBS_WITH_FOLLOWUPS if "p_parent_ids" in params else finish.FINISH_JOBS
        rows = await run_transition(self._executor, statement, finish.FIND_TRANSITIONED, params, named)
        versions = versions_by_id(rows)
        queued = any(ending.status is Status.QUEUED or ending.followups for ending in given)
        await notify_queued(self._executor, enabled=self._notify and queued)
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

    async def stalled(
        self,
        tenant_id: str | None,
        kind: GraphJobType | str,
        *,
        lease: timedelta,
        after: str = "",
        limit: int = BATCH_MAX,
    ) -> tuple[tuple[StalledItem, ...], str]:
        """Lists running jobs that have given no sign of life for so long, by the database's clock.

        That alone does not tell that a worker has died: nobody could renew while the database was away. See them, wait
        for longer than a heartbeat, and give them to `rescue`, which takes those that have not moved since.

        Args:
            tenant_id: whose jobs; None means everybody's.
            kind: build or overlay.
            lease: how long, up to a day.
            after: the cursor of the call before.
            limit: the most jobs, and the most tenants to look at.

        Returns:
            What was seen, and the cursor to go on after.
        """
        code, most, quiet = (
            parse_type(kind).code,
            check_limit(limit, limit_max=BATCH_MAX),
            check_wait(lease, "lease"),
        )
        if tenant_id is None:
            looked_at = await self.tenants_with(kind, Status.RUNNING, after=after, limit=most)
        else:
            looked_at = (check_name(tenant_id, "tenant_id"),)
        if not looked_at:
            return (), after
        params = {**tenant_share_params(looked_at, most), "p_type": code, "p_lease": quiet}
        rows = await self._executor.fetch_all(acquire.LIST_STALLED_JOBS, params)
        return stalled_from_rows(rows), looked_at[-1]

    async def rescue(
        self, stalled: Iterable[StalledItem], *, attempts_max: int, actor: str | None = None
    ) -> RescueResult:
        """Queues up to 1,000 jobs again that are still as they were seen; those of too many attempts are failed.

        A job that was renewed, ended or claimed since is not touched, nor one whose row somebody holds.

        Args:
            stalled: what `stalled` gave.
            attempts_max: a job that has had so many attempts fails, 1 to 99,999; those that were given back in order do
                not count.
            actor: who rescues.
        """
        most = check_attempts_max(attempts_max)
        given, who = check_stalled(stalled), check_actor(actor)
        reasons = [exhausted_reason(sighting, most) for sighting in given]
        taken = await self._take_over(given, reasons, who, rescued=True)
        await notify_queued(self._executor, enabled=self._notify and None in reasons)
        return rescue_result(
            taken, {seen.job_id for seen, reason in zip(given, reasons, strict=True) if reason is not None}
        )

    async def _take_over(
        self, stalled: Sequence[StalledItem], reasons: Sequence[str | None], actor: str | None, *, rescued: bool = False
    ) -> tuple[UUID, ...]:
        """Takes jobs from whoever ran them, if they still are as they were seen: failed for a reason, else queued."""
        if not stalled:
            return ()
        named = uuid7()
        params = take_over_params(stalled, reasons, named, actor, rescued=rescued)
        rows = await run_transition(self._executor, finish.TAKE_OVER_JOBS, finish.FIND_TRANSITIONED, params, named)
        return tuple(versions_by_id(rows))

    async def _fail_unreadable(self, unreadable: Sequence[tuple[StalledItem, CorruptRow]], actor: str | None) -> None:
        """Fails what was claimed and cannot be read, so that it neither runs for ever nor comes again."""
        try:
            await self._take_over(
                [sighting for sighting, _ in unreadable], [str(error) for _, error in unreadable], actor
            )
        except GraphJobsError:
            if isinstance(self._executor, SessionExecutor):
                raise  # the caller's transaction is broken, and nothing was taken
            # What could be read must not be lost for it; a rescue will fail these.
            _log.warning("%s jobs that cannot be read were claimed, and could not be failed yet", len(unreadable))

    async def _find_claimed(self, tenant_ids: Mapping[str, object], transition_id: UUID) -> Sequence[Row] | None:
        """Looks for the jobs of a claim whose answer was lost."""
        return (
            await self._executor.fetch_all(
                acquire.FIND_CLAIMED_JOBS, {**tenant_ids, "p_transition_id": str(transition_id)}
            )
            or None
        )

    async def _find_states(self, missing: Sequence[AnyJob]) -> dict[UUID, str | None]:
        rows = await self._executor.fetch_all(finish.GET_STATES, key_params((job.id, job.tenant_id) for job in missing))
        found = {(UUID(int=row[0].int), row[1]): (row[2], row[3]) for row in rows}
        running = Status.RUNNING.code
        states = [(job, found.get((job.id, job.tenant_id))) for job in missing]
        return {
            job.id: None if state == (running, job.attempts) else _explain_lost(job, state) for job, state in states
        }


def _split_unreadable(rows: Iterable[Row]) -> tuple[list[AnyJob], list[tuple[StalledItem, CorruptRow]]]:
    """Reads what was claimed; what cannot be read harms no other."""
    jobs: list[AnyJob] = []
    strange: list[tuple[StalledItem, CorruptRow]] = []
    for row in rows:
        try:
            jobs.append(any_job_from_row(row))
        except CorruptRow as error:
            strange.append((StalledItem(UUID(int=row[0].int), row[1], row[6], None), error))
    return jobs, strange


def _explain_lost(job: AnyJob, state: tuple[int, int | None] | None) -> str:
    if state is None:
        return f"tenant {job.tenant_id!r} has no such job"
    code, attempts = state
    try:
        status: str = Status.from_code(code)
    except ValueError:
        status = f"of status {code}, which is none"
    return f"attempt {job.attempts} does not run any more: a later look found the job {status} at attempt {attempts}"
