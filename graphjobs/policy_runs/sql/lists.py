"""Statements that read many policy runs of a tenant: pages, counts and metrics; see `single` for the rules.

A page is one ordered scan for each requested status and mode, of an index that ends in the page's own order, id
included. Statuses and modes are arrays, so that one statement serves every choice. The rows are read by their keys
afterwards: eighteen scans would read and convert many payloads for one page (5.3 ms, against 0.9 ms).
"""

from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from graphjobs.database.sql_expressions import ONE, unnest_params, within_budget
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.sql.single import LIMIT, RUNS, TENANT, TENANT_KEY, code, run_columns
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

_ORDER: Final = (RUNS.c.queued_at.desc(), RUNS.c.id.desc())
_of_tenant: Final = RUNS.c.tenant_id == TENANT
_of_policy: Final = _of_tenant & (RUNS.c.policy_id == sa.bindparam("p_policy_id", type_=sa.Text))
_in_page: Final = (
    sa.tuple_(RUNS.c.queued_at, RUNS.c.id)
    < sa.tuple_(
        sa.bindparam("p_after_queued_at", type_=sa.DateTime(timezone=True)), sa.bindparam("p_after_id", type_=sa.Uuid)
    )
) & (RUNS.c.queued_at > sa.bindparam("p_queued_from", type_=sa.DateTime(timezone=True)))

_statuses: Final = unnest_params("requested_statuses", ("p_statuses", sa.SmallInteger, "status"))
_modes: Final = unnest_params("requested_modes", ("p_modes", sa.SmallInteger, "mode"))
_of_status_and_mode: Final = (RUNS.c.status == _statuses.c.status) & (RUNS.c.mode == _modes.c.mode)


def _newest(condition: sa.ColumnElement[bool], *columns: sa.ColumnElement[Any]) -> tuple[sa.FromClause, sa.FromClause]:
    """Build the newest rows of each requested status and mode, from the index alone, and the join that has them all."""
    scan = sa.select(*columns).where(condition, _of_status_and_mode, _in_page).order_by(*_ORDER).limit(LIMIT)
    newest = scan.lateral("newest")
    return newest, _statuses.join(_modes, sa.true()).join(newest, sa.true())


