"""Runs statements that move many at once, and finds out what has landed of them where the answer does not tell."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Select

from graphjobs.core.results import FinishResult, RescueResult, StalledItem
from graphjobs.database.executor import Executor, Params, Row, find_out
from graphjobs.errors import DatabaseUnavailable, OutcomeUnknown

Whereabouts = Callable[[], Awaitable[Mapping[UUID, str | None]]]
"""Looks where those are that did not end: a sentence, or None for one that still is at its attempt."""


async def moved(
    executor: Executor, statement: Executable, find_moves: Select[Any], params: Params, named: UUID
) -> Sequence[Row]:
    """Runs a statement that moves many under one transition id, and gives the rows it moved: id and version first.

    Raises:
        DatabaseUnavailable: nothing was moved.
        OutcomeUnknown: the connection was lost, and it could not be found out whether they moved.
    """
    try:
        return await executor.rows(statement, params)
    except OutcomeUnknown as lost:
        return await find_out(lost, executor, lambda: _landed(executor, find_moves, params, named))


async def _landed(executor: Executor, find_moves: Select[Any], params: Params, named: UUID) -> Sequence[Row] | None:
    return await executor.rows(find_moves, {**params, "transition": str(named)}) or None


def versions_of(rows: Iterable[Row]) -> dict[UUID, datetime]:
    """Reads the versions that rows were moved to, by id."""
    return {UUID(int=row[0].int): row[1] for row in rows}


def sighted(rows: Iterable[Row]) -> tuple[StalledItem, ...]:
    """Reads sightings from rows of id, tenant, version, attempts, and how many attempts were given back."""
    return tuple(StalledItem(UUID(int=row[0].int), *list(row)[1:]) for row in rows)


def rescued_of(taken: Sequence[UUID], failed: Collection[UUID]) -> RescueResult:
    """Tells those that wait again from those that were to fail, of what a rescue has taken."""
    return RescueResult(
        tuple(job_id for job_id in taken if job_id not in failed),
        tuple(job_id for job_id in taken if job_id in failed),
    )


async def with_the_missing(
    executor: Executor,
    find_moves: Select[Any],
    params: Params,
    asked_before: UUID | None,
    ended: Mapping[UUID, datetime],
    missing: Collection[UUID],
    look: Whereabouts,
) -> FinishResult:
    """Tells those that were lost from those that only were somebody's for a moment, by a later look.

    Args:
        executor: runs the looks.
        find_moves: finds the moves of a transition id.
        params: the statement's.
        asked_before: the transition id, where it may have ended them when it was asked before.
        ended: the versions of those that ended.
        missing: those that did not.
        look: where these are.

    Raises:
        OutcomeUnknown: some have ended, and the others could not be looked up.
    """
    if not missing:
        return FinishResult(ended, {})
    try:
        earlier = await _landed(executor, find_moves, params, asked_before) if asked_before is not None else None
        versions = {**ended, **versions_of(earlier or ())}
        found = await look()
        lost = {job_id: place for job_id, place in found.items() if place is not None and job_id not in versions}
        return FinishResult(versions, lost, frozenset(job_id for job_id in missing if job_id not in {*versions, *lost}))
    except DatabaseUnavailable as error:
        unsure = str(error)
    # Not "nothing was changed", as that would say.
    raise OutcomeUnknown(f"some have ended, and what became of the others could not be looked up: {unsure}")
