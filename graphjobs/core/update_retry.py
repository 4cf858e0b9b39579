"""The retry of optimistic updates: read an item, update it at its version, and repeat if it changed in between."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar
from uuid import UUID

from graphjobs.core.state_machine import StatusEnum
from graphjobs.errors import JobConflict

TRIES_MAX: Final = 8


class Item(Protocol):
    """A job or run, as far as a conflict names it."""

    @property
    def id(self) -> UUID:
        """Its id."""
        ...

    @property
    def status(self) -> StatusEnum:
        """Its status."""
        ...


T = TypeVar("T", bound=Item)


def conflict(item: Item, problem: str) -> JobConflict:
    """Build the error of a use case that the status of an item does not allow."""
    return JobConflict(problem, job_id=item.id, status=item.status)


async def update_until_applied(read: Callable[[], Awaitable[T]], update: Callable[[T], Awaitable[T | None]]) -> T:
    """Read and update an item until the update is applied.

    Args:
        read: reads the item as it is now.
        update: updates it; returns None where the item changed since it was read, or must be read again.

    Raises:
        JobConflict: the item changed between read and update eight times.
    """
    for _ in range(TRIES_MAX):
        item = await read()
        updated = await update(item)
        if updated is not None:
            return updated
    raise conflict(item, f"the {item.status.entity_name} changed during each of {TRIES_MAX} tries; try again")
