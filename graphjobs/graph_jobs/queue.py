"""The queue of graph jobs: claims, heartbeats, ends and rescues, many jobs in one statement each."""

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
from graphjobs.core.queue_flow import QueueFlow, split_apart, stalled_from_rows, versions_by_id
from graphjobs.core.results import FinishResult, HeartbeatResult, RescueResult, StalledItem, exhausted_reason
from graphjobs.core.transitions import ensure_transition_id, event_payload
from graphjobs.core.validation import (
    BATCH_MAX,
    check_actor,
    check_apart_after,
    check_attempts_max,
    check_duration,
    check_stalled,
    check_stored_tenant,
    parse_member,
)
from graphjobs.database.executor import Executor
from graphjobs.errors import CorruptRow
from graphjobs.graph_jobs.attempt_results import AttemptResult, ClaimResult
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.graph_jobs.params import (
    check_jobs,
    check_results,
    check_tenants,
    finish_params,
    heartbeat_params,
    take_over_params,
    tenant_share_params,
)
from graphjobs.graph_jobs.row_mapping import JobColumns, any_job_from_row
from graphjobs.graph_jobs.sql import acquire, finish
from graphjobs.graph_jobs.sql.stalled import LIST_STALLED_JOBS, LIST_STALLED_JOBS_OF_TENANT
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

_NAMED_MAX: Final = 5

Status = GraphJobStatus


