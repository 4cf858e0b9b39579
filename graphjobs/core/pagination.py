"""Lists in pages: bounds, keys and cursors, bounded counts, and the unreadable rows."""

import base64
import binascii
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Generic, NamedTuple, Self, TypeVar
from uuid import UUID

from pydantic import Field
from pydantic_core import from_json, to_json

from graphjobs.core.fields import BoundedText, FrozenModel, check_name
from graphjobs.core.time_slices import in_slices
from graphjobs.database.executor import Row
from graphjobs.errors import CorruptRow, InvalidJob

PAGE_MAX: Final = 1_000
"""The most entries of one page."""

PAGE_DEFAULT: Final = 50

COUNT_MAX: Final = 10_000
"""Counts are exact up to this number: each counted row is one index entry that is read."""

SAMPLE_MAX: Final = 1_000
"""Percentiles are of so many of the newest entries: a row of the table is read for each."""

CURSOR_LENGTH_MAX: Final = 256

_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
_END: Final = datetime.max.replace(tzinfo=UTC)
"""PostgreSQL's -infinity and infinity, as asyncpg sends them."""

TIMESTAMP_MIN: Final = datetime(1, 1, 2, tzinfo=UTC)
TIMESTAMP_MAX: Final = datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)
LAST_ID: Final = UUID(int=2**128 - 1)

T = TypeVar("T")


class PageKey(NamedTuple):
    """The key that a page begins after, newest first: time and id."""

    at: datetime
    id: UUID


FIRST_PAGE: Final = PageKey(TIMESTAMP_MAX, LAST_ID)
"""The key of the first page: no entry has a later time or a greater id."""


class PageQuery(FrozenModel):
    """The part that all queries share: limit and cursor. A subclass adds its filters."""

    filter_names: ClassVar[str]
    """The names of the filters, for error texts."""

    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT
    cursor: Annotated[str, BoundedText(CURSOR_LENGTH_MAX)] | None = None

    @property
    def first_key(self) -> PageKey:
        """The key that the first page begins after."""
        return FIRST_PAGE

    def page_key(self, tenant_id: str) -> PageKey:
        """Return the key that this page begins after: that of the cursor, or the first.

        Raises:
            InvalidJob: the cursor is malformed, or belongs to another query or tenant.
        """
        if self.cursor is None:
            return self.first_key
        return decode_cursor(self._filters(tenant_id), self.cursor, names=self.filter_names)

    def cursor_after(self, tenant_id: str, key: PageKey) -> str:
        """Return the cursor of the page that begins after a key; it is bound to this query and tenant."""
        return encode_cursor(self._filters(tenant_id), key)

    @abstractmethod
    def _filters(self, tenant_id: str) -> list[object]:
        """Return the tenant and the filters, which a cursor is bound to."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list.

    Attributes:
        items: the entries, newest first.
        next_cursor: `cursor` of the query for the next page; None on the last page.
        unreadable: a `CorruptRow` for each row of the page that is left out.
    """

    items: tuple[T, ...]
    next_cursor: str | None = None
    unreadable: tuple[CorruptRow, ...] = ()


def encode_cursor(filters: Sequence[object], key: PageKey) -> str:
    """Return the cursor of the page that begins after a key; it is bound to the list's filters."""
    parts = [_digest(filters), key.at.isoformat(), key.id.hex]
    return base64.urlsafe_b64encode(to_json(parts)).rstrip(b"=").decode()


