"""Comparison of input rows with stored rows: SQL expressions for any table; no I/O.

Input rows belong to many tenants, so the statements look across tenants and compare the tenant of each row. A row is
found by its key alone, within a LATERAL with an offset that the planner does not unfold. If it did, it would
overestimate the rows by some hundreds and read the whole table for each batch.
"""

from enum import IntEnum
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.selectable import NamedFromClause
from sqlalchemy.types import TypeEngine

from graphjobs.database.sql_expressions import unnest_params


class RowState(IntEnum):
    """The relation of an input row to the stored row."""

    NEW = 0
    UNCHANGED = 1
    SOURCE_AHEAD = 2
    """The same job at a later state in the source. The stored row is as a backfill wrote it."""
    TARGET_AHEAD = 3
    """The same job, which a service or a later copy changed in PostgreSQL."""
    CONFLICT = 4
    """The same job with different changes: neither the input nor the stored row is known to be later."""
    ID_TAKEN = 5
    RUN_ID_TAKEN = 6
    PARENT_MISSING = 7


ORDINAL: Final = "ordinal"
OPTIMIZER_FENCE: Final[sa.ColumnElement[Any]] = sa.literal_column("0")
"""An offset that the planner does not unfold."""

_LIMIT: Final = sa.bindparam("p_limit", type_=sa.Integer)

BACKFILL_VERSION_MAX: Final = sa.bindparam("p_backfill_version_max", type_=sa.DateTime(timezone=True))
"""The latest version that a backfill writes, before all versions of services: a later row was changed by a service.

It also limits versions of a clock that is ahead. A running job with a version in the future would never be rescued.
"""


def param_name(column: str) -> str:
    """Return the name of the array with the input values of a column."""
    return f"p_{column}"


def input_rows(table: sa.Table, **more: TypeEngine[Any]) -> NamedFromClause:
    """Return input rows with their ordinals, from one array per column; JSON is text."""
    table_types: dict[str, Any] = {
        column.name: sa.Text() if isinstance(column.type, JSONB) else column.type for column in table.c
    }
    types = {ORDINAL: sa.Integer(), **table_types, **more}
    return unnest_params("input_rows", *((param_name(name), type_, name) for name, type_ in types.items()))


def input_value(rows: sa.FromClause, table: sa.Table, name: str) -> sa.ColumnElement[Any]:
    """Return the input value of a column, cast to the type of the table."""
    value: sa.ColumnElement[Any] = rows.c[name]
    return sa.cast(value, JSONB) if isinstance(table.c[name].type, JSONB) else value


def state_code(state: RowState) -> sa.ColumnElement[Any]:
    """Return a state as SQL."""
    return sa.literal_column(str(state.value))


def digest(values: list[sa.ColumnElement[Any]]) -> sa.ColumnElement[Any]:
    """Return a 64-bit hash of a row.

    It does not depend on the order of JSON keys, and is the same on each server of one PostgreSQL version.
    """
    return sa.func.hash_record_extended(sa.func.row(*values), sa.literal_column("0"))


def groups(table: sa.Table, kind: str | None, content: list[str]) -> sa.Select[Any]:
    """Select tenant, kind, status, number and digest of the whole table; without a column for the kind it is 0."""
    # Another collation than that of the indexes: in the order of one, the table would be read at random.
    tenant = table.c.tenant_id.collate("C")
    group = [tenant, table.c.status, *([] if kind is None else [table.c[kind]])]
    total = sa.cast(sa.func.sum(sa.cast(digest([table.c[name] for name in content]), sa.Numeric)), sa.Text)
    return sa.select(tenant, _kind(table, kind), table.c.status, sa.func.count(), total).group_by(*group)


def seen_table(table: sa.Table) -> sa.TableClause:
    """Return the temporary table in which `--verify` records the ids that it has read."""
    return sa.table(f"backfill_seen_{table.name}", sa.column("id", table.c.id.type))


def create_seen_table(table: sa.Table, id_type: str) -> sa.TextClause:
    """Create that table until the end of the transaction."""
    name = seen_table(table).name
    return sa.text(f"CREATE TEMPORARY TABLE {name} (id {id_type} PRIMARY KEY) ON COMMIT DROP")


def extra_rows(table: sa.Table, kind: str | None) -> sa.Select[Any]:
    """Select id, tenant, kind and status of rows that `--verify` has not read, by id."""
    return (
        sa.select(table.c.id, table.c.tenant_id, _kind(table, kind), table.c.status)
        .where(~sa.exists().where(seen_table(table).c.id == table.c.id))
        .limit(_LIMIT)
    )


def _kind(table: sa.Table, kind: str | None) -> sa.ColumnElement[Any]:
    return sa.literal_column("0", sa.SmallInteger) if kind is None else table.c[kind]