class GraphJobQueue:
    """Claims queued jobs for workers, and takes them back. Every transition writes its event in the same statement.

    Every method raises `InvalidJob` for an invalid argument, before any SQL, and `DatabaseUnavailable` or
    `SchemaOutOfDate` as the executor does. All times are the database's. `actor` is recorded in the events.

    Args:
        executor: runs the statements.
        notify: whether to notify listening workers of queued jobs, in one more statement.
    """

    def __init__(self, executor: Executor, *, notify: bool = False) -> None:
        self._executor = executor
        self._notify = notify
        self._flow: QueueFlow[AnyJob] = QueueFlow(
            executor, finish.TAKE_OVER_JOBS, finish.FIND_TRANSITIONED, finish.GET_STATES, _explain_lost
        )

    def using(self, session: AsyncSession) -> Self:
        """Return the queue inside the caller's transaction, which commits or rolls back with the rest."""
        return type(self)(self._executor.using(session), notify=self._notify)

    async def tenants_with(
        self,
        kind: GraphJobType | str,
        status: GraphJobStatus | str = Status.QUEUED,
        *,
        after: str = "",
        limit: int = BATCH_MAX,
    ) -> tuple[str, ...]:
        """List the tenants that have jobs of a type in a status. This is the only read across tenants.

        Args:
            kind: build or overlay.
            status: the status.
            after: the tenant to begin after; the list wraps around, and ends with this one.
            limit: the most tenants, 1 to 1,000.
        """
        params = {
            "p_type": parse_member(GraphJobType, kind, "kind").code,
            "p_status": parse_member(GraphJobStatus, status, "status").code,
            "p_after_tenant_id": check_stored_tenant(after, "after"),
            "p_limit": check_limit(limit, limit_max=BATCH_MAX),
        }
        rows = await self._executor.fetch_all(acquire.LIST_TENANTS_WITH_STATUS, params)
        return tuple(tenant_id for (tenant_id,) in rows)

    async def claim(
        self,
        tenants: str | Iterable[str] | None,
        kind: GraphJobType | str,
        *,
        limit: int,
        after: str = "",
        actor: str | None = None,
        apart_after: int | None = None,
    ) -> ClaimResult:
        """Start the oldest queued jobs, each at its next attempt.

        No two claims take the same job, and no claim waits for another. The oldest jobs of a tenant are taken first, in
        any order where `created_at` is equal. Several tenants get equal shares of `limit`, so a claim may take fewer
        jobs than are queued. A claim over all tenants serves them in turns by a cursor: with T tenants waiting, each is
        served within ceil(T / limit) claims.

        Args:
            tenants: one tenant, or several, at most `limit`, as `tenants_with` lists them; None means all.
            kind: build or overlay.
            limit: the most jobs to take, 1 to 1,000.
            after: the `cursor` of the claim before, for a claim over all tenants.
            actor: who claims.
            apart_after: a job that has lost so many attempts (1 to 99,999) is left, to be claimed and run alone: what
                it runs beside may be what ends the process. None leaves no job.

        Raises:
            DatabaseUnavailable: nothing was taken.
            OutcomeUnknown: the connection was lost, and it is unknown what was taken. A rescue will release it.
        """
        code, limit, actor = (
            parse_member(GraphJobType, kind, "kind").code,
            check_limit(limit, limit_max=BATCH_MAX),
            check_actor(actor),
        )
        if tenants is None:
            served = await self.tenants_with(kind, after=after, limit=limit)
        else:
            served = check_tenants(tenants, limit)
        if not served:
            return ClaimResult((), cursor=after)
        transition_id = uuid7()
        params = {
            **tenant_share_params(served, limit),
            "p_type": code,
            "p_event_payload": event_payload(Status.QUEUED, Status.RUNNING, transition_id, actor),
            "p_apart_after": check_apart_after(apart_after),
        }
        rows, lost = await self._flow.acquire(acquire.CLAIM_JOBS, acquire.FIND_CLAIMED_JOBS, params, transition_id)
        apart, rows = split_apart(rows)
        jobs, rejected = _split_unreadable(rows)
        if rejected:
            await self._fail_unreadable(rejected, actor)
        return ClaimResult(tuple(jobs), tuple(error for _, error in rejected), served[-1], lost, apart)

    async def renew(self, jobs: Iterable[AnyJob]) -> HeartbeatResult:
        """Send the heartbeat of up to 1,000 running jobs: it raises their versions, and writes nothing else."""
        running = check_jobs(jobs)
        if not running:
            return HeartbeatResult({}, frozenset())
        versions = versions_by_id(await self._executor.fetch_all(finish.RENEW_JOBS, heartbeat_params(running)))
        lost = frozenset(job.id for job in running if job.id not in versions)
        # A NULL version is that of a job with a row that another transaction holds.
        return HeartbeatResult({job_id: version for job_id, version in versions.items() if version is not None}, lost)

    async def end(
        self, results: Iterable[AttemptResult], *, actor: str | None = None, transition_id: UUID | None = None
    ) -> FinishResult:
        """Finish up to 1,000 attempts as completed, failed or released, with their follow-up jobs, in one statement.

        The statement is fenced: a job that no longer runs at the given attempt is not changed, and reported as lost. It
        waits for no lock: a job with a row that another transaction holds is reported as busy. A followup is left out
        if another job of the tenant has its id; if a job of another tenant has it, its parent is not finished, and
        reported as refused. The same call with the same transition id finishes nothing twice, and returns the same.

        Args:
            results: the results of the attempts.
            actor: who finishes them.
            transition_id: identifies these transitions; None means a new id.

        Raises:
            DatabaseUnavailable: nothing was changed.
            OutcomeUnknown: the connection was lost, and it is unknown whether the attempts were finished.
        """
        finished, actor = check_results(results), check_actor(actor)
        own_id = ensure_transition_id(transition_id)
        if not finished:
            return FinishResult({}, {})
        params = finish_params(finished, own_id, actor)
        statement = finish.FINISH_JOBS_WITH_FOLLOWUPS if "p_parent_ids" in params else finish.FINISH_JOBS
        versions = await self._flow.write(statement, params, own_id)
        # A job with a followup that can never be added has no version.
        refused = {
            result.job.id: _explain_refused(result) for result in finished if versions.get(result.job.id, 0) is None
        }
        queued = any(result.status is Status.QUEUED or result.followups for result in finished)
        await notify_queued(self._executor, enabled=self._notify and queued)
        stored = {job_id: version for job_id, version in versions.items() if job_id not in refused}
        others = [result.job for result in finished if result.job.id not in refused]
        resolved = await self._flow.resolve_missing(others, params, stored, transition_id)
        return replace(resolved, refused=refused)

    async def stalled(
        self,
        tenant_id: str | None,
        kind: GraphJobType | str,
        *,
        lease: timedelta,
        after: str = "",
        limit: int = BATCH_MAX,
    ) -> tuple[tuple[StalledItem, ...], str]:
        """Read a part of the running jobs, and list those without a heartbeat for the length of a lease.

        That alone does not show that a worker has died: no worker can send heartbeats while the database is away. List
        them, wait for longer than a heartbeat, and pass them to `rescue`, which takes those that have not changed.

        Args:
            tenant_id: the tenant; None means all.
            kind: build or overlay.
            lease: the time without a heartbeat, up to a day, by the database's clock.
            after: the cursor of the call before; empty begins.
            limit: how many running jobs to read, and of how many tenants, 1 to 1,000; a few more of equal times.

        Returns:
            The stalled jobs, and the cursor to continue after; it is empty where all running jobs were read.
        """
        position = parse_scan_cursor(after)
        params = {
            "p_type": parse_member(GraphJobType, kind, "kind").code,
            "p_lease": check_duration(lease, "lease"),
            "p_limit": check_limit(limit, limit_max=BATCH_MAX),
            "p_after_created_at": position.at,
        }
        if tenant_id is None:
            statement, params["p_after_tenant_id"] = LIST_STALLED_JOBS, position.tenant_id
        else:
            statement, params["p_tenant_id"] = LIST_STALLED_JOBS_OF_TENANT, check_name(tenant_id, "tenant_id")
        rows = await self._executor.fetch_all(statement, params)
        tenant, last, *_ = rows[0]
        return stalled_from_rows(item for _, _, *item in rows), scan_cursor(tenant, last)

    async def rescue(
        self, stalled: Iterable[StalledItem], *, attempts_max: int, actor: str | None = None
    ) -> RescueResult:
        """Queue up to 1,000 stalled jobs again that have not changed since; fail those without an attempt left.

        A job that was renewed, finished or claimed since is not touched, nor one with a locked row.

        Args:
            stalled: the items that `stalled` returned.
            attempts_max: the most attempts of a job, 1 to 99,999; attempts that were released in order do not count.
            actor: who rescues.
        """
        attempts_max, items, actor = check_attempts_max(attempts_max), check_stalled(stalled), check_actor(actor)
        reasons = [exhausted_reason(item, attempts_max) for item in items]
        transition_id = uuid7()
        params = take_over_params(items, reasons, transition_id, actor, rescued=True)
        failed = {item.job_id for item, reason in zip(items, reasons, strict=True) if reason is not None}
        result = await self._flow.rescue(items, params, transition_id, failed)
        await notify_queued(self._executor, enabled=self._notify and None in reasons)
        return result

    async def _fail_unreadable(self, rejected: Sequence[tuple[StalledItem, CorruptRow]], actor: str | None) -> None:
        transition_id = uuid7()
        items, reasons = [item for item, _ in rejected], [str(error) for _, error in rejected]
        params = take_over_params(items, reasons, transition_id, actor)
        await self._flow.fail_rejected(params, transition_id, len(rejected), "unreadable graph jobs")


