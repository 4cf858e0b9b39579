"""SQL expressions that every package uses: arrays as rows, increasing versions, tenants in rotation."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.sql.selectable import NamedFromClause

AFTER_TENANT: Final = sa.bindparam("p_after_tenant_id", type_=sa.Text)
"""The tenant after which a rotation starts."""

ONE: Final[sa.ColumnElement[int]] = sa.literal_column("1")
"""The number 1 in the SQL text: with a bind, the planner would not know the limit."""


def null_if_unrepresentable(time: sa.ColumnElement[datetime]) -> sa.ColumnElement[datetime | None]:
    """Return NULL for a time that Python cannot represent: one such row would make its whole page unreadable."""
    return sa.case(
        (time.between(sa.text("'0001-01-02 00:00:00+00'"), sa.text("'9999-12-30 23:59:59.999999+00'")), time)
    )


def next_version(version: sa.ColumnElement[datetime]) -> sa.ColumnElement[datetime]:
    """Return the version after a write. It increases even where now() is earlier than the last writer's now()."""
    return sa.func.greatest(sa.func.now(), version + sa.text("interval '1 microsecond'"))


def utc_text(time: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """Format a time as payloads and values store it, whatever the time zone of the session."""
    pattern: sa.ColumnElement[str] = sa.literal_column("""'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'""")
    return sa.func.to_char(sa.func.timezone(sa.literal_column("'utc'"), time), pattern)


def unnest_params(name: str, *columns: tuple[str, Any, str]) -> NamedFromClause:
    """Return array binds as rows. A column is its bind name, the type of its items, and its column name."""
    binds = [sa.bindparam(bind, type_=ARRAY(item_type)) for bind, item_type, _ in columns]
    typed_columns = [sa.column(column_name, item_type) for _, item_type, column_name in columns]
    return sa.func.unnest(*binds).table_valued(*typed_columns).render_derived(name)


def jsonb_merge(*parts: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Merge JSON objects; a later object wins."""
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.op("||", return_type=JSONB)(part)
    return merged


PAYLOAD_BYTES_MAX: Final = 8 * 1024 * 1024
"""The most bytes of payload that one statement returns, beside its limit of rows; a single row may be larger."""

_BUDGET: Final[sa.ColumnElement[int]] = sa.literal_column(str(PAYLOAD_BYTES_MAX), sa.BigInteger)


def exceeds_budget(size: sa.ColumnElement[int], order: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[bool]:
    """Return whether a row, with all rows before it, exceeds the budget of bytes; the first row never does."""
    return sa.func.sum(size).over(order_by=order, rows=(None, 0)) > sa.func.greatest(_BUDGET, size)


def within_budget(
    rows: sa.Select[Any],
    columns: Callable[[sa.FromClause], sa.Select[Any]],
    order: Callable[[sa.FromClause], Sequence[sa.ColumnElement[Any]]],
) -> sa.Select[Any]:
    """End a list where its payloads, as text, exceed the budget of bytes.

    The first row that exceeds it is returned without its payload and with NULL as its first column, so that the caller
    knows that the list goes on. Rows after it are neither read out of TOAST nor converted: the count is a window
    function that PostgreSQL stops at its bound.

    Args:
        rows: selects the columns of the table, ordered and limited.
        columns: selects the columns of the answer; the first one is the key.
        order: returns the order of the rows.
    """
    limited = rows.subquery("limited")
    # OFFSET keeps the planner from converting each payload twice.
    as_text = (
        sa.select(*(sa.cast(c, sa.Text).label(c.name) if c.name == "payload" else c for c in limited.c))
        .order_by(*order(limited))
        .offset(sa.literal_column("0"))
        .subquery("as_text")
    )
    is_over = exceeds_budget(sa.func.octet_length(as_text.c.payload), order(as_text)).label("is_over")
    summed = sa.select(*as_text.c, is_over).subquery("summed")
    fits = ~summed.c.is_over
    over = sa.func.count(sa.case((summed.c.is_over, ONE))).over(order_by=order(summed), rows=(None, 0)).label("over")
    page = sa.select(
        *(sa.case((fits, c)).label(c.name) if c.name == "payload" else c for c in summed.c), over
    ).subquery("page")
    key, *others = columns(page).selected_columns
    listed = sa.select(sa.case((~page.c.is_over, key)), *others)
    return listed.where(page.c.over <= ONE).order_by(*order(page))


def payload_bytes(rows: sa.FromClause) -> sa.ColumnElement[int]:
    """Return the size of a row's payload as text."""
    return sa.func.octet_length(sa.cast(rows.c.payload, sa.Text))


APART_AFTER: Final = sa.bindparam("p_apart_after", type_=sa.Integer)
"""The number of attempts after which a row that lost one is left, to be taken alone; NULL means that none is left."""


def size_to_take(
    size: sa.ColumnElement[int], attempts: sa.ColumnElement[Any], is_apart: sa.ColumnElement[bool]
) -> sa.ColumnElement[Any]:
    """Return the size of a row's payload; NULL if the row is left, to be taken alone.

    The condition reads the log, and only of a row that has had so many attempts.
    """
    may_be_apart = (attempts >= APART_AFTER).is_(sa.true())
    return sa.case((~may_be_apart, size), (is_apart, None), else_=size)


def ids_within_budget(locked: sa.FromClause) -> sa.CTE:
    """Choose the ids of locked rows, with their turn, tenant and size, that fit the budget of bytes together.

    The first row of each tenant comes before the second of any, so that no tenant takes the budget of all.
    """
    is_over = exceeds_budget(locked.c.size, (locked.c.turn, locked.c.tenant_id, locked.c.id)).label("is_over")
    chosen = sa.select(locked.c.id, is_over).where(locked.c.size.is_not(None)).subquery("chosen")
    return sa.select(chosen.c.id).where(~chosen.c.is_over).cte("locked_ids").prefix_with("MATERIALIZED")


def taken_or_apart(rows: sa.Select[Any], taken: sa.CTE, locked: sa.CTE) -> sa.Select[Any]:
    """Add the tenants of the rows that were left to a select of the rows that were taken, in a row of NULLs if none."""
    left = sa.select(locked.c.tenant_id).where(locked.c.size.is_(None)).distinct()
    tenants = sa.func.array(left.scalar_subquery(), type_=ARRAY(sa.Text))
    apart = sa.select(tenants.label("tenant_ids")).subquery("apart")
    return (
        rows.add_columns(apart.c.tenant_ids)
        .select_from(apart.outerjoin(taken, sa.literal_column("true")))
        .where(sa.or_(taken.c.id.is_not(None), sa.func.cardinality(apart.c.tenant_ids) > sa.literal_column("0")))
    )


NextTenant = Callable[[Callable[[sa.ColumnElement[str]], sa.ColumnElement[bool]]], sa.ColumnElement[Any]]
"""Returns the first tenant that satisfies a condition, as a scalar; one index descent."""


def rotating_tenants(
    name: str,
    next_tenant: NextTenant,
    has_work: Callable[[sa.CTE], sa.ColumnElement[bool]],
    *,
    after: sa.ColumnElement[str] = AFTER_TENANT,
) -> sa.CompoundSelect[Any]:
    """List tenants in rotation, with one step per tenant, however many rows a tenant has.

    Args:
        name: the prefix of the CTE names, such as "waiting".
        next_tenant: returns the next tenant.
        has_work: whether a tenant is listed.
        after: the tenant after which the rotation starts.
    """
    onwards = skip_scan(f"{name}_onwards", next_tenant, has_work, lambda tenant: tenant > after)
    around = skip_scan(f"{name}_around", next_tenant, has_work, lambda tenant: tenant <= after)
    return sa.union_all(onwards, around)


def skip_scan(
    name: str,
    next_tenant: NextTenant,
    has_work: Callable[[sa.CTE], sa.ColumnElement[bool]],
    within: Callable[[sa.ColumnElement[str]], sa.ColumnElement[bool]],
) -> sa.Select[Any]:
    """List the tenants within a range that have work, in their order; see `rotating_tenants`."""
    walk = sa.select(next_tenant(within).label("tenant")).cte(name, recursive=True)
    step = next_tenant(lambda tenant: (tenant > walk.c.tenant) & within(tenant))
    walk = walk.union_all(sa.select(step).where(walk.c.tenant.is_not(None)))
    return sa.select(walk.c.tenant).where(walk.c.tenant.is_not(None), has_work(walk))
