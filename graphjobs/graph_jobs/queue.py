"""The queue of graph jobs: claims, heartbeats, endings and rescues, many jobs in one statement each."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import override
from uuid_utils.compat import uuid7

from graphjobs.core.fields import require_limit, require_name
from graphjobs.core.notifications import send_notice
from graphjobs.core.recovery import moved, rescued_of, sighted, versions_of, with_the_missing
from graphjobs.core.results import (
    BATCH_MAX,
    FinishResult,
    HeartbeatResult,
    RescueResult,
    StalledItem,
    check_actor,
    key_params,
    check_stored_tenant,
    exhausted_reason,
    check_attempts_max,
    check_wait,
    check_stalled,
)
from graphjobs.core.transitions import entry_of, transition_named
from graphjobs.database.executor import Executor, InSession, Row, find_out
from graphjobs.errors import CorruptRow, GraphJobsError, OutcomeUnknown
from graphjobs.graph_jobs.attempt_results import Claimed, Ending
from graphjobs.graph_jobs.params import (
    endings_of,
    ends_of,
    jobs_of,
    kind_of,
    renewal_of,
    shares_of,
    takings_of,
    tenants_of,
)
from graphjobs.graph_jobs.row_mapping import AnyJob, any_job_of, status_of
from graphjobs.graph_jobs.sql import acquire, finish
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

_S = GraphJobStatus
_log = logging.getLogger(__name__)


class GraphJobQueue(Protocol):
    """Hands queued jobs to workers, and takes them back. Whatever moves a job writes its event in the same statement.

    Every method raises `InvalidJob` for an argument that cannot be, before any SQL, and `DatabaseUnavailable` or
    `SchemaOutOfDate` as the executor does. No method takes a time from its caller's clock. `actor` is who does it, for
    the events.
    """

    async def tenants_with(
        self,
        kind: GraphJobType | str,
        status: GraphJobStatus | str = GraphJobStatus.QUEUED,
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
        ...

    async def claim(
        self,
        tenants: str | Iterable[str] | None,
        kind: GraphJobType | str,
        *,
        limit: int,
        after: str = "",
        actor: str | None = None,
    ) -> Claimed:
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
        ...

    async def renew(self, jobs: Iterable[AnyJob]) -> HeartbeatResult:
        """Tells that up to 1,000 running jobs are alive: raises their versions, changes and logs nothing else."""
        ...

    async def end(
        self, endings: Iterable[Ending], *, actor: str | None = None, transition_id: UUID | None = None
    ) -> FinishResult:
        """Ends up to 1,000 attempts: completed, failed or given back, as one statement, with what follows from them.

        Fenced: a job that no longer runs at the attempt given is left as it is, and told as lost. It waits for nobody:
        a job whose row somebody else has at the moment is told as busy. The same call made again with the same
        transition id ends nothing twice, and answers the same.

        Args:
            endings: how they end.
            actor: who ends them.
            transition_id: names these very moves; one is made if none is given.

        Raises:
            DatabaseUnavailable: nothing was changed.
            OutcomeUnknown: the connection was lost, and it could not be found out whether they ended.
        """
        ...

    async def stalled(
        self,
        tenant_id: str | None,
        kind: GraphJobType | str,
        *,
        silence: timedelta,
        after: str = "",
        limit: int = BATCH_MAX,
    ) -> tuple[tuple[StalledItem, ...], str]:
        """Lists running jobs that have given no sign of life for so long, by the database's clock.

        That alone does not tell that a worker has died: nobody could renew while the database was away. See them, wait
        for longer than a heartbeat, and give them to `rescue`, which takes those that have not moved since.

        Args:
            tenant_id: whose jobs; None means everybody's.
            kind: build or overlay.
            silence: how long, up to a day.
            after: the cursor of the call before.
            limit: the most jobs, and the most tenants to look at.

        Returns:
            What was seen, and the cursor to go on after.
        """
        ...

    async def rescue(self, sightings: Iterable[StalledItem], *, attempts_max: int, actor: str | None = None) -> RescueResult:
        """Queues up to 1,000 jobs again that are still as they were seen; those of too many attempts are failed.

        A job that was renewed, ended or claimed since is not touched, nor one whose row somebody holds.

        Args:
            sightings: what `stalled` gave.
            attempts_max: a job that has had so many attempts fails, 1 to 99,999; those that were given back in order do
                not count.
            actor: who rescues.
        """
        ...

    def using(self, session: AsyncSession) -> Self:
        """Gives the queue inside the caller's transaction, which commits or vanishes with the rest."""
        ...


