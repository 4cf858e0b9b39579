"""What lists of graph jobs are asked for and answer with: queries, cursors, collections, counts; no database here."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, NamedTuple, Self
from uuid import UUID

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError, from_json, to_json

from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.jobs.models import GraphBuildJob, GraphOverlayJob
from graphjobs.jobs.status import GraphJobStatus, GraphJobType
from graphjobs.values import Name, Text, UtcTime, Value

PAGE_MAX: Final = 1_000
"""The most jobs of one page."""

PAGE_DEFAULT: Final = 50

COUNT_MAX: Final = 10_000
"""Up to here a count is exact: an index entry is read for each."""

_FIRST_MOMENT: Final = datetime(1, 1, 2, tzinfo=UTC)
_LAST_MOMENT: Final = datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)
_LAST_ID: Final = UUID(int=2**128 - 1)
CURSOR_LENGTH_MAX: Final = 256


class Position(NamedTuple):
    """Where a page begins: after this time and id, newest first."""

    created_at: datetime
    id: UUID


def _as_tuple(value: object) -> object:
    if isinstance(value, str):  # a status is one, too
        return (value,)
    return tuple(value) if isinstance(value, list | set | frozenset) else value


class GraphJobQuery(Value):
    """Which jobs of a tenant a page holds, newest first: `created_at DESC, id DESC`.

    Every filter is one that an index carries. A correlation id cannot be combined with a type or statuses, for no index
    holds them together: such a query is refused, and not slow.

    Attributes:
        type: one kind of job; None means both.
        statuses: jobs of any of these; empty means all.
        correlation_id: jobs of this correlation; alone, or with times.
        created_from: the earliest `created_at`, inclusive.
        created_to: the end of the range of `created_at`, exclusive.
        limit: the most jobs of the page, 1 to 1,000.
        cursor: `next_cursor` of the page before; it continues its own query only, whatever the limit.
    """

    type: Annotated[GraphJobType, Field(strict=False)] | None = None
    statuses: Annotated[
        tuple[Annotated[GraphJobStatus, Field(strict=False)], ...],
        Field(strict=False, max_length=len(GraphJobStatus)),
        BeforeValidator(_as_tuple),
    ] = ()
    correlation_id: Name | None = None
    created_from: UtcTime | None = None
    created_to: UtcTime | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT
    cursor: Annotated[str, Text(CURSOR_LENGTH_MAX)] | None = None

    @model_validator(mode="after")
    def _has_an_index(self) -> Self:
        if self.correlation_id is not None and (self.type is not None or self.statuses):
            raise PydanticCustomError(
                "index",
                "correlation_id cannot be combined with type or statuses: no index holds them together; "
                "page through the correlation, and choose among its jobs",
            )
        if self.created_from is not None and self.created_to is not None and self.created_from >= self.created_to:
            raise PydanticCustomError("range", "created_from should be earlier than created_to")
        return self

    @property
    def earliest(self) -> datetime:
        """The earliest time a job of this query can have."""
        return max(self.created_from or _FIRST_MOMENT, _FIRST_MOMENT)

    def start(self, tenant_id: str) -> Position:
        """Gives the position this page begins after: the cursor's, or the end of the range.

        Raises:
            InvalidJob: the cursor is none, or belongs to another query or tenant.
        """
        if self.cursor is not None:
            return self._position(tenant_id, self.cursor)
        if self.created_to is None:
            return Position(_LAST_MOMENT, _LAST_ID)
        # Times have microseconds, so this is the last one before the end. No id is after the last one.
        end = max(self.created_to, _FIRST_MOMENT) - timedelta(microseconds=1)
        return Position(min(end, _LAST_MOMENT), _LAST_ID)

    def cursor_after(self, tenant_id: str, position: Position) -> str:
        """Gives the cursor of the page that begins after a position; it is bound to this query and tenant."""
        parts = [self._digest(tenant_id), position.created_at.isoformat(), position.id.hex]
        return base64.urlsafe_b64encode(to_json(parts)).rstrip(b"=").decode()

    def _position(self, tenant_id: str, cursor: str) -> Position:
        try:
            padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
            digest, time, job = from_json(base64.b64decode(padded, altchars=b"-_", validate=True))
            position = Position(datetime.fromisoformat(time).astimezone(UTC), UUID(hex=job))
        except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error):
            raise InvalidJob(
                "cursor: it should be the next_cursor of the page before, unchanged", field="cursor"
            ) from None
        if digest != self._digest(tenant_id):
            raise InvalidJob(
                "cursor: it belongs to another query; keep type, statuses, correlation_id and times as they were",
                field="cursor",
            )
        return position

    def _digest(self, tenant_id: str) -> str:
        filters = [
            tenant_id,
            self.type,
            sorted(set(self.statuses)),
            self.correlation_id,
            self.created_from,
            self.created_to,
        ]
        return hashlib.sha256(to_json(filters)).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class GraphJobCollection:
    """One page of jobs.

    Attributes:
        jobs: builds and overlays, newest first.
        next_cursor: `cursor` of the query for the page after this one; None where no more jobs were there.
        unreadable: a `CorruptRow` for each row of the page that was left out.
    """

    jobs: tuple[GraphBuildJob | GraphOverlayJob, ...]
    next_cursor: str | None = None
    unreadable: tuple[CorruptRow, ...] = ()


@dataclass(frozen=True, slots=True)
class BoundedCount:
    """How many there are, as far as was counted.

    Attributes:
        value: the count, at most the cap.
        exact: False where there are more than `value`.
    """

    value: int
    exact: bool = True

    def __str__(self) -> str:
        return f"{self.value}" if self.exact else f"more than {self.value}"


@dataclass(frozen=True, slots=True)
class OverlayLag:
    """How far behind a tenant's overlays are. Ages and latencies are seconds of the database's clock.

    Attributes:
        counts: of overlay jobs, by status.
        oldest_queued: the age of the oldest queued one; None where none waits.
        p50: the median from created to completed, over the window; None where none was completed.
        p95: the 95th percentile of it.
        completed: how many jobs the percentiles are of: the newest of the window, at most the count's cap.
        window: which jobs they are of: those created at most this long ago.
    """

    counts: Mapping[GraphJobStatus, BoundedCount] = field(hash=False)
    oldest_queued: float | None
    p50: float | None
    p95: float | None
    completed: int
    window: timedelta
