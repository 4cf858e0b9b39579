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

from graphjobs.database.sql_expressions import readable
from graphjobs.graph_jobs.filters import GraphJobQuery
from graphjobs.graph_jobs.sql.single import CORRELATION, JOBS, KIND, LIMIT, TENANT, job_columns
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

_CODES: Final = [status.code for status in GraphJobStatus]

_BELOW_ALL, _ABOVE_ALL = min(_CODES) - 1, max(_CODES) + 1
"""In `statuses`, these ask for numbers that no status has: such a row is met too, and reported as unreadable."""

_STATUSES: Final = bindparam("statuses", type_=ARRAY(SmallInteger))
_AFTER_CREATED: Final = bindparam("after_created", type_=DateTime(timezone=True))
_AFTER_JOB: Final = bindparam("after_job", type_=Uuid)
_EARLIEST: Final = bindparam("earliest", type_=DateTime(timezone=True))
_WINDOW: Final = bindparam("window_length", type_=Interval)

_of_tenant: Final = JOBS.c.tenant_id == TENANT
_of_kind: Final = _of_tenant & (JOBS.c.type == KIND)
_of_correlation: Final = _of_tenant & (JOBS.c.correlation_id == CORRELATION)
# Without the ids, which no index holds: what is counted is not read from the table.
_in_range: Final = (JOBS.c.created_at >= _EARLIEST) & (JOBS.c.created_at <= _AFTER_CREATED)
_in_page: Final = _in_range & ((JOBS.c.created_at < _AFTER_CREATED) | (JOBS.c.id < _AFTER_JOB))


def _code(number: int) -> ColumnElement[int]:
    return literal_column(str(number))


class _Range(NamedTuple):
    """A part of what is asked for that one index holds in its order."""

    condition: ColumnElement[bool]
    order: tuple[ColumnElement[Any], ...] = (JOBS.c.created_at.desc(),)


def _by_status(whose: ColumnElement[bool]) -> list[_Range]:
    """Each status, and what is none, which is met to be reported as a row that cannot be read."""
    # What is none is ordered by its number first, as the index is: else PostgreSQL 15 takes one that cannot find it.
    none = (JOBS.c.status, JOBS.c.created_at.desc())
    return [
        *(_Range(whose & (JOBS.c.status == _code(code))) for code in _CODES),
        _Range(whose & (JOBS.c.status < _code(min(_CODES))), none),
        _Range(whose & (JOBS.c.status > _code(max(_CODES))), none),
    ]


def _asked_for(whose: ColumnElement[bool]) -> list[_Range]:
    """The same, each read only where it is asked for: a one-time filter, so one statement serves every set."""
    marks = [*_CODES, _BELOW_ALL, _ABOVE_ALL]
    return [
        _Range(condition & (_code(mark) == func.any(_STATUSES)), order)
        for (condition, order), mark in zip(_by_status(whose), marks, strict=True)
    ]


def _newest(ranges: Iterable[_Range]) -> FromClause:
    """The newest of each range, in no order; a few more where times are equal."""
    scans = [
        select(JOBS).where(condition).order_by(*order).fetch(LIMIT, with_ties=True).subquery()
        for condition, order in ranges
    ]
    return scans[0] if len(scans) == 1 else union_all(*(select(scan) for scan in scans)).subquery("newest")


def _listed(newest: FromClause) -> Select[Any]:
    """The one fixed order of lists, over what the scans found."""
    return job_columns(newest).order_by(newest.c.created_at.desc(), newest.c.id.desc()).limit(LIMIT)


def _page(whose: Iterable[_Range]) -> Select[Any]:
    return _listed(_newest(_Range(condition & _in_page, order) for condition, order in whose))


def _counted(ranges: Iterable[_Range]) -> ScalarSelect[int]:
    """How many there are, up to the limit. Ordered, so that only the index serves it, which stops there."""
    scans = [
        select(literal_column("1").label("one")).where(condition).order_by(*order).limit(LIMIT).subquery()
        for condition, order in ranges
    ]
    found = union_all(*(select(scan.c.one) for scan in scans)).limit(LIMIT).subquery()
    return select(func.count(found.c.one)).scalar_subquery()


