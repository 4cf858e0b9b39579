"""What lists of graph jobs are asked for and answer with: queries, cursors, collections, counts; no database here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from graphjobs.core.fields import BoundedText, FrozenModel, Name, UtcTime
from graphjobs.core.pagination import (
    CURSOR_LENGTH_MAX,
    FIRST_PAGE,
    LAST_ID,
    PAGE_DEFAULT,
    PAGE_MAX,
    TIMESTAMP_MAX,
    TIMESTAMP_MIN,
    BoundedCount,
    PageKey,
    as_tuple,
    decode_cursor,
    encode_cursor,
)
from graphjobs.errors import CorruptRow
from graphjobs.graph_jobs.models import GraphBuildJob, GraphOverlayJob
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType


class GraphJobQuery(FrozenModel):
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
        BeforeValidator(as_tuple),
    ] = ()
    correlation_id: Name | None = None
    created_from: UtcTime | None = None
    created_to: UtcTime | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT
    cursor: Annotated[str, BoundedText(CURSOR_LENGTH_MAX)] | None = None

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
        return max(self.created_from or TIMESTAMP_MIN, TIMESTAMP_MIN)

    def page_key(self, tenant_id: str) -> PageKey:
        """Gives the position this page begins after: the cursor's, or the end of the range.

        Raises:
            InvalidJob: the cursor is none, or belongs to another query or tenant.
        """
        if self.cursor is not None:
            names = "type, statuses, correlation_id and times"
            return decode_cursor(self._filters(tenant_id), self.cursor, names=names)
        if self.created_to is None:
            return FIRST_PAGE
        # Times have microseconds, so this is the last one before the end. No id is after the last one.
        end = max(self.created_to, TIMESTAMP_MIN) - timedelta(microseconds=1)
        return PageKey(min(end, TIMESTAMP_MAX), LAST_ID)

    def cursor_after(self, tenant_id: str, key: PageKey) -> str:
        """Gives the cursor of the page that begins after a position; it is bound to this query and tenant."""
        return encode_cursor(self._filters(tenant_id), key)

    def _filters(self, tenant_id: str) -> list[object]:
        return [
            tenant_id,
            self.type,
            sorted(set(self.statuses)),
            self.correlation_id,
            self.created_from,
            self.created_to,
        ]


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
