"""Values as rows, and rows as parameters of the statements; no I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from graphjobs.backfill.extract.records import EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.load import event_sql, job_and_run_sql
from graphjobs.backfill.load.comparison import ORDINAL, param_name
from graphjobs.backfill.load.event_sql import EventStatements
from graphjobs.backfill.load.job_and_run_sql import RowStatements
from graphjobs.core.event_log import Event
from graphjobs.graph_jobs.models import GraphJob
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.sql.single import COLUMNS as RUN_COLUMNS

StagedRow: TypeAlias = tuple[Any, ...]

_JOB: Final = ("id", "tenant_id", "type", "status", "payload", "created_at", "updated_at", "correlation_id")
_RUN_CODED: Final = ("mode", "priority", "status", "payload")
_RUN_FIELDS: Final = tuple(name for name in RUN_COLUMNS if name not in _RUN_CODED)
_RUN: Final = (*_RUN_FIELDS, *_RUN_CODED)
_EVENT: Final = ("id", "job_id", "tenant_id", "status", "payload", "created_at")

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {JOBS: _JOB, RUNS: _RUN, EVENTS: _EVENT, RUN_EVENTS: _EVENT}
)
"""The columns of a staged row, by collection."""

ROW_STATEMENTS: Final[Mapping[str, RowStatements]] = MappingProxyType(
    {JOBS: job_and_run_sql.JOBS, RUNS: job_and_run_sql.RUNS}
)
EVENT_STATEMENTS: Final[Mapping[str, EventStatements]] = MappingProxyType(
    {EVENTS: event_sql.EVENTS, RUN_EVENTS: event_sql.RUN_EVENTS}
)

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {RUNS: "policy run", EVENTS: "event", RUN_EVENTS: "policy run event"}
)
"""The kind of the documents of collections with one kind only."""


class Group(NamedTuple):
    """Rows that are counted together.

    Attributes:
        tenant: the tenant.
        kind: "build", "overlay", "policy run", "event" or "policy run event".
        status: the word of the status.
    """

    tenant: str
    kind: str
    status: str


def to_row(value: GraphJob | PolicyRunJob | Event) -> StagedRow:
    """Return a value as a row, in the order of `COLUMNS`."""
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
        return (*(fields[name] for name in _RUN_FIELDS), *codes, value.payload_json())
    return (value.id, value.job_id, value.tenant_id, value.status.code, value.payload_json(), value.created_at)


def version_of(job: GraphJob) -> datetime:
    """Return the version of an imported job: the last change of its document, or else the latest of its times."""
    if job.updated_at is not None:
        return job.updated_at
    return max(time for time in (job.created_at, job.started_at, job.completed_at) if time is not None)


def column_value(collection: str, row: StagedRow, name: str) -> Any:
    """Return the value of a column of a row."""
    return row[COLUMNS[collection].index(name)]


def to_params(collection: str, rows: Sequence[StagedRow]) -> dict[str, object]:
    """Return rows as one array per column, with ordinals from 0."""
    columns = zip(*rows, strict=True)
    arrays: dict[str, object] = {
        param_name(name): list(column) for name, column in zip(COLUMNS[collection], columns, strict=True)
    }
    return {param_name(ORDINAL): list(range(len(rows))), **arrays}


def conflict_free_batches(rows: Sequence[StagedRow]) -> Iterator[list[int]]:
    """Yield indexes of rows in batches without a repeated row: by id, or by all values for a row without id.

    Nearly always there is one batch.
    """
    remaining: Iterable[int] = range(len(rows))
    ids = {row[0] for row in rows}
    if rows and len(ids) == len(rows) and None not in ids:
        remaining = []
        yield list(range(len(rows)))
    while remaining:
        keys: set[object] = set()
        batch: list[int] = []
        later: list[int] = []
        for index in remaining:
            row = rows[index]
            key = row if row[0] is None else row[0]
            (later if key in keys else batch).append(index)
            keys.add(key)
        yield batch
        remaining = later
