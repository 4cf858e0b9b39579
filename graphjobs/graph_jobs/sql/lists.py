"""Statements that read many jobs of a tenant: lists, pages, counts and the overlay lag; see `single` for the rules.

Each is a union of ordered scans of one index, one scan per status, because no index orders across statuses (181 ms at
1,000,000 rows, against 0.6 ms). A scan asks for the index's own order with ties, and not for the ids within a time:
then only the ordered scan is cheap. With the ids, PostgreSQL 15 sorts all rows of a tenant that the statistics do not
know yet. The ids are sorted outside, among a few rows.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from graphjobs.database.sql_expressions import null_if_unrepresentable, within_budget
from graphjobs.graph_jobs.filters import GraphJobQuery
from graphjobs.graph_jobs.sql.single import CORRELATION, JOBS, KIND, LIMIT, TENANT, job_columns
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

_CODES: Final = [status.code for status in GraphJobStatus]

_INVALID_LOW, _INVALID_HIGH = min(_CODES) - 1, max(_CODES) + 1
"""In `p_statuses`, these select codes that no status has: such rows are read, too, and reported as unreadable."""

_STATUSES: Final = sa.bindparam("p_statuses", type_=ARRAY(sa.SmallInteger))
_AFTER_CREATED: Final = sa.bindparam("p_after_created_at", type_=sa.DateTime(timezone=True))
_AFTER_JOB: Final = sa.bindparam("p_after_id", type_=sa.Uuid)
_EARLIEST: Final = sa.bindparam("p_created_from", type_=sa.DateTime(timezone=True))
_COMPLETED_LIMIT: Final = sa.bindparam("p_completed_limit", type_=sa.BigInteger)
_WINDOW: Final = sa.bindparam("p_window", type_=sa.Interval)

_of_tenant: Final = JOBS.c.tenant_id == TENANT
_of_kind: Final = _of_tenant & (JOBS.c.type == KIND)
_of_correlation: Final = _of_tenant & (JOBS.c.correlation_id == CORRELATION)
# Without the ids, which no index has: counts need not read the table.
_in_range: Final = (JOBS.c.created_at >= _EARLIEST) & (JOBS.c.created_at <= _AFTER_CREATED)
_in_page: Final = _in_range & ((JOBS.c.created_at < _AFTER_CREATED) | (JOBS.c.id < _AFTER_JOB))


def _code(number: int) -> sa.ColumnElement[int]:
    return sa.literal_column(str(number))


class _IndexScan(NamedTuple):
    """A part of a list that one index has in its order."""

    condition: sa.ColumnElement[bool]
    order: tuple[sa.ColumnElement[Any], ...] = (JOBS.c.created_at.desc(),)


def _per_status(condition: sa.ColumnElement[bool]) -> list[_IndexScan]:
    """Build a scan for each status, and for unknown codes below and above them, which are reported as unreadable."""
    # Unknown codes are ordered by code first, as the index is; otherwise PostgreSQL 15 takes an unsuitable index.
    none = (JOBS.c.status, JOBS.c.created_at.desc())
    return [
        *(_IndexScan(condition & (JOBS.c.status == _code(code))) for code in _CODES),
        _IndexScan(condition & (JOBS.c.status < _code(min(_CODES))), none),
        _IndexScan(condition & (JOBS.c.status > _code(max(_CODES))), none),
    ]


def _per_requested_status(condition: sa.ColumnElement[bool]) -> list[_IndexScan]:
    """Build the same scans, each with a one-time filter, so that one statement serves every set of statuses."""
    marks = [*_CODES, _INVALID_LOW, _INVALID_HIGH]
    return [
        _IndexScan(condition & (_code(mark) == sa.func.any(_STATUSES)), order)
        for (condition, order), mark in zip(_per_status(condition), marks, strict=True)
    ]


def _merged(scans: Iterable[_IndexScan]) -> sa.FromClause:
    """Merge the newest rows of each scan, unordered; a few more where times are equal."""
    merged = [
        sa.select(JOBS).where(condition).order_by(*order).fetch(LIMIT, with_ties=True).subquery()
        for condition, order in scans
    ]
    return merged[0] if len(merged) == 1 else sa.union_all(*(sa.select(rows) for rows in merged)).subquery("newest")


def _order(rows: sa.FromClause) -> tuple[sa.ColumnElement[Any], ...]:
    return rows.c.created_at.desc(), rows.c.id.desc()


def _ordered(newest: sa.FromClause) -> sa.Select[Any]:
    """Order merged rows in the fixed order of lists."""
    return within_budget(sa.select(newest).order_by(*_order(newest)).limit(LIMIT), job_columns, _order)


def _page(scans: Iterable[_IndexScan]) -> sa.Select[Any]:
    return _ordered(_merged(_IndexScan(condition & _in_page, order) for condition, order in scans))


def _counted(ranges: Iterable[_IndexScan]) -> sa.ScalarSelect[int]:
    """Count rows up to the limit. Ordered, so that only the index serves it, and stops at the limit."""
    scans = [
        sa.select(sa.literal_column("1").label("one")).where(condition).order_by(*order).limit(LIMIT).subquery()
        for condition, order in ranges
    ]
    counted = sa.union_all(*(sa.select(scan.c.one) for scan in scans)).limit(LIMIT).subquery()
    return sa.select(sa.func.count(counted.c.one)).scalar_subquery()


def _count(scans: Iterable[_IndexScan]) -> sa.Select[tuple[int]]:
    return sa.select(_counted(_IndexScan(condition & _in_range, order) for condition, order in scans))


_of_status: Final = _of_kind & (JOBS.c.status == sa.bindparam("p_status", type_=sa.SmallInteger))

LIST_JOBS_BY_STATUS: Final = _ordered(_merged([_IndexScan(_of_status)]))
"""Lists a tenant's newest jobs of one type and status."""

