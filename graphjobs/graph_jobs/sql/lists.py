"""Every SQL statement that reads many jobs of a tenant, as constants with named binds: lists, pages, counts, lag.

What holds for `statements` holds here. Each is a union of ordered scans of one index, one a status: no index orders
across statuses (181 ms at 1M rows, so 0.6). A scan asks for the index's own order and for ties, not for the ids within
a time: then no plan but the ordered scan is cheap. Asked for both, PostgreSQL 15 sorts all rows of a tenant that the
statistics do not know yet. Ids are sorted outside, among a few.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Float,
    FromClause,
    Interval,
    ScalarSelect,
    Select,
    SmallInteger,
    Uuid,
    bindparam,
    extract,
    func,
    literal_column,
    select,
    text,
    union_all,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import ARRAY

from graphjobs.database.sql_expressions import null_if_unrepresentable
from graphjobs.graph_jobs.filters import GraphJobQuery
from graphjobs.graph_jobs.sql.single import CORRELATION, JOBS, KIND, LIMIT, TENANT, job_columns
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

_CODES: Final = [status.code for status in GraphJobStatus]

_INVALID_LOW, _INVALID_HIGH = min(_CODES) - 1, max(_CODES) + 1
"""In `statuses`, these ask for numbers that no status has: such a row is met too, and reported as unreadable."""

_STATUSES: Final = bindparam("p_statuses", type_=ARRAY(SmallInteger))
_AFTER_CREATED: Final = bindparam("p_after_created_at", type_=DateTime(timezone=True))
_AFTER_JOB: Final = bindparam("p_after_id", type_=Uuid)
_EARLIEST: Final = bindparam("p_created_from", type_=DateTime(timezone=True))
_WINDOW: Final = bindparam("p_window", type_=Interval)

_of_tenant: Final = JOBS.c.tenant_id == TENANT
_of_kind: Final = _of_tenant & (JOBS.c.type == KIND)
_of_correlation: Final = _of_tenant & (JOBS.c.correlation_id == CORRELATION)
# Without the ids, which no index holds: what is counted is not read from the table.
_in_range: Final = (JOBS.c.created_at >= _EARLIEST) & (JOBS.c.created_at <= _AFTER_CREATED)
_in_page: Final = _in_range & ((JOBS.c.created_at < _AFTER_CREATED) | (JOBS.c.id < _AFTER_JOB))


def _code(number: int) -> ColumnElement[int]:
    return literal_column(str(number))


class _IndexScan(NamedTuple):
    """A part of what is asked for that one index holds in its order."""

    condition: ColumnElement[bool]
    order: tuple[ColumnElement[Any], ...] = (JOBS.c.created_at.desc(),)


def _per_status(condition: ColumnElement[bool]) -> list[_IndexScan]:
    """Each status, and what is none, which is met to be reported as a row that cannot be read."""
    # What is none is ordered by its number first, as the index is: else PostgreSQL 15 takes one that cannot find it.
    none = (JOBS.c.status, JOBS.c.created_at.desc())
    return [
        *(_IndexScan(condition & (JOBS.c.status == _code(code))) for code in _CODES),
        _IndexScan(condition & (JOBS.c.status < _code(min(_CODES))), none),
        _IndexScan(condition & (JOBS.c.status > _code(max(_CODES))), none),
    ]


def _per_requested_status(whose: ColumnElement[bool]) -> list[_IndexScan]:
    """The same, each read only where it is asked for: a one-time filter, so one statement serves every set."""
    marks = [*_CODES, _INVALID_LOW, _INVALID_HIGH]
    return [
        _IndexScan(condition & (_code(mark) == func.any(_STATUSES)), order)
        for (condition, order), mark in zip(_per_status(whose), marks, strict=True)
    ]


def _merged(scans: Iterable[_IndexScan]) -> FromClause:
    """The newest of each range, in no order; a few more where times are equal."""
    found = [
        select(JOBS).where(condition).order_by(*order).fetch(LIMIT, with_ties=True).subquery()
        for condition, order in scans
    ]
    return found[0] if len(found) == 1 else union_all(*(select(rows) for rows in found)).subquery("newest")


def _ordered(newest: FromClause) -> Select[Any]:
    """The one fixed order of lists, over what the scans found."""
    return job_columns(newest).order_by(newest.c.created_at.desc(), newest.c.id.desc()).limit(LIMIT)


def _page(whose: Iterable[_IndexScan]) -> Select[Any]:
    return _ordered(_merged(_IndexScan(condition & _in_page, order) for condition, order in whose))


def _counted(ranges: Iterable[_IndexScan]) -> ScalarSelect[int]:
    """How many there are, up to the limit. Ordered, so that only the index serves it, which stops there."""
    scans = [
        select(literal_column("1").label("one")).where(condition).order_by(*order).limit(LIMIT).subquery()
        for condition, order in ranges
    ]
    found = union_all(*(select(scan.c.one) for scan in scans)).limit(LIMIT).subquery()
    return select(func.count(found.c.one)).scalar_subquery()


def _count(whose: Iterable[_IndexScan]) -> Select[tuple[int]]:
    return select(_counted(_IndexScan(condition & _in_range, order) for condition, order in whose))


_of_status: Final = _of_kind & (JOBS.c.status == bindparam("p_status", type_=SmallInteger))

LIST_JOBS_BY_STATUS: Final = _ordered(_merged([_IndexScan(_of_status)]))
"""Reads a tenant's newest jobs of one kind and status."""

