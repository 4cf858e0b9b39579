"""What every list is made of: its bounds, the position a page begins after, cursors, bounded counts, rows left out."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Self, TypeVar
from uuid import UUID

from pydantic_core import from_json, to_json

from graphjobs.database.executor import Row
from graphjobs.errors import CorruptRow, InvalidJob

PAGE_MAX: Final = 1_000
"""The most entries of one page."""

PAGE_DEFAULT: Final = 50

COUNT_MAX: Final = 10_000
"""Up to here a count is exact: an index entry is read for each."""

CURSOR_LENGTH_MAX: Final = 256

TIMESTAMP_MIN: Final = datetime(1, 1, 2, tzinfo=UTC)
TIMESTAMP_MAX: Final = datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)
LAST_ID: Final = UUID(int=2**128 - 1)

T = TypeVar("T")


class PageKey(NamedTuple):
    """Where a page begins: after this time and id, newest first."""

    at: datetime
    id: UUID


FIRST_PAGE: Final = PageKey(TIMESTAMP_MAX, LAST_ID)
"""No entry is after the last time and id, so this is where the first page begins."""


def encode_cursor(filters: Sequence[object], key: PageKey) -> str:
    """Gives the cursor of the page that begins after a position; it is bound to what the list filters by."""
    parts = [_digest(filters), key.at.isoformat(), key.id.hex]
    return base64.urlsafe_b64encode(to_json(parts)).rstrip(b"=").decode()


def decode_cursor(filters: Sequence[object], cursor: str, *, names: str) -> PageKey:
    """Reads a cursor.

    Args:
        filters: what the list filters by, as it was given to `cursor_of`.
        cursor: what that gave.
        names: the filters' names, for people.

    Raises:
        InvalidJob: it is no cursor, or belongs to another list.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        digest, time, entry = from_json(base64.b64decode(padded, altchars=b"-_", validate=True))
        position = PageKey(datetime.fromisoformat(time).astimezone(UTC), UUID(hex=entry))
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error):
        raise InvalidJob("cursor: it should be the next_cursor of the page before, unchanged", field="cursor") from None
    if digest != _digest(filters):
        raise InvalidJob(f"cursor: it belongs to another query; keep {names} as they were", field="cursor")
    return position


def _digest(filters: Sequence[object]) -> str:
    return hashlib.sha256(to_json(filters)).hexdigest()[:16]


def as_tuple(value: object) -> object:
    """People give one status or word where a list is asked for, and any collection where a tuple is."""
    if isinstance(value, str):  # a status is one, too
        return (value,)
    return tuple(value) if isinstance(value, list | set | frozenset) else value


@dataclass(frozen=True, slots=True)
class BoundedCount:
    """How many there are, as far as was counted.

    Attributes:
        value: the count, at most the cap.
        exact: False where there are more than `value`.
    """

    value: int
    exact: bool = True

    @classmethod
    def from_count(cls, count: int, cap: int) -> Self:
        """Gives the count of what a statement found that looked for one more than the cap."""
        return cls(min(count, cap), exact=count <= cap)

    def __str__(self) -> str:
        return f"{self.value}" if self.exact else f"more than {self.value}"


class PartialList(tuple[T, ...]):
    """What could be read of a list, in its order.

    Attributes:
        unreadable: a `CorruptRow` for each row that was left out.
    """

    unreadable: tuple[CorruptRow, ...] = ()

    def __new__(cls, items: Iterable[T] = (), unreadable: Iterable[CorruptRow] = ()) -> Self:
        """Lists what was read, and what could not be."""
        listed = super().__new__(cls, items)
        listed.unreadable = tuple(unreadable)
        return listed


def read_rows(read: Callable[[Row], T], rows: Sequence[Row]) -> PartialList[T]:
    """Reads what can be read; a row that cannot be harms no other."""
    items: list[T] = []
    unreadable: list[CorruptRow] = []
    for row in rows:
        try:
            items.append(read(row))
        except CorruptRow as error:
            unreadable.append(error)
    return PartialList(items, unreadable)


def paginate(
    read: Callable[[Row], T], rows: Sequence[Row], limit: int, key_of: Callable[[Row], PageKey]
) -> tuple[PartialList[T], PageKey | None]:
    """Gives a page, and where the next one begins; None where there is none.

    Args:
        read: reads a row.
        rows: one more than the page holds, where there are more.
        limit: the most the page holds.
        key_of: gives that of a row.
    """
    shown = rows[:limit]
    return read_rows(read, shown), key_of(shown[-1]) if len(rows) > limit else None


def check_event_id(after: Any) -> int:
    """Lets the event a log is to go on after pass.

    Raises:
        InvalidJob: it is no id of an event, nor 0.
    """
    if isinstance(after, int) and not isinstance(after, bool) and 0 <= after < 2**63:
        return after
    raise InvalidJob("after: it should be the id of an event, or 0", field="after")