LIST_JOBS: Final = _ordered(_merged(_per_status(_of_kind)))
"""Lists a tenant's newest jobs of one type."""

LIST_BY_TENANT: Final = _page(_per_requested_status(_of_tenant))
"""Lists a page of a tenant's jobs of both types, of the requested statuses."""

LIST_BY_TYPE: Final = _page(_per_requested_status(_of_kind))
"""Lists a page of a tenant's jobs of one type, of the requested statuses."""

LIST_BY_CORRELATION: Final = _page([_IndexScan(_of_correlation)])
"""Lists a page of a tenant's jobs of one correlation id."""

COUNT_BY_TENANT: Final = _count(_per_requested_status(_of_tenant))
"""Counts the rows of `LIST_BY_TENANT`, up to a limit."""

COUNT_BY_TYPE: Final = _count(_per_requested_status(_of_kind))
"""Counts the rows of `LIST_BY_TYPE`, up to a limit."""

COUNT_BY_CORRELATION: Final = _count([_IndexScan(_of_correlation)])
"""Counts the rows of `LIST_BY_CORRELATION`, up to a limit."""


class ListStatements(NamedTuple):
    """The statements of the queries that one index serves."""

    page: sa.Select[Any]
    bounded_count: sa.Select[Any]


_BY_TENANT: Final = ListStatements(LIST_BY_TENANT, COUNT_BY_TENANT)
_BY_TYPE: Final = ListStatements(LIST_BY_TYPE, COUNT_BY_TYPE)
_BY_CORRELATION: Final = ListStatements(LIST_BY_CORRELATION, COUNT_BY_CORRELATION)


def statements_for(query: GraphJobQuery) -> ListStatements:
    """Return the statements that serve a query by an index."""
    if query.correlation_id is not None:
        return _BY_CORRELATION
    return _BY_TENANT if query.type is None else _BY_TYPE


def list_params(tenant: str, query: GraphJobQuery, *, limit: int) -> dict[str, object]:
    """Return the parameters of any of these statements.

    Raises:
        InvalidJob: the cursor is malformed, or belongs to another query or tenant.
    """
    start = query.page_key(tenant)
    return {
        "p_tenant_id": tenant,
        "p_type": query.type.code if query.type else None,
        "p_statuses": [status.code for status in query.statuses] or [*_CODES, _INVALID_LOW, _INVALID_HIGH],
        "p_correlation_id": query.correlation_id,
        "p_created_from": query.earliest,
        "p_after_created_at": start.at,
        "p_after_id": start.id,
        "p_limit": limit,
    }


def _seconds_from(time: sa.ColumnElement[Any], until: sa.ColumnElement[Any]) -> sa.ColumnElement[float]:
    return sa.cast(sa.extract("epoch", until - time), sa.Float)


def _overlay_lag() -> sa.Select[Any]:
    of_overlays = _of_tenant & (JOBS.c.type == _code(GraphJobType.OVERLAY.code))
    of_status = {status: of_overlays & (JOBS.c.status == _code(status.code)) for status in GraphJobStatus}
    # Rows with infinite times, written by hand, have no age: they are left out.
    finite = null_if_unrepresentable(JOBS.c.created_at).is_not(None) & null_if_unrepresentable(
        JOBS.c.updated_at
    ).is_not(None)
    oldest = (
        sa.select(JOBS.c.created_at)
        .where(of_status[GraphJobStatus.QUEUED], null_if_unrepresentable(JOBS.c.created_at).is_not(None))
        .order_by(JOBS.c.created_at)
        .limit(_code(1))
        .scalar_subquery()
    )
    completed = (
        sa.select(
            sa.func.greatest(_seconds_from(JOBS.c.created_at, JOBS.c.updated_at), sa.text("0.0")).label("latency")
        )
        .where(of_status[GraphJobStatus.COMPLETED], JOBS.c.created_at >= sa.func.now() - _WINDOW, finite)
        .order_by(JOBS.c.created_at.desc())
        .limit(_COMPLETED_LIMIT)
        .subquery()
    )
    # Labelled: SQLAlchemy 2.0 and 2.1 name them differently.
    percentiles = [
        sa.func.percentile_cont(sa.literal_column(level)).within_group(completed.c.latency).label(name)
        for level, name in (("0.5", "p50"), ("0.95", "p95"))
    ]
    columns: list[sa.ColumnElement[Any]] = [
        *(_counted([_IndexScan(condition)]) for condition in of_status.values()),
        _seconds_from(oldest, sa.func.now()),
        *percentiles,
        sa.func.count(completed.c.latency),
    ]
    return sa.select(*columns).select_from(completed)


OVERLAY_LAG: Final = _overlay_lag()
"""Reads the overlay lag of a tenant: counts by status, the age of the oldest queued job, percentiles.

The time of completion is the row's `updated_at`: a completed row never changes, and it is the database's clock.
"""
