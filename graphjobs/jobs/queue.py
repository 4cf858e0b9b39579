"""The queue of graph jobs: claims, heartbeats, endings and rescues, many jobs in one statement each."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import override
from uuid_utils.compat import uuid7

from graphjobs.database.executor import Executor, Row, find_out
from graphjobs.errors import CorruptRow, DatabaseUnavailable, GraphJobsError, InvalidJob, OutcomeUnknown
from graphjobs.jobs import batches, claims
from graphjobs.jobs.binds import (
    BATCH_MAX,
    actor_of,
    endings_of,
    ends_of,
    jobs_of,
    keys_of,
    kind_of,
    listed_name,
    renewal_of,
    shares_of,
    sightings_of,
    silence_of,
    takings_of,
    tenants_of,
)
from graphjobs.jobs.endings import Claimed, Ended, Ending, Renewed, Rescued, Sighting, entry_of
from graphjobs.jobs.models import ATTEMPTS_MAX
from graphjobs.jobs.moves import transition_named
from graphjobs.jobs.notices import send_notice
from graphjobs.jobs.rows import AnyJob, any_job_of, status_of
from graphjobs.jobs.status import GraphJobStatus, GraphJobType
from graphjobs.values import require_limit, require_name

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

    async def renew(self, jobs: Iterable[AnyJob]) -> Renewed:
        """Tells that up to 1,000 running jobs are alive: raises their versions, changes and logs nothing else."""
        ...

    async def end(
        self, endings: Iterable[Ending], *, actor: str | None = None, transition_id: UUID | None = None
    ) -> Ended:
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
    ) -> tuple[tuple[Sighting, ...], str]:
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

    async def rescue(self, sightings: Iterable[Sighting], *, attempts_max: int, actor: str | None = None) -> Rescued:
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
            "after_tenant": listed_name(after, "after"),
            "limit_rows": require_limit(limit, limit_max=BATCH_MAX),
        }
        return tuple(row[0] for row in await self._executor.rows(claims.TENANTS_WITH, params))

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
        code, most, who = kind_of(kind).code, require_limit(limit, limit_max=BATCH_MAX), actor_of(actor)
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
            rows = await self._executor.rows(claims.CLAIM_JOBS, {**whose, "entry": entry})
        except OutcomeUnknown as lost:
            rows = await find_out(lost, self._executor, lambda: self._taken(whose, named))
        jobs, strange = _read(rows)
        if strange:
            await self._set_aside(strange, who)
        return Claimed(tuple(jobs), tuple(error for _, error in strange), served[-1])

    @override
    async def renew(self, jobs: Iterable[AnyJob]) -> Renewed:
        held = jobs_of(jobs)
        if not held:
            return Renewed({}, frozenset())
        rows = await self._executor.rows(batches.RENEW_JOBS, renewal_of(held))
        found = _versions_of(rows)
        lost = frozenset(job.id for job in held if job.id not in found)
        return Renewed({job_id: version for job_id, version in found.items() if version is not None}, lost)

    @override
    async def end(
        self, endings: Iterable[Ending], *, actor: str | None = None, transition_id: UUID | None = None
    ) -> Ended:
        given, who, named = endings_of(endings), actor_of(actor), transition_named(transition_id)
        if not given:
            return Ended({}, {})
        params = ends_of(given, named, who)
        statement = batches.END_JOBS_AND_ADD if "parents" in params else batches.END_JOBS
        try:
            rows = await self._executor.rows(statement, params)
        except OutcomeUnknown as lost:
            rows = await find_out(lost, self._executor, lambda: self._moved(params, named))
        versions = _versions_of(rows)
        queued = any(ending.status is _S.QUEUED or ending.following for ending in given)
        await send_notice(self._executor, wanted=self._notify and queued)
        missing = [ending.job for ending in given if ending.job.id not in versions]
        if not missing:
            return Ended(versions, {})
        try:
            # Asked before with this id, it may have ended them then.
            earlier = await self._moved(params, named) if transition_id is not None else None
            return await self._with_the_missing({**versions, **_versions_of(earlier or ())}, missing)
        except DatabaseUnavailable as error:
            unsure = str(error)
        # Not "nothing was changed", as that would say.
        raise OutcomeUnknown(f"some have ended, and what became of the others could not be looked up: {unsure}")

    @override
    async def stalled(
        self,
        tenant_id: str | None,
        kind: GraphJobType | str,
        *,
        silence: timedelta,
        after: str = "",
        limit: int = BATCH_MAX,
    ) -> tuple[tuple[Sighting, ...], str]:
        code, most, quiet = kind_of(kind).code, require_limit(limit, limit_max=BATCH_MAX), silence_of(silence)
        if tenant_id is None:
            looked_at = await self.tenants_with(kind, _S.RUNNING, after=after, limit=most)
        else:
            looked_at = (require_name(tenant_id, "tenant_id"),)
        if not looked_at:
            return (), after
        params = {**shares_of(looked_at, most), "kind": code, "silence": quiet}
        rows = await self._executor.rows(claims.STALLED_JOBS, params)
        return tuple(Sighting(UUID(int=row[0].int), *list(row)[1:]) for row in rows), looked_at[-1]

    @override
    async def rescue(self, sightings: Iterable[Sighting], *, attempts_max: int, actor: str | None = None) -> Rescued:
        if isinstance(attempts_max, bool) or not isinstance(attempts_max, int) or not 1 <= attempts_max <= ATTEMPTS_MAX:
            raise InvalidJob(
                f"attempts_max: it should be a whole number from 1 to {ATTEMPTS_MAX}", field="attempts_max"
            )
        given, who = sightings_of(sightings), actor_of(actor)
        reasons = [_no_attempt_left(sighting, attempts_max) for sighting in given]
        taken = await self._take(given, reasons, who, rescued=True)
        await send_notice(self._executor, wanted=self._notify and None in reasons)
        failed = {sighting.job_id for sighting, reason in zip(given, reasons, strict=True) if reason is not None}
        return Rescued(
            tuple(job_id for job_id in taken if job_id not in failed),
            tuple(job_id for job_id in taken if job_id in failed),
        )

    async def _take(
        self, sightings: Sequence[Sighting], reasons: Sequence[str | None], actor: str | None, *, rescued: bool = False
    ) -> tuple[UUID, ...]:
        """Takes jobs from whoever ran them, if they still are as they were seen: failed for a reason, else queued."""
        if not sightings:
            return ()
        named = uuid7()
        params = takings_of(sightings, reasons, named, actor, rescued=rescued)
        try:
            rows = await self._executor.rows(batches.TAKE_JOBS, params)
        except OutcomeUnknown as lost:
            rows = await find_out(lost, self._executor, lambda: self._moved(params, named))
        return tuple(_versions_of(rows))

    async def _set_aside(self, strange: Sequence[tuple[Sighting, CorruptRow]], actor: str | None) -> None:
        """Fails what was claimed and cannot be read, so that it neither runs for ever nor comes again."""
        try:
            await self._take([sighting for sighting, _ in strange], [str(error) for _, error in strange], actor)
        except GraphJobsError:
            # What could be read must not be lost for it; a rescue will fail these.
            _log.warning("%s jobs that cannot be read were claimed, and could not be failed yet", len(strange))

    async def _taken(self, whose: Mapping[str, object], named: UUID) -> Sequence[Row] | None:
        """Looks for the jobs of a claim whose answer was lost."""
        return await self._executor.rows(claims.FIND_CLAIM, {**whose, "transition": str(named)}) or None

    async def _moved(self, keys: Mapping[str, object], named: UUID) -> Sequence[Row] | None:
        """Looks for what a statement moved whose answer was lost."""
        return await self._executor.rows(batches.FIND_MOVES, {**keys, "transition": str(named)}) or None

    async def _with_the_missing(self, versions: Mapping[UUID, datetime], missing: Sequence[AnyJob]) -> Ended:
        """Tells jobs that were lost from those that only were somebody's for a moment, by a later look."""
        rows = await self._executor.rows(batches.STATES_OF, keys_of((job.id, job.tenant_id) for job in missing))
        found = {(UUID(int=row[0].int), row[1]): (row[2], row[3]) for row in rows}
        lost: dict[UUID, str] = {}
        for job in missing:
            state = found.get((job.id, job.tenant_id))
            if job.id not in versions and state != (_S.RUNNING.code, job.attempts):
                lost[job.id] = _whereabouts(job, state)
        told = {*versions, *lost}
        return Ended(versions, lost, frozenset(job.id for job in missing if job.id not in told))


