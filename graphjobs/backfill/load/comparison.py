"""How what comes stands to what is there, and the parts of SQL that ask so of any table; no I/O here.

What comes is of any tenants, in an order of its own, so these look across tenants: the tenant is compared, row by row,
and not what a row is found by. A row is found by its key alone, from within a LATERAL that the planner cannot unfold:
it would else guess a few hundred rows too many, and read the whole table for each batch.
"""

from enum import IntEnum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Numeric,
    Select,
    SmallInteger,
    Table,
    TableClause,
    Text,
    TextClause,
    bindparam,
    column,
    exists,
    func,
    literal_column,
    select,
    table,
    text,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.selectable import NamedFromClause
from sqlalchemy.types import TypeEngine

from graphjobs.database.sql_expressions import unnest_params


class Standing(IntEnum):
    """How what comes stands to what is there."""

    NEW = 0
    SAME = 1
    NEWER = 2
    """The same job, which has gone on there; here it stands as a backfill wrote it."""
    OLDER = 3
    """The same job, which has moved on here, or came from a later copy."""
    DIVERGED = 4
    """The same job, of which nobody can tell whether this copy or the row is the later one, or both have moved."""
    ID_TAKEN = 5
    NAME_TAKEN = 6
    NO_JOB = 7


ORDINAL: Final = "ordinal"
NOT_UNFOLDED: Final[ColumnElement[Any]] = literal_column("0")
"""An offset that the planner cannot unfold."""

_LIMIT: Final = bindparam("limit_rows", type_=Integer)

CEILING: Final = bindparam("ceiling", type_=DateTime(timezone=True))
"""The latest version that a backfill writes, before all that services write: a row that has a later one has moved here.

It also keeps a clock that is ahead from giving a version of the future, with which a running job is never rescued.
"""


def bind_of(name: str) -> str:
    """Gives the bind that holds a column's values, one of each row that comes."""
    return f"given_{name}"


def given(rows: Table, **more: TypeEngine[Any]) -> NamedFromClause:
    """Gives what comes, from one array a column, as rows of a table with their ordinals; JSON as text."""
    kinds: dict[str, Any] = {each.name: Text() if isinstance(each.type, JSONB) else each.type for each in rows.c}
    named = {ORDINAL: Integer(), **kinds, **more}
    return unnest_params("given", *((bind_of(name), kind, name) for name, kind in named.items()))


def value_of(coming: FromClause, rows: Table, name: str) -> ColumnElement[Any]:
    """Gives what comes for a column, of that column's type."""
    value: ColumnElement[Any] = coming.c[name]
    return as_type(value, JSONB) if isinstance(rows.c[name].type, JSONB) else value


def code(standing: Standing) -> ColumnElement[Any]:
    """Gives a standing as SQL."""
    return literal_column(str(standing.value))


def digest(values: list[ColumnElement[Any]]) -> ColumnElement[Any]:
    """Of a row, whatever order JSON was written in; the same on each server of a version, and of 64 bits."""
    return func.hash_record_extended(func.row(*values), literal_column("0"))


def groups(rows: Table, kind: str | None, content: list[str]) -> Select[Any]:
    """Selects tenant, kind, status, number and digest of the whole table; a kind of None is 0."""
    named = [rows.c.tenant_id, rows.c.status, *([] if kind is None else [rows.c[kind]])]
    summed = as_type(func.sum(as_type(digest([rows.c[each] for each in content]), Numeric)), Text)
    return select(rows.c.tenant_id, _kind(rows, kind), rows.c.status, func.count(), summed).group_by(*named)


def seen(rows: Table) -> TableClause:
    """The table that `--verify` notes in what it has seen of another."""
    return table(f"backfill_seen_{rows.name}", column("id", rows.c.id.type))


def prepare(rows: Table, kind: str) -> TextClause:
    """Makes it, until the transaction ends."""
    return text(f"CREATE TEMPORARY TABLE {seen(rows).name} (id {kind} PRIMARY KEY) ON COMMIT DROP")


def only_here(rows: Table, kind: str | None) -> Select[Any]:
    """Selects id, tenant, kind and status of what it has not seen."""
    return (
        select(rows.c.id, rows.c.tenant_id, _kind(rows, kind), rows.c.status)
        .where(~exists().where(seen(rows).c.id == rows.c.id))
        .limit(_LIMIT)
    )


def _kind(rows: Table, kind: str | None) -> ColumnElement[Any]:
    return literal_column("0", SmallInteger) if kind is None else rows.c[kind]
