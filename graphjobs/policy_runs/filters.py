"""What lists of policy runs are asked for and answer with, and what is told of a tenant's queue; no database here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from graphjobs.core.fields import BoundedText, FrozenModel, Name, UtcTime
from graphjobs.core.pagination import (
    CURSOR_LENGTH_MAX,
    FIRST_PAGE,
    PAGE_DEFAULT,
    PAGE_MAX,
    TIMESTAMP_MIN,
    BoundedCount,
    PageKey,
    as_tuple,
    decode_cursor,
    encode_cursor,
)
from graphjobs.errors import CorruptRow
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

METRICS_WINDOW: Final = timedelta(hours=24)
"""The window of `metrics` where none is given."""


class PolicyRunQuery(FrozenModel):
    """Which runs of a tenant a page holds, newest first: `queued_at DESC, id DESC`. Any filters go together.

    Attributes:
        policy_id: runs of one policy; None means all.
        mode: runs of one mode; None means all.
        statuses: runs of any of these; empty means all.
        queued_after: runs that were asked for later than this.
        limit: the most runs of the page, 1 to 1,000.
        cursor: `next_cursor` of the page before; it continues its own query only, whatever the limit.
    """

    policy_id: Name | None = None
    mode: Annotated[PolicyRunMode, Field(strict=False)] | None = None
    statuses: Annotated[
        tuple[Annotated[PolicyRunStatus, Field(strict=False)], ...],
        Field(strict=False, max_length=len(PolicyRunStatus)),
        BeforeValidator(as_tuple),
    ] = ()
    queued_after: UtcTime | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT
    cursor: Annotated[str, BoundedText(CURSOR_LENGTH_MAX)] | None = None

    @property
    def earliest(self) -> datetime:
        """The time that runs of this query are later than."""
        return max(self.queued_after or TIMESTAMP_MIN, TIMESTAMP_MIN)

    def page_key(self, tenant_id: str) -> PageKey:
        """Gives the position this page begins after.

        Raises:
            InvalidJob: the cursor is none, or belongs to another query or tenant.
        """
        if self.cursor is None:
            return FIRST_PAGE
        names = "policy_id, mode, statuses and queued_after"
        return decode_cursor(self._filters(tenant_id), self.cursor, names=names)

    def cursor_after(self, tenant_id: str, key: PageKey) -> str:
        """Gives the cursor of the page that begins after a position; it is bound to this query and tenant."""
        return encode_cursor(self._filters(tenant_id), key)

    def _filters(self, tenant_id: str) -> list[object]:
        return ["policy runs", tenant_id, self.policy_id, self.mode, sorted(set(self.statuses)), self.queued_after]


@dataclass(frozen=True, slots=True)
class PolicyRunCollection:
    """One page of runs.

    Attributes:
        runs: newest first.
        next_cursor: `cursor` of the query for the page after this one; None where no more runs were there.
        unreadable: a `CorruptRow` for each row of the page that was left out.
    """

    runs: tuple[PolicyRunJob, ...]
    next_cursor: str | None = None
    unreadable: tuple[CorruptRow, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How much of one mode and priority is pending.

    Attributes:
        count: how many runs.
        oldest: how long ago the oldest was asked for, in seconds of the database's clock; None where none is pending.
    """

    count: BoundedCount
    oldest: float | None


@dataclass(frozen=True, slots=True)
class PolicyRunMetrics:
    """How a tenant's runs get on. Ages and latencies are seconds of the database's clock.

    Attributes:
        queue: what is pending, by mode and priority; each pair is there.
        p50: the median from asked for to completed, over the window; None where none was completed.
        p95: the 95th percentile of it.
        p99: the 99th.
        completed: how many runs the percentiles are of: the newest of the window, at most 10,000.
        window: which runs they are of: those asked for at most this long ago.
    """

    queue: Mapping[tuple[PolicyRunMode, PolicyRunPriority], QueueDepth] = field(hash=False)
    p50: float | None
    p95: float | None
    p99: float | None
    completed: int
    window: timedelta
