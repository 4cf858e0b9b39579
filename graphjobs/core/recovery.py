"""Runs statements that move many at once, and finds out what has landed of them where the answer does not tell."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Select

from graphjobs.core.results import FinishResult, RescueResult, StalledItem
from graphjobs.database.executor import Executor, Params, Row, resolve_outcome
from graphjobs.errors import DatabaseUnavailable, OutcomeUnknown

StateLookup = Callable[[], Awaitable[Mapping[UUID, str | None]]]
"""Looks where those are that did not end: a sentence, or None for one that still is at its attempt."""


async def run_transition(
    executor: Executor, statement: Executable, find_transitioned: Select[Any], params: Params, transition_id: UUID
) -> Sequence[Row]:
    """Runs a statement that moves many under one transition id, and gives the rows it moved: id and version first.

    Raises:
        DatabaseUnavailable: nothing was moved.
        OutcomeUnknown: the connection was lost, and it could not be found out whether they moved.
    """
    try:
        return await executor.fetch_all(statement, params)
    except OutcomeUnknown as lost:
        return await resolve_outcome(
            lost, executor, lambda: _find_applied(executor, find_transitioned, params, transition_id)
        )


async def _find_applied(
    executor: Executor, find_transitioned: Select[Any], params: Params, transition_id: UUID
) -> Sequence[Row] | None:
    return await executor.fetch_all(find_transitioned, {**params, "p_transition_id": str(transition_id)}) or None


def versions_by_id(rows: Iterable[Row]) -> dict[UUID, datetime]:
    """Reads the versions that rows were moved to, by id."""
    return {UUID(int=row[0].int): row[1] for row in rows}


def stalled_from_rows(rows: Iterable[Row]) -> tuple[StalledItem, ...]:
    """Reads sightings from rows of id, tenant, version, attempts, and how many attempts were given back."""
    return tuple(StalledItem(UUID(int=row[0].int), *list(row)[1:]) for row in rows)


def rescue_result(taken: Sequence[UUID], failed: Collection[UUID]) -> RescueResult:
    """Tells those that wait again from those that were to fail, of what a rescue has taken."""
    return RescueResult(
        tuple(job_id for job_id in taken if job_id not in failed),
        tuple(job_id for job_id in taken if job_id in failed),
    )


async def resolve_missing(
    executor: Executor,
    find_transitioned: Select[Any],
    params: Params,
    transition_id: UUID | None,
    finished: Mapping[UUID, datetime],
    missing: Collection[UUID],
    find_states: StateLookup,
) -> FinishResult:
    """Tells those that were lost from those that only were somebody's for a moment, by a later look.

    Args:
        executor: runs the looks.
        find_transitioned: finds the moves of a transition id.
        params: the statement's.
        transition_id: the transition id, where it may have ended them when it was asked before.
        finished: the versions of those that ended.
        missing: those that did not.
        find_states: where these are.

    Raises:
        OutcomeUnknown: some have ended, and the others could not be looked up.
    """
    if not missing:
        return FinishResult(finished, {})
    try:
        earlier = (
            await _find_applied(executor, find_transitioned, params, transition_id)
            if transition_id is not None
            else None
        )
        versions = {**finished, **versions_by_id(earlier or ())}
        found = await find_states()
        lost = {job_id: place for job_id, place in found.items() if place is not None and job_id not in versions}
        return FinishResult(versions, lost, frozenset(job_id for job_id in missing if job_id not in {*versions, *lost}))
    except DatabaseUnavailable as error:
        unsure = str(error)
    # Not "nothing was changed", as that would say.
    raise OutcomeUnknown(f"some have ended, and what became of the others could not be looked up: {unsure}")
