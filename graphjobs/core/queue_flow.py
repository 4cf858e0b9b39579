"""The flow of a queue, many items in one statement: acquire, finish, take over, fail rejected items, explain losses."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa

from graphjobs.core.fields import as_uuid
from graphjobs.core.recovery import LookupResult, confirm_replicated, resolve_outcome
from graphjobs.core.results import FinishResult, RescueResult, StalledItem
from graphjobs.core.update_flow import Identified
from graphjobs.database.executor import Executor, Params, Row, SessionExecutor
from graphjobs.errors import DatabaseUnavailable, GraphJobsError, OutcomeUnknown

KEY_ARRAYS: Final = (("p_job_ids", sa.Uuid, "job_id"), ("p_tenant_ids", sa.Text, "tenant_id"))
VERSION_ARRAY: Final = ("p_versions", sa.DateTime(timezone=True), "version")
"""The bind parameters, types and columns of `unnest_params` that both queues use."""

J = TypeVar("J", bound=Identified)

_log = logging.getLogger(__name__)


def versions_by_id(rows: Iterable[Row]) -> dict[UUID, datetime]:
    """Return the versions of written rows by id, from rows of id and version."""
    return {as_uuid(row[0]): row[1] for row in rows}


def split_apart(rows: Sequence[Sequence[Any]]) -> tuple[tuple[str, ...], list[Sequence[Any]]]:
    """Split the rows of a claim or lease into the tenants of what was left, the last column, and the rows it took."""
    apart = tuple(rows[0][-1] or ()) if rows else ()
    return apart, [row[:-1] for row in rows if row[0] is not None]


def stalled_from_rows(rows: Iterable[Iterable[Any]]) -> tuple[StalledItem, ...]:
    """Return stalled items from rows of id, tenant, version, attempts and released attempts; other rows have no id."""
    return tuple(StalledItem(as_uuid(job_id), *others) for job_id, *others in rows if job_id is not None)


def key_params(items: Iterable[Identified]) -> dict[str, object]:
    """Return the parameters that find items by id and tenant."""
    keys = [(item.id, item.tenant_id) for item in items]
    return {
        "p_job_ids": [job_id for job_id, _ in keys],
        "p_distinct_tenant_ids": sorted({tenant for _, tenant in keys}),
    }


def stalled_params(stalled: Sequence[StalledItem]) -> dict[str, object]:
    """Return the parameters that find stalled items by id, tenant and version."""
    return {
        "p_job_ids": [item.job_id for item in stalled],
        "p_distinct_tenant_ids": sorted({item.tenant_id for item in stalled}),
        "p_tenant_ids": [item.tenant_id for item in stalled],
        "p_versions": [item.version for item in stalled],
    }


@dataclass(frozen=True, slots=True)
class QueueFlow(Generic[J]):
    """Runs the statements of a queue, and answers truly where an answer was lost.

    Attributes:
        executor: runs the statements.
        take_over: takes items from their holders, if they still are at the version seen.
        find_transitioned: finds the events of a transition id: job id and version.
        get_states: reads states by key: id and tenant first, then what `explain_lost` takes.
        explain_lost: returns one sentence on a job that no longer runs at its attempt, None where it is; the state
            is None where there is no such job.
    """

    executor: Executor
    take_over: sa.Executable
    find_transitioned: sa.Select[Any]
    get_states: sa.Select[Any]
    explain_lost: Callable[[J, tuple[Any, ...] | None], str | None]

    async def acquire(
        self, statement: sa.Executable, find_acquired: sa.Executable, params: Params, transition_id: UUID
    ) -> tuple[Sequence[Sequence[Any]], tuple[UUID, ...]]:
        """Run a claim or a lease; return the rows that it took, and the ids of those that were lost since.

        Only a look-up after a lost answer finds lost ones: the log has all that the statement took, whatever became of
        them since. `find_acquired` returns the id of each first, and then its row, or NULLs where it is lost.

        Raises:
            DatabaseUnavailable: nothing was taken.
            OutcomeUnknown: the connection was lost, and it is unknown what was taken. A rescue will release it.
        """

        async def find() -> LookupResult[list[Sequence[Any]]]:
            found = {**params, "p_transition_id": str(transition_id)}
            return LookupResult.of(await self.executor.fetch_all(find_acquired, found), lambda rows: list(rows) or None)

        try:
            return [tuple(row) for row in await self.executor.fetch_all(statement, params)], ()
        except OutcomeUnknown as unknown:
            rows = await resolve_outcome(unknown, self.executor, find)
        held = [columns for _, *columns in rows if columns[0] is not None]
        return held, tuple(as_uuid(job_id) for job_id, first, *_ in rows if first is None)

    async def write(self, statement: sa.Executable, params: Params, transition_id: UUID) -> dict[UUID, datetime]:
        """Run a statement that writes many items under one transition id, and return their versions.

        Raises:
            DatabaseUnavailable: nothing was changed.
            OutcomeUnknown: the connection was lost, and it is unknown whether they were written.
        """
        try:
            return versions_by_id(await self.executor.fetch_all(statement, params))
        except OutcomeUnknown as unknown:
            return await resolve_outcome(unknown, self.executor, lambda: self._find_written(params, transition_id))

    async def resolve_missing(
        self, jobs: Sequence[J], params: Params, versions: Mapping[UUID, datetime], transition_id: UUID | None
    ) -> FinishResult:
        """Separate the lost jobs from the busy ones, by a later read.

        Args:
            jobs: all jobs that the statement was to finish.
            params: its parameters.
            versions: the versions of the jobs that it finished.
            transition_id: the caller's transition id, under which an earlier call may have finished jobs; or None.

        Raises:
            OutcomeUnknown: some were finished, and the state of the others could not be read.
        """
        missing = [job for job in jobs if job.id not in versions]
        if not missing:
            return FinishResult(versions, {})
        try:
            finished = {**versions, **await self._find_earlier(params, transition_id)}
            rows = await self.executor.fetch_all(self.get_states, key_params(missing))
        except DatabaseUnavailable as error:
            # Not raised again: it would say that nothing was changed.
            problem = f"some attempts were finished, and the state of the others could not be read: {error}"
        else:
            states = {(as_uuid(job_id), tenant_id): tuple(state) for job_id, tenant_id, *state in rows}
            reasons = {job.id: self.explain_lost(job, states.get((job.id, job.tenant_id))) for job in missing}
            lost = {job_id: reason for job_id, reason in reasons.items() if reason and job_id not in finished}
            busy = frozenset(job.id for job in missing if job.id not in {*finished, *lost})
            return FinishResult(finished, lost, busy)
        raise OutcomeUnknown(problem)

    async def rescue(
        self, stalled: Sequence[StalledItem], params: Params, transition_id: UUID, failed: set[UUID]
    ) -> RescueResult:
        """Take over stalled items that have not changed since; those in `failed` fail, the others are queued."""
        taken = await self.write(self.take_over, params, transition_id) if stalled else {}
        return RescueResult(
            tuple(job_id for job_id in taken if job_id not in failed),
            tuple(job_id for job_id in taken if job_id in failed),
        )

    async def fail_rejected(self, params: Params, transition_id: UUID, number: int, what: str) -> None:
        """Fail items that were acquired and are not runnable, so that they neither stay running nor come back."""
        try:
            await self.write(self.take_over, params, transition_id)
        except GraphJobsError:
            if isinstance(self.executor, SessionExecutor):
                raise  # the caller's transaction is broken, and nothing was acquired
            # What can be run must not be lost for it; a rescue will fail these.
            _log.warning("%s %s were acquired and could not be failed yet", number, what)

    async def _find_earlier(self, params: Params, transition_id: UUID | None) -> dict[UUID, datetime]:
        """Return the versions of what an earlier call with the caller's transition id wrote."""
        if transition_id is None:
            return {}
        found = await self._find_written(params, transition_id)
        if found.value:
            await confirm_replicated(self.executor, found.server)
        return found.value or {}

    async def _find_written(self, params: Params, transition_id: UUID) -> LookupResult[dict[UUID, datetime]]:
        rows = await self.executor.fetch_all(self.find_transitioned, {**params, "p_transition_id": str(transition_id)})
        return LookupResult.of(rows, lambda written: {as_uuid(job_id): version for job_id, version in written} or None)
