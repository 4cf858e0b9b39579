"""Parts that the SQL of every room is made of: arrays as rows, versions that rise, walks from tenant to tenant."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    CompoundSelect,
    Select,
    Text,
    bindparam,
    case,
    column,
    func,
    literal_column,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.sql.selectable import NamedFromClause

AFTER_TENANT: Final = bindparam("p_after_tenant_id", type_=Text)
"""The tenant that a circle of tenants begins after."""


def null_if_unrepresentable(time: ColumnElement[datetime]) -> ColumnElement[datetime | None]:
    """Gives NULL for a time that Python cannot hold: one such row, written by hand, would end every page with it."""
    return case((time.between(text("'0001-01-02 00:00:00+00'"), text("'9999-12-30 23:59:59.999999+00'")), time))


def next_version(version: ColumnElement[datetime]) -> ColumnElement[datetime]:
    """Gives the version a write makes of one: now() can go backwards between writers, and the version must not."""
    return func.greatest(func.now(), version + text("interval '1 microsecond'"))


def utc_text(time: ColumnElement[Any]) -> ColumnElement[str]:
    """Gives a time as payloads tell it, of the same text as a value's own, whatever the session's time zone."""
    form: ColumnElement[str] = literal_column("""'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'""")
    return func.to_char(func.timezone(literal_column("'utc'"), time), form)


def unnest_params(name: str, *columns: tuple[str, Any, str]) -> NamedFromClause:
    """Arrays that are given, as rows: a bind, the type of its items, and the column's name, for each."""
    binds = [bindparam(bind, type_=ARRAY(kind)) for bind, kind, _ in columns]
    named = [column(column_name, kind) for _, kind, column_name in columns]
    return func.unnest(*binds).table_valued(*named).render_derived(name)


def jsonb_merge(*parts: ColumnElement[Any]) -> ColumnElement[Any]:
    """Merges JSON objects; what comes later wins."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.op("||", return_type=JSONB)(part)
    return whole


NextTenant = Callable[[Callable[[ColumnElement[str]], ColumnElement[bool]]], ColumnElement[Any]]
"""Gives the first tenant that meets a condition, as a scalar; one descent of an index."""


def rotating_tenants(
    name: str,
    next_tenant: NextTenant,
    has_work: Callable[[CTE], ColumnElement[bool]],
    *,
    after: ColumnElement[str] = AFTER_TENANT,
    only_if: ColumnElement[bool] | None = None,
) -> CompoundSelect[Any]:
    """Lists tenants in a circle from after one: a step from one to the next, however many rows a tenant has.

    Args:
        name: what its parts are named after, "waiting".
        next_tenant: a step.
        has_work: whether a tenant that was met is listed.
        after: the tenant to begin after.
        only_if: nothing is looked at where this is not so.
    """
    onwards = _skip_scan(f"{name}_onwards", next_tenant, has_work, only_if, lambda tenant: tenant > after)
    around = _skip_scan(f"{name}_around", next_tenant, has_work, only_if, lambda tenant: tenant <= after)
    return union_all(onwards, around)


def _skip_scan(
    name: str,
    next_tenant: NextTenant,
    has_work: Callable[[CTE], ColumnElement[bool]],
    only_if: ColumnElement[bool] | None,
    within: Callable[[ColumnElement[str]], ColumnElement[bool]],
) -> Select[Any]:
    first = select(next_tenant(within).label("tenant"))
    if only_if is not None:
        first = first.where(only_if)
    walk = first.cte(name, recursive=True)
    walk = walk.union_all(
        select(next_tenant(lambda tenant: (tenant > walk.c.tenant) & within(tenant))).where(walk.c.tenant.is_not(None))
    )
    return select(walk.c.tenant).where(walk.c.tenant.is_not(None), has_work(walk))


def one() -> ColumnElement[int]:
    """Gives the number 1 as SQL: a bind would make a limit unknown to the planner."""
    return literal_column("1")