LIST_JOBS: Final = _ordered(_merged(_per_status(_of_kind)))
"""Reads a tenant's newest jobs of one kind, whatever their status."""

LIST_BY_TENANT: Final = _page(_per_requested_status(_of_tenant))
"""Reads a page of a tenant's jobs of both kinds, of the statuses asked for."""

LIST_BY_TYPE: Final = _page(_per_requested_status(_of_kind))
"""Reads a page of a tenant's jobs of one kind, of the statuses asked for."""

LIST_BY_CORRELATION: Final = _page([_IndexScan(_of_correlation)])
"""Reads a page of a tenant's jobs of one correlation id."""

COUNT_BY_TENANT: Final = _count(_per_requested_status(_of_tenant))
"""Counts what `PAGE_OF_TENANT` reads, up to a limit."""

COUNT_BY_TYPE: Final = _count(_per_requested_status(_of_kind))
"""Counts what `PAGE_OF_KIND` reads, up to a limit."""

COUNT_BY_CORRELATION: Final = _count([_IndexScan(_of_correlation)])
"""Counts what `PAGE_OF_CORRELATION` reads, up to a limit."""


class ListStatements(NamedTuple):
    """The statements that serve the queries of one index."""

    page: Select[Any]
    bounded_count: Select[Any]


_BY_TENANT: Final = ListStatements(LIST_BY_TENANT, COUNT_BY_TENANT)
_BY_TYPE: Final = ListStatements(LIST_BY_TYPE, COUNT_BY_TYPE)
_BY_CORRELATION: Final = ListStatements(LIST_BY_CORRELATION, COUNT_BY_CORRELATION)


def statements_for(query: GraphJobQuery) -> ListStatements:
    """Gives the statements whose index carries a query."""
    if query.correlation_id is not None:
        return _BY_CORRELATION
    return _BY_TENANT if query.type is None else _BY_TYPE


def list_params(tenant: str, query: GraphJobQuery, *, limit: int) -> dict[str, object]:
    """Gives what any of the shapes is bound to.

    Raises:
        InvalidJob: the query's cursor is none, or belongs to another query or tenant.
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


def _seconds_from(time: ColumnElement[Any], until: ColumnElement[Any]) -> ColumnElement[float]:
    return as_type(extract("epoch", until - time), Float)


def _overlay_lag() -> Select[Any]:
    of_overlays = _of_tenant & (JOBS.c.type == _code(GraphJobType.OVERLAY.code))
    of_status = {status: of_overlays & (JOBS.c.status == _code(status.code)) for status in GraphJobStatus}
    # Rows of infinite times have no age; written by hand, they are left out rather than made to fail.
    finite = null_if_unrepresentable(JOBS.c.created_at).is_not(None) & null_if_unrepresentable(
        JOBS.c.updated_at
    ).is_not(None)
    oldest = (
        select(JOBS.c.created_at)
        .where(of_status[GraphJobStatus.QUEUED], null_if_unrepresentable(JOBS.c.created_at).is_not(None))
        .order_by(JOBS.c.created_at)
        .limit(_code(1))
        .scalar_subquery()
    )
    completed = (
        select(func.greatest(_seconds_from(JOBS.c.created_at, JOBS.c.updated_at), text("0.0")).label("latency"))
        .where(of_status[GraphJobStatus.COMPLETED], JOBS.c.created_at >= func.now() - _WINDOW, finite)
        .order_by(JOBS.c.created_at.desc())
        .limit(LIMIT)
        .subquery()
    )
    share = [func.percentile_cont(literal_column(level)).within_group(completed.c.latency) for level in ("0.5", "0.95")]
    columns: list[ColumnElement[Any]] = [
        *(_counted([_IndexScan(condition)]) for condition in of_status.values()),
        _seconds_from(oldest, func.now()),
        *share,
        func.count(completed.c.latency),
    ]
    return select(*columns).select_from(completed)


OVERLAY_LAG: Final = _overlay_lag()
"""Reads how far behind a tenant's overlays are: counts by status, the oldest queued one's age, percentiles.

The time of completion is the row's `updated_at`: a completed row never moves again, and it is the database's clock.
"""