class PostgresGraphJobQueue(GraphJobQueue):
    """`GraphJobQueue` on PostgreSQL, by whatever executor it is given: `storage.database`, or a session's.

    Args:
        executor: runs the statements.
        notify: whether listening workers are told of what is queued, in a statement more.
    """

    def __init__(self, executor: Executor, *, notify: bool = False) -> None:
        self._executor = executor
        self._notify = notify

    @override
    def using(self, session: AsyncSession) -> Self:
        return type(self)(self._executor.using(session), notify=self._notify)

    @override
    async def tenants_with(
        self,
        kind: GraphJobType | str,
        status: GraphJobStatus | str = GraphJobStatus.QUEUED,
        *,
        after: str = "",
        limit: int = BATCH_MAX,
    ) -> tuple[str, ...]:
        params = {
            "kind": kind_of(kind).code,
            "expected": status_of(status, "status").code,
            "after_tenant": check_stored_tenant(after, "after"),
            "limit_rows": require_limit(limit, limit_max=BATCH_MAX),
        }
        return tuple(row[0] for row in await self._executor.rows(acquire.TENANTS_WITH, params))

    @override
    async def claim(
        self,
        tenants: str | Iterable[str] | None,
        kind: GraphJobType | str,
        *,
        limit: int,
        after: str = "",
        actor: str | None = None,
    ) -> Claimed:
        code, most, who = kind_of(kind).code, require_limit(limit, limit_max=BATCH_MAX), check_actor(actor)
        if tenants is None:
            served = await self.tenants_with(kind, after=after, limit=most)
        else:
            served = tenants_of(tenants, most)
        if not served:
            return Claimed((), cursor=after)
        named = uuid7()
        whose = {**shares_of(served, most), "kind": code}
        entry = entry_of(_S.QUEUED, _S.RUNNING, named, who)
        try:
            rows = await self._executor.rows(acquire.CLAIM_JOBS, {**whose, "entry": entry})
        except OutcomeUnknown as lost:
            rows = await find_out(lost, self._executor, lambda: self._taken(whose, named))
        jobs, strange = _read(rows)
        if strange:
            await self._set_aside(strange, who)
        return Claimed(tuple(jobs), tuple(error for _, error in strange), served[-1])

    @override
    async def renew(self, jobs: Iterable[AnyJob]) -> HeartbeatResult:
        held = jobs_of(jobs)
        if not held:
            return HeartbeatResult({}, frozenset())
        rows = await self._executor.rows(finish.RENEW_JOBS, renewal_of(held))
        found = versions_of(rows)
        lost = frozenset(job.id for job in held if job.id not in found)
        return HeartbeatResult({job_id: version for job_id, version in found.items() if version is not None}, lost)

    @override
    async def end(
        self, endings: Iterable[Ending], *, actor: str | None = None, transition_id: UUID | None = None
    ) -> FinishResult:
        given, who, named = endings_of(endings), check_actor(actor), transition_named(transition_id)
        if not given:
            return FinishResult({}, {})
        params = ends_of(given, named, who)
        statement = finish.END_JOBS_AND_ADD if "parents" in params else finish.END_JOBS
        rows = await moved(self._executor, statement, finish.FIND_MOVES, params, named)
        versions = versions_of(rows)
        queued = any(ending.status is _S.QUEUED or ending.following for ending in given)
        await send_notice(self._executor, wanted=self._notify and queued)
        missing = [ending.job for ending in given if ending.job.id not in versions]
        return await with_the_missing(
            self._executor,
            finish.FIND_MOVES,
            params,
            transition_id,
            versions,
            [job.id for job in missing],
            lambda: self._whereabouts(missing),
        )

    @override
    async def stalled(
        self,
        tenant_id: str | None,
        kind: GraphJobType | str,
        *,
        silence: timedelta,
        after: str = "",
        limit: int = BATCH_MAX,
    ) -> tuple[tuple[StalledItem, ...], str]:
        code, most, quiet = (
            kind_of(kind).code,
            require_limit(limit, limit_max=BATCH_MAX),
            check_wait(silence, "silence"),
        )
        if tenant_id is None:
            looked_at = await self.tenants_with(kind, _S.RUNNING, after=after, limit=most)
        else:
            looked_at = (require_name(tenant_id, "tenant_id"),)
        if not looked_at:
            return (), after
        params = {**shares_of(looked_at, most), "kind": code, "silence": quiet}
        rows = await self._executor.rows(acquire.STALLED_JOBS, params)
        return sighted(rows), looked_at[-1]

    @override
    async def rescue(self, sightings: Iterable[StalledItem], *, attempts_max: int, actor: str | None = None) -> RescueResult:
        most = check_attempts_max(attempts_max)
        given, who = check_stalled(sightings), check_actor(actor)
        reasons = [exhausted_reason(sighting, most) for sighting in given]
        taken = await self._take(given, reasons, who, rescued=True)
        await send_notice(self._executor, wanted=self._notify and None in reasons)
        return rescued_of(
            taken, {seen.job_id for seen, reason in zip(given, reasons, strict=True) if reason is not None}
        )

    async def _take(
        self, sightings: Sequence[StalledItem], reasons: Sequence[str | None], actor: str | None, *, rescued: bool = False
    ) -> tuple[UUID, ...]:
        """Takes jobs from whoever ran them, if they still are as they were seen: failed for a reason, else queued."""
        if not sightings:
            return ()
        named = uuid7()
        params = takings_of(sightings, reasons, named, actor, rescued=rescued)
        rows = await moved(self._executor, finish.TAKE_JOBS, finish.FIND_MOVES, params, named)
        return tuple(versions_of(rows))

    async def _set_aside(self, strange: Sequence[tuple[StalledItem, CorruptRow]], actor: str | None) -> None:
        """Fails what was claimed and cannot be read, so that it neither runs for ever nor comes again."""
        try:
            await self._take([sighting for sighting, _ in strange], [str(error) for _, error in strange], actor)
        except GraphJobsError:
            if isinstance(self._executor, InSession):
                raise  # the caller's transaction is broken, and nothing was taken
            # What could be read must not be lost for it; a rescue will fail these.
            _log.warning("%s jobs that cannot be read were claimed, and could not be failed yet", len(strange))

    async def _taken(self, whose: Mapping[str, object], named: UUID) -> Sequence[Row] | None:
        """Looks for the jobs of a claim whose answer was lost."""
        return await self._executor.rows(acquire.FIND_CLAIM, {**whose, "transition": str(named)}) or None

    async def _whereabouts(self, missing: Sequence[AnyJob]) -> dict[UUID, str | None]:
        rows = await self._executor.rows(finish.STATES_OF, key_params((job.id, job.tenant_id) for job in missing))
        found = {(UUID(int=row[0].int), row[1]): (row[2], row[3]) for row in rows}
        running = _S.RUNNING.code
        states = [(job, found.get((job.id, job.tenant_id))) for job in missing]
        return {job.id: None if state == (running, job.attempts) else _whereabouts(job, state) for job, state in states}


def _read(rows: Iterable[Row]) -> tuple[list[AnyJob], list[tuple[StalledItem, CorruptRow]]]:
    """Reads what was claimed; what cannot be read harms no other."""
    jobs: list[AnyJob] = []
    strange: list[tuple[StalledItem, CorruptRow]] = []
    for row in rows:
        try:
            jobs.append(any_job_of(row))
        except CorruptRow as error:
            strange.append((StalledItem(UUID(int=row[0].int), row[1], row[6], None), error))
    return jobs, strange


def _whereabouts(job: AnyJob, state: tuple[int, int | None] | None) -> str:
    if state is None:
        return f"tenant {job.tenant_id!r} has no such job"
    code, attempts = state
    try:
        status: str = GraphJobStatus.from_code(code)
    except ValueError:
        status = f"of status {code}, which is none"
    return f"attempt {job.attempts} does not run any more: a later look found the job {status} at attempt {attempts}"