def _split_unreadable(rows: Iterable[Sequence[Any]]) -> tuple[list[AnyJob], list[tuple[StalledItem, CorruptRow]]]:
    """Read claimed rows; return the jobs, and the unreadable rows, which harm no other."""
    jobs: list[AnyJob] = []
    rejected: list[tuple[StalledItem, CorruptRow]] = []
    for row in rows:
        try:
            jobs.append(any_job_from_row(row))
        except CorruptRow as error:
            columns = JobColumns(*row)
            item = StalledItem(as_uuid(columns.id), columns.tenant_id, columns.updated_at, None)
            rejected.append((item, error))
    return jobs, rejected


def _explain_refused(result: AttemptResult) -> str:
    ids = ", ".join(str(followup.id) for followup in result.followups[:_NAMED_MAX])
    more = "" if len(result.followups) <= _NAMED_MAX else f" and {len(result.followups) - _NAMED_MAX} more"
    return f"the id of a followup is taken, so neither is stored: {ids}{more}"


def _explain_lost(job: AnyJob, state: tuple[Any, ...] | None) -> str | None:
    if state is None:
        return f"tenant {job.tenant_id!r} has no such job"
    code, attempts = state
    if (code, attempts) == (Status.RUNNING.code, job.attempts):
        return None
    try:
        status: str = Status.from_code(code)
    except ValueError:
        status = f"with the unknown status {code}"
    return f"attempt {job.attempts} no longer runs: a later read found the job {status} at attempt {attempts}"
