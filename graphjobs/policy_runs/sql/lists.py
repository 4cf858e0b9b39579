"""Every SQL statement that reads many policy runs of a tenant, as constants with named binds: pages, counts, metrics.

What holds for `statements` holds here. A page is one ordered scan for each status and mode that is asked for, each of
an index that ends in the page's own order, id included; what is asked for is a pair of arrays, so one statement serves
every choice. The rows themselves are read by their keys, once it is known which: payloads of eighteen scans would else
be read and written out for one page (5.3 ms, so 0.9).
"""

from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Float,
    FromClause,
    Interval,
    Select,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    extract,
    func,
    literal_column,
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import ARRAY

from graphjobs.database.sql_expressions import ONE, unnest_params
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.sql.single import LIMIT, RUNS, TENANT, TENANT_KEY, code, run_columns
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

_ORDER: Final = (RUNS.c.queued_at.desc(), RUNS.c.id.desc())
_of_tenant: Final = RUNS.c.tenant_id == TENANT
_of_policy: Final = _of_tenant & (RUNS.c.policy_id == bindparam("p_policy_id", type_=Text))
_in_page: Final = (
    tuple_(RUNS.c.queued_at, RUNS.c.id)
    < tuple_(bindparam("p_after_queued_at", type_=DateTime(timezone=True)), bindparam("p_after_id", type_=Uuid))
) & (RUNS.c.queued_at > bindparam("p_queued_from", type_=DateTime(timezone=True)))

_statuses: Final = unnest_params("asked_status", ("p_statuses", SmallInteger, "status"))
_modes: Final = unnest_params("asked_mode", ("p_modes", SmallInteger, "mode"))
_of_both: Final = (RUNS.c.status == _statuses.c.status) & (RUNS.c.mode == _modes.c.mode)


def _each(found: FromClause) -> FromClause:
    """What is found for each status and mode that is asked for."""
    return _statuses.join(_modes, true()).join(found, true())


def _newest(whose: ColumnElement[bool], *columns: ColumnElement[Any]) -> FromClause:
    # Of the index alone: what is read of the table is what is shown.
    found = select(*columns).where(whose, _of_both, _in_page).order_by(*_ORDER).limit(LIMIT)
    return found.lateral("newest")


def _page(whose: ColumnElement[bool]) -> Select[Any]:
    newest = _newest(whose, RUNS.c.id, RUNS.c.queued_at)
    order = (newest.c.queued_at.desc(), newest.c.id.desc())
    shown = select(newest.c.id).select_from(_each(newest)).order_by(*order).limit(LIMIT)
    ids = func.array(shown.scalar_subquery(), type_=ARRAY(Uuid))
    return run_columns(RUNS).where(RUNS.c.id == func.any(ids), TENANT_KEY == TENANT).order_by(*_ORDER).limit(LIMIT)


def _count(whose: ColumnElement[bool]) -> Select[Any]:
    # Ordered, so that only the index serves it, which stops at the limit.
    newest = _newest(whose, RUNS.c.id)
    found = select(ONE.label("one")).select_from(_each(newest)).limit(LIMIT).subquery("found")
    return select(func.count(found.c.one))


LIST_BY_TENANT: Final = _page(_of_tenant)
"""Reads a page of a tenant's runs, of the statuses and modes asked for."""

LIST_BY_POLICY: Final = _page(_of_policy)
"""Reads a page of a tenant's runs of one policy, of the statuses and modes asked for."""

COUNT_BY_TENANT: Final = _count(_of_tenant)
"""Counts what `PAGE_OF_TENANT` reads, up to a limit."""

COUNT_BY_POLICY: Final = _count(_of_policy)
"""Counts what `PAGE_OF_POLICY` reads, up to a limit."""


class ListStatements(NamedTuple):
    """The statements that serve the queries of one index."""

    page: Select[Any]
    bounded_count: Select[Any]


_BY_TENANT: Final = ListStatements(LIST_BY_TENANT, COUNT_BY_TENANT)
_BY_POLICY: Final = ListStatements(LIST_BY_POLICY, COUNT_BY_POLICY)


