"""Queries of graph jobs, and what they return: pages and the overlay lag. No database here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from graphjobs.core.fields import Name, UtcTime
from graphjobs.core.pagination import (
    FIRST_PAGE,
    LAST_ID,
    TIMESTAMP_MAX,
    TIMESTAMP_MIN,
    BoundedCount,
    Page,
    PageKey,
    PageQuery,
    as_tuple,
)
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType


class GraphJobQuery(PageQuery):
    """A query of a tenant's jobs, newest first: `created_at DESC, id DESC`.

    An index serves every filter. No index has a correlation id together with a type or statuses: such a query is
    refused, rather than slow.

    Attributes:
        type: jobs of one type; None means both.
        statuses: jobs of any of these; empty means all.
        correlation_id: jobs of this correlation; alone, or with times.
        created_from: the earliest `created_at`, inclusive.
        created_to: the end of the range of `created_at`, exclusive.
        limit: the most jobs of the page, 1 to 1,000.
        cursor: `next_cursor` of the page before; it continues the same query only, with any limit.
    """

    filter_names: ClassVar[str] = "type, statuses, correlation_id and times"

    type: Annotated[GraphJobType, Field(strict=False)] | None = None
    statuses: Annotated[
        tuple[Annotated[GraphJobStatus, Field(strict=False)], ...],
        Field(strict=False, max_length=len(GraphJobStatus)),
        BeforeValidator(as_tuple),
    ] = ()
    correlation_id: Name | None = None
    created_from: UtcTime | None = None
    created_to: UtcTime | None = None

    @model_validator(mode="after")
    def _check_index(self) -> Self:
        if self.correlation_id is not None and (self.type is not None or self.statuses):
            raise PydanticCustomError(
                "index",
                "correlation_id must not be combined with type or statuses, because no index has them together: "
                "list the correlation, and filter its jobs",
            )
        if self.created_from is not None and self.created_to is not None and self.created_from >= self.created_to:
            raise PydanticCustomError("range", "created_from must be earlier than created_to")
        return self

    @property
    def earliest(self) -> datetime:
        """The earliest `created_at` of the query."""
        return max(self.created_from or TIMESTAMP_MIN, TIMESTAMP_MIN)

    @property
    def first_key(self) -> PageKey:
        """The key that the first page begins after: the end of the range."""
        if self.created_to is None:
            return FIRST_PAGE
        # Times have microseconds, so this is the last time before the end, and no id is greater than LAST_ID.
        end = max(self.created_to, TIMESTAMP_MIN) - timedelta(microseconds=1)
        return PageKey(min(end, TIMESTAMP_MAX), LAST_ID)

    def _filters(self, tenant_id: str) -> list[object]:
        times = (self.created_from, self.created_to)
        return [tenant_id, self.type, sorted(set(self.statuses)), self.correlation_id, *times]


class GraphJobCollection(Page[AnyJob]):
    """One page of build and overlay jobs; see `Page`."""

    __slots__ = ()

    @property
    def jobs(self) -> tuple[AnyJob, ...]:
        """The jobs of the page, newest first."""
        return self.items


@dataclass(frozen=True, slots=True)
class OverlayLag:
    """The lag of a tenant's overlay jobs. Ages and latencies are seconds of the database's clock.

    Attributes:
        counts: the number of overlay jobs by status.
        oldest_queued: the age of the oldest queued job; None where none is queued.
        p50: the median from created to completed over the window; None where none was completed.
        p95: the 95th percentile of the same.
        completed: the number of jobs that the percentiles cover: the newest of the window, at most 1,000.
        window: the percentiles cover jobs created at most this long ago.
    """

    counts: Mapping[GraphJobStatus, BoundedCount] = field(hash=False)
    oldest_queued: float | None
    p50: float | None
    p95: float | None
    completed: int
    window: timedelta
