"""Queries of policy runs, and what they return: pages and the metrics of a queue. No database here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Final

from pydantic import BeforeValidator, Field

from graphjobs.core.fields import Name, UtcTime
from graphjobs.core.pagination import TIMESTAMP_MIN, BoundedCount, Page, PageQuery, as_tuple
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

METRICS_WINDOW: Final = timedelta(hours=24)
"""The default window of `metrics`."""


class PolicyRunQuery(PageQuery):
    """A query of a tenant's runs, newest first: `queued_at DESC, id DESC`. Filters can be combined.

    Attributes:
        policy_id: runs of one policy; None means all.
        mode: runs of one mode; None means all.
        statuses: runs of any of these; empty means all.
        queued_after: runs that were requested later than this.
        limit: the most runs of the page, 1 to 1,000.
        cursor: `next_cursor` of the page before; it continues the same query only, with any limit.
    """

    filter_names: ClassVar[str] = "policy_id, mode, statuses and queued_after"

    policy_id: Name | None = None
    mode: Annotated[PolicyRunMode, Field(strict=False)] | None = None
    statuses: Annotated[
        tuple[Annotated[PolicyRunStatus, Field(strict=False)], ...],
        Field(strict=False, max_length=len(PolicyRunStatus)),
        BeforeValidator(as_tuple),
    ] = ()
    queued_after: UtcTime | None = None

    @property
    def earliest(self) -> datetime:
        """The time that runs of this query are later than."""
        return max(self.queued_after or TIMESTAMP_MIN, TIMESTAMP_MIN)

    def _filters(self, tenant_id: str) -> list[object]:
        return ["policy runs", tenant_id, self.policy_id, self.mode, sorted(set(self.statuses)), self.queued_after]


class PolicyRunCollection(Page[PolicyRunJob]):
    """One page of policy runs; see `Page`."""

    __slots__ = ()

    @property
    def runs(self) -> tuple[PolicyRunJob, ...]:
        """The runs of the page, newest first."""
        return self.items


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The pending runs of one mode and priority.

    Attributes:
        count: the number of runs.
        oldest: the time since the oldest was requested, in seconds of the database's clock; None where none is pending.
    """

    count: BoundedCount
    oldest: float | None


@dataclass(frozen=True, slots=True)
class PolicyRunMetrics:
    """Metrics of a tenant's policy runs. Ages and latencies are seconds of the database's clock.

    Attributes:
        queue: the pending runs by mode and priority; every pair is present.
        p50: the median from requested to completed over the window; None where none was completed.
        p95: the 95th percentile of the same.
        p99: the 99th percentile.
        completed: the number of runs that the percentiles cover: the newest of the window, at most 1,000.
        window: the percentiles cover runs requested at most this long ago.
    """

    queue: Mapping[tuple[PolicyRunMode, PolicyRunPriority], QueueDepth] = field(hash=False)
    p50: float | None
    p95: float | None
    p99: float | None
    completed: int
    window: timedelta