def _versions_of(rows: Iterable[Row]) -> dict[UUID, datetime]:
    return {UUID(int=row[0].int): row[1] for row in rows}


def _read(rows: Iterable[Row]) -> tuple[list[AnyJob], list[tuple[Sighting, CorruptRow]]]:
    """Reads what was claimed; what cannot be read harms no other."""
    jobs: list[AnyJob] = []
    strange: list[tuple[Sighting, CorruptRow]] = []
    for row in rows:
        try:
            jobs.append(any_job_of(row))
        except CorruptRow as error:
            strange.append((Sighting(UUID(int=row[0].int), row[1], row[6], None), error))
    return jobs, strange


def _no_attempt_left(sighting: Sighting, attempts_max: int) -> str | None:
    """Says why a job fails that gave no sign of life; None where it may be tried again."""
    if sighting.attempts is None:
        return "its worker gave no sign of life, and its row does not tell the attempt, so it cannot be tried again"
    if sighting.attempts - sighting.given_back < attempts_max:
        return None
    but = f", of which {sighting.given_back} were given back in order" if sighting.given_back else ""
    return (
        f"its worker gave no sign of life at attempt {sighting.attempts}{but}, and {attempts_max} are the most it gets"
    )


def _whereabouts(job: AnyJob, state: tuple[int, int | None] | None) -> str:
    if state is None:
        return f"tenant {job.tenant_id!r} has no such job"
    code, attempts = state
    try:
        status: str = GraphJobStatus.from_code(code)
    except ValueError:
        status = f"of status {code}, which is none"
    return f"attempt {job.attempts} does not run any more: a later look found the job {status} at attempt {attempts}"