def _count(whose: Iterable[_Range]) -> Select[tuple[int]]:
    return select(_counted(_Range(condition & _in_range, order) for condition, order in whose))


_of_status: Final = _of_kind & (JOBS.c.status == bindparam("expected", type_=SmallInteger))

LIST_JOBS_OF_STATUS: Final = _listed(_newest([_Range(_of_status)]))
"""Reads a tenant's newest jobs of one kind and status."""

LIST_JOBS: Final = _listed(_newest(_by_status(_of_kind)))
"""Reads a tenant's newest jobs of one kind, whatever their status."""

PAGE_OF_TENANT: Final = _page(_asked_for(_of_tenant))
"""Reads a page of a tenant's jobs of both kinds, of the statuses asked for."""

PAGE_OF_KIND: Final = _page(_asked_for(_of_kind))
"""Reads a page of a tenant's jobs of one kind, of the statuses asked for."""

PAGE_OF_CORRELATION: Final = _page([_Range(_of_correlation)])
"""Reads a page of a tenant's jobs of one correlation id."""

COUNT_OF_TENANT: Final = _count(_asked_for(_of_tenant))
"""Counts what `PAGE_OF_TENANT` reads, up to a limit."""

COUNT_OF_KIND: Final = _count(_asked_for(_of_kind))
"""Counts what `PAGE_OF_KIND` reads, up to a limit."""

COUNT_OF_CORRELATION: Final = _count([_Range(_of_correlation)])
"""Counts what `PAGE_OF_CORRELATION` reads, up to a limit."""


class Shape(NamedTuple):
    """The statements that serve the queries of one index."""

    page: Select[Any]
    counted: Select[Any]


_SHAPE_OF_TENANT: Final = Shape(PAGE_OF_TENANT, COUNT_OF_TENANT)
_SHAPE_OF_KIND: Final = Shape(PAGE_OF_KIND, COUNT_OF_KIND)
_SHAPE_OF_CORRELATION: Final = Shape(PAGE_OF_CORRELATION, COUNT_OF_CORRELATION)


def shape_of(query: GraphJobQuery) -> Shape:
    """Gives the statements whose index carries a query."""
    if query.correlation_id is not None:
        return _SHAPE_OF_CORRELATION
    return _SHAPE_OF_TENANT if query.type is None else _SHAPE_OF_KIND


def binds_of(tenant: str, query: GraphJobQuery, *, limit: int) -> dict[str, object]:
    """Gives what any of the shapes is bound to.

    Raises:
        InvalidJob: the query's cursor is none, or belongs to another query or tenant.
    """
    start = query.start(tenant)
    return {
        "tenant": tenant,
        "kind": query.type.code if query.type else None,
        "statuses": [status.code for status in query.statuses] or [*_CODES, _BELOW_ALL, _ABOVE_ALL],
        "correlation": query.correlation_id,
        "earliest": query.earliest,
        "after_created": start.at,
        "after_job": start.id,
        "limit_rows": limit,
    }


def _seconds_from(time: ColumnElement[Any], until: ColumnElement[Any]) -> ColumnElement[float]:
    return as_type(extract("epoch", until - time), Float)


def _overlay_lag() -> Select[Any]:
    of_overlays = _of_tenant & (JOBS.c.type == _code(GraphJobType.OVERLAY.code))
    of_status = {status: of_overlays & (JOBS.c.status == _code(status.code)) for status in GraphJobStatus}
    # Rows of infinite times have no age; written by hand, they are left out rather than made to fail.
    finite = readable(JOBS.c.created_at).is_not(None) & readable(JOBS.c.updated_at).is_not(None)
    oldest = (
        select(JOBS.c.created_at)
        .where(of_status[GraphJobStatus.QUEUED], readable(JOBS.c.created_at).is_not(None))
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
        *(_counted([_Range(condition)]) for condition in of_status.values()),
        _seconds_from(oldest, func.now()),
        *share,
        func.count(completed.c.latency),
    ]
    return select(*columns).select_from(completed)


OVERLAY_LAG: Final = _overlay_lag()
"""Reads how far behind a tenant's overlays are: counts by status, the oldest queued one's age, percentiles.

The time of completion is the row's `updated_at`: a completed row never moves again, and it is the database's clock.
"""