def decode_cursor(filters: Sequence[object], cursor: str, *, names: str) -> PageKey:
    """Parse a cursor.

    Args:
        filters: the list's filters, as `encode_cursor` was given them.
        cursor: the cursor.
        names: the names of the filters, for error texts.

    Raises:
        InvalidJob: the cursor is malformed, or belongs to another list.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        digest, time, entry = from_json(base64.b64decode(padded, altchars=b"-_", validate=True))
        key = PageKey(datetime.fromisoformat(time).astimezone(UTC), UUID(hex=entry))
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error):
        raise InvalidJob("cursor must be the next_cursor of the page before, unchanged", field="cursor") from None
    if digest != _digest(filters):
        raise InvalidJob(f"cursor belongs to another query: keep {names} as they were", field="cursor")
    return key


def _digest(filters: Sequence[object]) -> str:
    return hashlib.sha256(to_json(filters)).hexdigest()[:16]


class ScanPosition(NamedTuple):
    """The position that a part of a scan begins after: a time, and the tenant of that time."""

    at: datetime
    tenant_id: str


def scan_cursor(tenant_id: str | None, at: datetime | None) -> str:
    """Return the cursor of a scan that goes on after a time of a tenant; empty without a tenant: all was read.

    A time that Python cannot represent is taken for the last one of its tenant.
    """
    return "" if tenant_id is None else f"{(at or _END).isoformat()} {tenant_id}"


def parse_scan_cursor(cursor: object) -> ScanPosition:
    """Return the position of a cursor; an empty one begins.

    Raises:
        InvalidJob: the cursor is malformed.
    """
    if cursor == "":
        return ScanPosition(_BEGINNING, "")
    try:
        time, _, tenant_id = str(cursor).partition(" ")
        return ScanPosition(
            datetime.fromisoformat(time).astimezone(UTC), check_name(tenant_id, "after") if tenant_id else ""
        )
    except (ValueError, OverflowError):
        raise InvalidJob("after must be the cursor of the call before, unchanged", field="after") from None


def as_tuple(value: object) -> object:
    """Return a tuple of one status, or of any collection, for fields that hold several."""
    if isinstance(value, str):  # a status is a string, too
        return (value,)
    return tuple(value) if isinstance(value, list | set | frozenset) else value


@dataclass(frozen=True, slots=True)
class BoundedCount:
    """A count up to a cap.

    Attributes:
        value: the count, at most the cap.
        exact: False where there are more than `value`.
    """

    value: int
    exact: bool = True

    @classmethod
    def from_count(cls, count: int, cap: int) -> Self:
        """Build the count from that of a statement that counts up to one more than the cap."""
        return cls(min(count, cap), exact=count <= cap)

    def __str__(self) -> str:
        return f"{self.value}" if self.exact else f"more than {self.value}"


class PartialList(tuple[T, ...]):
    """The readable entries of a list, in its order.

    Attributes:
        unreadable: a `CorruptRow` for each row that is left out.
        truncated: True where the list ended before its limit, because the next entry would exceed 8 MiB of payload.
    """

    unreadable: tuple[CorruptRow, ...] = ()
    truncated: bool = False

    def __new__(
        cls, items: Iterable[T] = (), unreadable: Iterable[CorruptRow] = (), *, truncated: bool = False
    ) -> Self:
        """Build the list from its readable entries and the errors of the others."""
        listed = super().__new__(cls, items)
        listed.unreadable = tuple(unreadable)
        listed.truncated = truncated
        return listed


def split_at_budget(rows: Sequence[Row]) -> tuple[Sequence[Row], bool]:
    """Return the rows of a list that ends at the budget of bytes, and whether it ended there; see `within_budget`."""
    truncated = bool(rows) and rows[-1][0] is None
    return rows[:-1] if truncated else rows, truncated


async def read_rows(read: Callable[[Row], T], rows: Sequence[Row]) -> PartialList[T]:
    """Read the rows of a list that ends at the budget of bytes; an unreadable row is left out and harms no other."""
    items: list[T] = []
    unreadable: list[CorruptRow] = []
    rows, truncated = split_at_budget(rows)
    async for row in in_slices(rows):
        try:
            items.append(read(row))
        except CorruptRow as error:
            unreadable.append(error)
    return PartialList(items, unreadable, truncated=truncated)


async def read_page(
    read: Callable[[Row], T], rows: Sequence[Row], query: PageQuery, tenant_id: str, key_of: Callable[[Row], PageKey]
) -> Page[T]:
    """Read one page.

    Args:
        read: reads a row.
        rows: the rows of the page, and one more where the list goes on after its limit or its budget of bytes.
        query: the query.
        tenant_id: the tenant that the query is for.
        key_of: returns the key of a row.
    """
    fitting, _ = split_at_budget(rows)
    shown = fitting[: query.limit]
    listed = await read_rows(read, shown)
    cursor = query.cursor_after(tenant_id, key_of(shown[-1])) if len(rows) > len(shown) else None
    return Page(tuple(listed), cursor, listed.unreadable)


def check_event_id(after: Any) -> int:
    """Return the id of the event that a log is read after.

    Raises:
        InvalidJob: it is not an integer between 0 and 2^63 - 1.
    """
    if isinstance(after, int) and not isinstance(after, bool) and 0 <= after < 2**63:
        return after
    raise InvalidJob("after must be the id of an event, or 0", field="after")
