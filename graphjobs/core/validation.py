"""Checks of arguments of both domains: attempts, durations, tenants, batches. Each returns the argument or raises."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import islice
from typing import Final, TypeVar
from uuid import UUID

from graphjobs.core.fields import check_name
from graphjobs.core.results import ATTEMPTS_MAX, StalledItem
from graphjobs.core.state_machine import CodedEnum
from graphjobs.errors import InvalidJob

BATCH_MAX: Final = 1_000
"""The most items, or tenants, that one call takes."""

LEASE_MAX: Final = timedelta(days=1)
WINDOW_MAX: Final = timedelta(days=366)

T = TypeVar("T")
M = TypeVar("M", bound=CodedEnum)


def check_actor(actor: str | None) -> str | None:
    """Return the actor, or None."""
    return None if actor is None else check_name(actor, "actor")


def check_attempts_max(attempts_max: object, field: str = "attempts_max") -> int:
    """Return a bound of attempts.

    Raises:
        InvalidJob: it is not an integer between 1 and 99,999.
    """
    if isinstance(attempts_max, int) and not isinstance(attempts_max, bool) and 1 <= attempts_max <= ATTEMPTS_MAX:
        return attempts_max
    raise InvalidJob(f"{field} must be an integer between 1 and {ATTEMPTS_MAX:,}", field=field)


def check_apart_after(apart_after: object) -> int | None:
    """Return the number of attempts after which an item is left to be taken alone; None leaves none."""
    return None if apart_after is None else check_attempts_max(apart_after, "apart_after")


def check_duration(value: object, field: str, longest: timedelta = LEASE_MAX) -> timedelta:
    """Return a duration.

    Raises:
        InvalidJob: it is not a timedelta of more than zero, up to `longest`.
    """
    if isinstance(value, timedelta) and timedelta(0) < value <= longest:
        return value
    days = "1 day" if longest.days == 1 else f"{longest.days} days"
    raise InvalidJob(f"{field} must be a timedelta of more than zero, up to {days}", field=field)


def check_stored_tenant(name: object, field: str) -> str:
    """Return a tenant as the database lists it. Rows written by hand may have any name, and must still be readable.

    Raises:
        InvalidJob: no row can have this name.
    """
    if isinstance(name, str) and "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name):
        return name
    raise InvalidJob(f"{field} must be text that PostgreSQL can store: no NUL, no lone surrogate", field=field)


def check_query(query: object, expected: type[T]) -> T:
    """Return a query, or the one without filters where it is None.

    Raises:
        InvalidJob: it is of another type.
    """
    return expected() if query is None else check_type(query, expected, "query")


def check_type(value: object, expected: type[T], field: str) -> T:
    """Return an argument of one type.

    Raises:
        InvalidJob: it is of another type.
    """
    if isinstance(value, expected):
        return value
    raise InvalidJob(f"{field} must be a {expected.__name__}, not {type(value).__name__}", field=field)


def parse_member(enum: type[M], value: object, field: str) -> M:
    """Return the member of an enumeration, given as a member or by its word.

    Raises:
        InvalidJob: the enumeration has no such member.
    """
    try:
        return enum.parse(value)
    except ValueError:
        words = ", ".join(enum)
    raise InvalidJob(f"{field} must be one of {words}", field=field)


def check_batch(items: Iterable[T], field: str) -> list[T]:
    """Return a list that one statement can take.

    Raises:
        InvalidJob: it is not iterable, or has more than 1,000 items.
    """
    if not isinstance(items, Iterable):
        raise InvalidJob(f"{field} must be a list, not {type(items).__name__}", field=field)
    batch = list(islice(items, BATCH_MAX + 1))
    if len(batch) > BATCH_MAX:
        raise InvalidJob(f"{field} must have at most {BATCH_MAX:,} items", field=field)
    return batch


def check_unique(items: list[T], id_of: Callable[[T], UUID], field: str) -> list[T]:
    """Return a list in which no id occurs twice.

    Raises:
        InvalidJob: an id occurs twice.
    """
    if len({id_of(item) for item in items}) < len(items):
        raise InvalidJob(f"{field} must not have the same id twice", field=field)
    return items


def check_items(items: Iterable[object], expected: type[T], id_of: Callable[[T], UUID], field: str) -> list[T]:
    """Return a batch of items of one type, each id once."""
    batch = [check_type(item, expected, field) for item in check_batch(items, field)]
    return check_unique(batch, id_of, field)


def check_stalled(stalled: Iterable[StalledItem]) -> list[StalledItem]:
    """Return a batch of stalled items, each id once."""
    return check_items(stalled, StalledItem, lambda item: item.job_id, "stalled")
