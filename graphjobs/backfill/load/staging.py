"""Values as the rows they become: what the statements of the backfill are given; no I/O here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from graphjobs.backfill.extract.records import EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.load import event_sql, job_and_run_sql
from graphjobs.backfill.load.comparison import ORDINAL, bind_of
from graphjobs.backfill.load.event_sql import Logged
from graphjobs.backfill.load.job_and_run_sql import Keyed
from graphjobs.core.event_log import Event
from graphjobs.graph_jobs.models import GraphJob
from graphjobs.policy_runs.models import PolicyRunJob

StagedRow: TypeAlias = tuple[Any, ...]

_JOB: Final = ("id", "tenant_id", "type", "status", "payload", "created_at", "updated_at", "correlation_id")
_RUN_AS_IT_IS: Final = (
    "id",
    "tenant_id",
    "run_id",
    "policy_id",
    "attempts",
    "queued_at",
    "available_at",
    "last_attempt_at",
    "last_error",
    "submitted_at",
    "completed_at",
    "lease_owner",
    "lease_expires_at",
    "cancellation_requested_at",
    "cancellation_reason",
    "canceled_at",
    "created_at",
    "updated_at",
)
_RUN: Final = (*_RUN_AS_IT_IS, "mode", "priority", "status", "payload")
_EVENT: Final = ("id", "job_id", "tenant_id", "status", "payload", "created_at")

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {JOBS: _JOB, RUNS: _RUN, EVENTS: _EVENT, RUN_EVENTS: _EVENT}
)
"""The columns of a staged row, by collection."""

KEYED: Final[Mapping[str, Keyed]] = MappingProxyType({JOBS: job_and_run_sql.JOBS, RUNS: job_and_run_sql.RUNS})
LOGGED: Final[Mapping[str, Logged]] = MappingProxyType({EVENTS: event_sql.EVENTS, RUN_EVENTS: event_sql.RUN_EVENTS})


class Group(NamedTuple):
    """What is counted together.

    Attributes:
        tenant: whose.
        kind: "build", "overlay", "policy run", "event" or "policy run event".
        status: its word.
    """

    tenant: str
    kind: str
    status: str


def row_of(value: GraphJob | PolicyRunJob | Event) -> StagedRow:
    """Gives the row a value becomes, in the order of `COLUMNS`."""
    if isinstance(value, GraphJob):
        return (
            value.id,
            value.tenant_id,
            value.type.code,
            value.status.code,
            value.to_json(),
            value.created_at,
            version_of(value),
            value.correlation_id,
        )
    if isinstance(value, PolicyRunJob):
        fields = value.__dict__
        codes = (value.mode.code, value.priority.code, value.status.code)
        return (*(fields[name] for name in _RUN_AS_IT_IS), *codes, value.payload_json())
    return (value.id, value.job_id, value.tenant_id, value.status.code, value.payload_json(), value.created_at)


def version_of(job: GraphJob) -> datetime:
    """Gives the version a job comes with: when its document was changed last, or the last that it tells of itself."""
    if job.updated_at is not None:
        return job.updated_at
    return max(time for time in (job.created_at, job.started_at, job.completed_at) if time is not None)


def column_of(collection: str, row: StagedRow, name: str) -> Any:
    """Gives what a row holds in a column."""
    return row[COLUMNS[collection].index(name)]


KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {RUNS: "policy run", EVENTS: "event", RUN_EVENTS: "policy run event"}
)
"""What is in a collection whose documents are all of one kind."""


def _key_of(row: StagedRow) -> UUID | StagedRow:
    """Gives what a row is known by among others of a batch: its id, or all of it where it has none."""
    return row if row[0] is None else row[0]


def binds_of(collection: str, rows: Sequence[StagedRow]) -> dict[str, object]:
    """Gives rows as the arrays that the statements take, numbered from 0."""
    columns = zip(*rows, strict=True)
    arrays: dict[str, object] = {
        bind_of(name): list(column) for name, column in zip(COLUMNS[collection], columns, strict=True)
    }
    return {bind_of(ORDINAL): list(range(len(rows))), **arrays}


def waves(rows: Sequence[StagedRow]) -> Iterator[list[int]]:
    """Parts rows such that none meets another of its part; nearly always there is one part."""
    left: Iterable[int] = range(len(rows))
    ids = {row[0] for row in rows}
    if rows and len(ids) == len(rows) and None not in ids:
        left = []
        yield list(range(len(rows)))
    while left:
        met: set[object] = set()
        wave: list[int] = []
        later: list[int] = []
        for each in left:
            key = _key_of(rows[each])
            (later if key in met else wave).append(each)
            met.add(key)
        yield wave
        left = later
