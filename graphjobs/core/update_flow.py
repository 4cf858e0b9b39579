"""The flow of one update: run the statement, resolve an unknown outcome, match the recorded transition."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import Executable, Select

from graphjobs.core.recovery import LookupResult, confirm_replicated, resolve_outcome
from graphjobs.core.transitions import RecordedTransition, Transition
from graphjobs.database.executor import Executor, Params, Row
from graphjobs.errors import InvalidJob, OutcomeUnknown


class Identified(Protocol):
    """A job or run, as far as its log is found by it."""

    @property
    def id(self) -> UUID:
        """Its id."""
        ...

    @property
    def tenant_id(self) -> str:
        """Its tenant."""
        ...


class Applied(NamedTuple):
    """An update that is in the table and in the log.

    Attributes:
        recorded: the version and the event of the update.
        row: what the statement returned: version, event id and what the domain adds; None where the log was read.
        is_repeat: True where an earlier call with the same transition id applied it.
    """

    recorded: RecordedTransition
    row: Row | None = None
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class UpdateFlow:
    """Applies updates of one job or run, each with its event.

    Attributes:
        executor: runs the statements.
        find_transition: finds the events of one job by a transition id: event id, payload, version.
    """

    executor: Executor
    find_transition: Select[Any]

    async def apply(
        self, statement: Executable, params: Params, job: Identified, transition: Transition
    ) -> Applied | None:
        """Run an update.

        Args:
            statement: writes the row and its event; returns version and event id first, or no row.
            params: its parameters but for the event's payload.
            job: the job or run that is written.
            transition: the transition that the event records.

        Returns:
            The update, applied now or by an earlier call with the same transition id; None where it lost.

        Raises:
            InvalidJob: the update lost, and its transition id names another transition of this job.
            DatabaseUnavailable: nothing was changed.
            OutcomeUnknown: the connection was lost, and it is unknown whether the update was applied; or it is, and no
                synchronous standby has confirmed it.
        """
        try:
            rows = await self.executor.fetch_all(statement, {**params, "p_event_payload": transition.event_payload})
        except OutcomeUnknown as unknown:
            return Applied(await resolve_outcome(unknown, self.executor, lambda: self._find_own(job, transition)))
        if rows:
            version, event_id, *_ = rows[0]
            return Applied(RecordedTransition(version, event_id), rows[0])
        found = await self._find(job, transition)
        if found.value is None:
            return None
        await confirm_replicated(self.executor, found.server)
        return Applied(found.value, is_repeat=True)

    async def _find_own(self, job: Identified, transition: Transition) -> LookupResult[RecordedTransition]:
        rows = await self._find_rows(job, transition)
        try:
            return LookupResult.of(rows, lambda events: _match(events, transition))
        except InvalidJob:  # another transition under the same id does not show that this one will not be applied yet
            return LookupResult.of(rows, lambda _: None)

    async def _find(self, job: Identified, transition: Transition) -> LookupResult[RecordedTransition]:
        return LookupResult.of(await self._find_rows(job, transition), lambda events: _match(events, transition))

    async def _find_rows(self, job: Identified, transition: Transition) -> Sequence[Row]:
        return await self.executor.fetch_all(
            self.find_transition,
            {"p_tenant_id": job.tenant_id, "p_job_id": job.id, "p_transition_id": str(transition.transition_id)},
        )


def _match(events: Iterable[Sequence[Any]], transition: Transition) -> RecordedTransition | None:
    return transition.match_recorded(
        (payload, RecordedTransition(version, event_id)) for event_id, payload, version in events
    )