def statements_for(query: PolicyRunQuery) -> ListStatements:
    """Gives the statements whose index carries a query."""
    return _BY_TENANT if query.policy_id is None else _BY_POLICY


def list_params(tenant: str, query: PolicyRunQuery, *, limit: int) -> dict[str, object]:
    """Gives what any of the shapes is bound to.

    Raises:
        InvalidJob: the query's cursor is none, or belongs to another query or tenant.
    """
    start = query.page_key(tenant)
    return {
        "p_tenant_id": tenant,
        "p_policy_id": query.policy_id,
        "p_statuses": sorted({status.code for status in query.statuses or PolicyRunStatus}),
        "p_modes": [mode.code for mode in ([query.mode] if query.mode else PolicyRunMode)],
        "p_queued_from": query.earliest,
        "p_after_queued_at": start.at,
        "p_after_id": start.id,
        "p_limit": limit,
    }


METRIC_BUCKETS: Final = tuple((mode, priority) for mode in PolicyRunMode for priority in PolicyRunPriority)
"""The pairs that `RUN_METRICS` tells of, in the order of its arrays."""


def metric_params() -> dict[str, object]:
    """The binds that ask `RUN_METRICS` for each pair."""
    return {
        "p_modes": [mode.code for mode, _ in METRIC_BUCKETS],
        "p_priorities": [priority.code for _, priority in METRIC_BUCKETS],
        "p_all_modes": [mode.code for mode in PolicyRunMode],
    }


def _seconds_from(time: ColumnElement[Any], until: ColumnElement[Any]) -> ColumnElement[float]:
    return as_type(extract("epoch", until - time), Float)


_COMPLETED_ROWS: Final = bindparam("p_completed_limit", type_=BigInteger)


def _metrics() -> Select[Any]:
    cell = unnest_params("cell", ("p_modes", SmallInteger, "mode"), ("p_priorities", SmallInteger, "priority"))
    pending = (
        (TENANT_KEY == TENANT)
        & (RUNS.c.status == code(PolicyRunStatus.PENDING))
        & (RUNS.c.mode == cell.c.mode)
        & (RUNS.c.priority == cell.c.priority)
    )
    waiting = select(RUNS.c.queued_at).where(pending).order_by(RUNS.c.queued_at).limit(LIMIT).lateral("waiting")
    each = unnest_params("each_mode", ("p_all_modes", SmallInteger, "mode"))
    newest = (
        select(RUNS.c.queued_at, RUNS.c.id, RUNS.c.updated_at)
        .where(
            _of_tenant,
            RUNS.c.status == code(PolicyRunStatus.COMPLETED),
            RUNS.c.mode == each.c.mode,
            RUNS.c.queued_at >= func.now() - bindparam("p_window", type_=Interval),
        )
        .order_by(*_ORDER)
        .limit(_COMPLETED_ROWS)
        .lateral("newest")
    )
    took = (
        select(func.greatest(_seconds_from(newest.c.queued_at, newest.c.updated_at), text("0.0")).label("latency"))
        .select_from(each.join(newest, true()))
        .order_by(newest.c.queued_at.desc(), newest.c.id.desc())
        .limit(_COMPLETED_ROWS)
        .subquery("took")
    )
    levels = [
        func.percentile_cont(literal_column(level)).within_group(took.c.latency).label(name)
        for level, name in (("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99"))
    ]
    latency = select(*levels, func.count(took.c.latency).label("completed")).cte("latency")
    of_cell = (cell.c.mode, cell.c.priority)
    depth = (
        select(*of_cell, func.count(waiting.c.queued_at).label("number"), func.min(waiting.c.queued_at).label("oldest"))
        .select_from(cell.outerjoin(waiting, true()))
        .group_by(*of_cell)
        .cte("depth")
    )
    columns = (depth.c.mode, depth.c.priority, depth.c.number, _seconds_from(depth.c.oldest, func.now()), *latency.c)
    return select(*columns).select_from(depth.join(latency, true()))


RUN_METRICS: Final = _metrics()
"""Reads a row for each mode and priority: how many are pending, and the age of the oldest; and in each the percentiles.

The time of completion is the row's `updated_at`: a completed row never moves again, and it is the database's clock.
"""