def _page(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    newest, joined = _newest(condition, RUNS.c.id, RUNS.c.queued_at)
    order = (newest.c.queued_at.desc(), newest.c.id.desc())
    page = sa.select(newest.c.id).select_from(joined).order_by(*order).limit(LIMIT)
    ids = sa.func.array(page.scalar_subquery(), type_=ARRAY(sa.Uuid))
    rows = sa.select(RUNS).where(RUNS.c.id == sa.func.any(ids), TENANT_KEY == TENANT).order_by(*_ORDER).limit(LIMIT)
    return within_budget(rows, run_columns, lambda page: (page.c.queued_at.desc(), page.c.id.desc()))


def _count(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    # The scans are ordered, so that only the index serves them, and they stop at the limit.
    _, joined = _newest(condition, RUNS.c.id)
    counted = sa.select(ONE.label("one")).select_from(joined).limit(LIMIT).subquery("counted")
    return sa.select(sa.func.count(counted.c.one))


LIST_BY_TENANT: Final = _page(_of_tenant)
"""Lists a page of a tenant's runs, of the requested statuses and modes."""

LIST_BY_POLICY: Final = _page(_of_policy)
"""Lists a page of a tenant's runs of one policy, of the requested statuses and modes."""

COUNT_BY_TENANT: Final = _count(_of_tenant)
"""Counts the rows of `LIST_BY_TENANT`, up to a limit."""

COUNT_BY_POLICY: Final = _count(_of_policy)
"""Counts the rows of `LIST_BY_POLICY`, up to a limit."""


class ListStatements(NamedTuple):
    """The statements of the queries that one index serves."""

    page: sa.Select[Any]
    bounded_count: sa.Select[Any]


_BY_TENANT: Final = ListStatements(LIST_BY_TENANT, COUNT_BY_TENANT)
_BY_POLICY: Final = ListStatements(LIST_BY_POLICY, COUNT_BY_POLICY)


def statements_for(query: PolicyRunQuery) -> ListStatements:
    """Return the statements that serve a query by an index."""
    return _BY_TENANT if query.policy_id is None else _BY_POLICY


def list_params(tenant: str, query: PolicyRunQuery, *, limit: int) -> dict[str, object]:
    """Return the parameters of any of these statements.

    Raises:
        InvalidJob: the cursor is malformed, or belongs to another query or tenant.
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
"""The pairs of mode and priority of `RUN_METRICS`, in the order of its arrays."""


def metric_params() -> dict[str, object]:
    """Return the parameters of `RUN_METRICS` for each pair."""
    return {
        "p_modes": [mode.code for mode, _ in METRIC_BUCKETS],
        "p_priorities": [priority.code for _, priority in METRIC_BUCKETS],
        "p_all_modes": [mode.code for mode in PolicyRunMode],
    }


def _seconds_from(time: sa.ColumnElement[Any], until: sa.ColumnElement[Any]) -> sa.ColumnElement[float]:
    return sa.cast(sa.extract("epoch", until - time), sa.Float)


_COMPLETED_LIMIT: Final = sa.bindparam("p_completed_limit", type_=sa.BigInteger)


def _completed_latency() -> sa.CTE:
    """Build the percentiles of the newest completed runs: an ordered scan for each mode, merged up to a limit."""
    modes = unnest_params("modes", ("p_all_modes", sa.SmallInteger, "mode"))
    newest = (
        sa.select(RUNS.c.queued_at, RUNS.c.id, RUNS.c.updated_at)
        .where(
            _of_tenant,
            RUNS.c.status == code(PolicyRunStatus.COMPLETED),
            RUNS.c.mode == modes.c.mode,
            RUNS.c.queued_at >= sa.func.now() - sa.bindparam("p_window", type_=sa.Interval),
        )
        .order_by(*_ORDER)
        .limit(_COMPLETED_LIMIT)
        .lateral("newest")
    )
    latencies = (
        sa.select(
            sa.func.greatest(_seconds_from(newest.c.queued_at, newest.c.updated_at), sa.text("0.0")).label("latency")
        )
        .select_from(modes.join(newest, sa.true()))
        .order_by(newest.c.queued_at.desc(), newest.c.id.desc())
        .limit(_COMPLETED_LIMIT)
        .subquery("latencies")
    )
    percentiles = [
        sa.func.percentile_cont(sa.literal_column(level)).within_group(latencies.c.latency).label(name)
        for level, name in (("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99"))
    ]
    return sa.select(*percentiles, sa.func.count(latencies.c.latency).label("completed")).cte("latency")


def _pending_depth() -> sa.CTE:
    """Build the number of pending runs of each mode and priority, and the time of the oldest one."""
    buckets = unnest_params(
        "buckets", ("p_modes", sa.SmallInteger, "mode"), ("p_priorities", sa.SmallInteger, "priority")
    )
    in_bucket = (
        (TENANT_KEY == TENANT)
        & (RUNS.c.status == code(PolicyRunStatus.PENDING))
        & (RUNS.c.mode == buckets.c.mode)
        & (RUNS.c.priority == buckets.c.priority)
    )
    pending = sa.select(RUNS.c.queued_at).where(in_bucket).order_by(RUNS.c.queued_at).limit(LIMIT).lateral("pending")
    return (
        sa.select(
            *buckets.c,
            sa.func.count(pending.c.queued_at).label("pending"),
            sa.func.min(pending.c.queued_at).label("oldest"),
        )
        .select_from(buckets.outerjoin(pending, sa.true()))
        .group_by(*buckets.c)
        .cte("depth")
    )


def _metrics() -> sa.Select[Any]:
    depth, latency = _pending_depth(), _completed_latency()
    age = _seconds_from(depth.c.oldest, sa.func.now())
    columns = (depth.c.mode, depth.c.priority, depth.c.pending, age, *latency.c)
    return sa.select(*columns).select_from(depth.join(latency, sa.true()))


RUN_METRICS: Final = _metrics()
"""Reads a row for each mode and priority: the number of pending runs, the age of the oldest, and the percentiles.

The time of completion is the row's `updated_at`: a completed row never changes, and it is the database's clock.
"""
