"""SQL expressions that every package uses: arrays as rows, increasing versions, tenants in rotation."""

from collections.abc import Callable
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


NextTenant = Callable[[Callable[[sa.ColumnElement[str]], sa.ColumnElement[bool]]], sa.ColumnElement[Any]]
"""Returns the first tenant that satisfies a condition, as a scalar; one index descent."""


def rotating_tenants(
    name: str,
    next_tenant: NextTenant,
    has_work: Callable[[sa.CTE], sa.ColumnElement[bool]],
    *,
    after: sa.ColumnElement[str] = AFTER_TENANT,
    only_if: sa.ColumnElement[bool] | None = None,
) -> sa.CompoundSelect[Any]:
    """List tenants in rotation, with one step per tenant, however many rows a tenant has.

    Args:
        name: the prefix of the CTE names, such as "waiting".
        next_tenant: returns the next tenant.
        has_work: whether a tenant is listed.
        after: the tenant after which the rotation starts.
        only_if: no row is read where this condition is false.
    """
    onwards = _skip_scan(f"{name}_onwards", next_tenant, has_work, only_if, lambda tenant: tenant > after)
    around = _skip_scan(f"{name}_around", next_tenant, has_work, only_if, lambda tenant: tenant <= after)
    return sa.union_all(onwards, around)


def _skip_scan(
    name: str,
    next_tenant: NextTenant,
    has_work: Callable[[sa.CTE], sa.ColumnElement[bool]],
    only_if: sa.ColumnElement[bool] | None,
    within: Callable[[sa.ColumnElement[str]], sa.ColumnElement[bool]],
) -> sa.Select[Any]:
    first = sa.select(next_tenant(within).label("tenant"))
    if only_if is not None:
        first = first.where(only_if)
    walk = first.cte(name, recursive=True)
    step = next_tenant(lambda tenant: (tenant > walk.c.tenant) & within(tenant))
    walk = walk.union_all(sa.select(step).where(walk.c.tenant.is_not(None)))
    return sa.select(walk.c.tenant).where(walk.c.tenant.is_not(None), has_work(walk))
