"""Refusals of the server that may be about one row of many, and calls that find that row."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from graphjobs.errors import ConfigurationError, GraphJobsError, OutcomeUnknown

T = TypeVar("T")

_ABOUT_THE_SERVER: Final = ("08", "57P", "25006", "25P03", "25P04", "53300")
"""The beginnings of SQLSTATEs that no trigger of a row has a reason to raise."""


def is_answer(error: GraphJobsError) -> bool:
    """Return whether the server has refused a write, in an answer that may be about one row."""
    sqlstate = error.sqlstate or ""
    return bool(sqlstate) and not isinstance(error, OutcomeUnknown) and not sqlstate.startswith(_ABOUT_THE_SERVER)


async def apply_in_halves(items: Sequence[T], call: Callable[[Sequence[T]], Awaitable[None]]) -> None:
    """Await a call with items; if the server refuses it, with each half, so that one item affects no other.

    Raises:
        GraphJobsError: the last refusal, after the call was tried with all others.
    """
    failure: GraphJobsError | None = None
    try:
        await call(items)
        return
    except ConfigurationError:
        raise
    except GraphJobsError as error:
        if len(items) == 1 or not is_answer(error):
            raise
    half = len(items) // 2
    for part in (items[:half], items[half:]):
        try:
            await apply_in_halves(part, call)
        except ConfigurationError:
            raise
        except GraphJobsError as error:
            if not is_answer(error):
                raise
            failure = error
    if failure is not None:
        raise failure
