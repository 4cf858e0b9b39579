"""Every SQL statement that writes what comes from MongoDB, or compares it with what is there; no I/O here.

What comes is of any tenants, in an order of its own, so these look across tenants: the tenant is compared, row by row,
and not what a row is found by. A row is found by its key alone, from within a LATERAL that the planner cannot unfold:
it would else guess a few hundred rows too many, and read the whole table for each batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias, cast

from sqlalchemy import (
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Numeric,
    Select,
    SmallInteger,
    Table,
    Text,
    TextClause,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    exists,
    func,
    literal_column,
    null,
    select,
    table,
    text,
    true,
    update,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, REGCLASS, insert
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate
from sqlalchemy.sql.selectable import LateralFromClause, NamedFromClause

from graphjobs.database.sql import readable, unnested
from graphjobs.jobs.status import GraphJobStatus
from graphjobs.jobs.tables import GraphJobEventRow, GraphJobRow
from graphjobs.policy_runs.status import PolicyRunStatus
from graphjobs.policy_runs.tables import PolicyRunEventRow, PolicyRunRow


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


@dataclass(frozen=True, slots=True)
class Keyed:
    """The statements on a table whose rows come with their ids: graph jobs, policy runs.

    Attributes:
        add: inserts what is new; gives the ids of what was.
        compare: gives ordinal, `Standing`, and the version and status of the row that is there.
        renew: puts newer copies in the place of rows that are still at the version and status seen; gives their ids.
        verify: gives ordinal, `Standing`, digest of what comes, and whether it is the first of its id.
        groups: gives of the whole table tenant, kind, status, number and digest.
        only_here: gives id, tenant, kind and status of rows that `verify` has not seen.
        prepare: makes what `verify` notes ids in, until the transaction ends.
    """

    add: ReturningInsert[Any]
    compare: Select[Any]
    renew: ReturningUpdate[Any]
    verify: Select[Any]
    groups: Select[Any]
    only_here: Select[Any]
    prepare: TextClause


@dataclass(frozen=True, slots=True)
class Logged:
    """The statements on a log, whose entries mostly come without ids; see `Keyed`.

    Attributes:
        add: inserts entries, whose ids the database gives, in the order they come in; gives those ids.
        add_numbered: inserts entries with their ids; gives those that were free.
        lock: keeps others from writing entries meanwhile.
        number: lets the ids that the database gives begin after all that are there; under `lock`.
        last_number: gives the id that the database gave last.
        compare: gives ordinal and `Standing`.
        verify, groups, only_here, prepare: as of `Keyed`; the ids of `only_here` are the entries'.
    """

    add: ReturningInsert[Any]
    add_numbered: ReturningInsert[Any]
    lock: TextClause
    number: Select[Any]
    last_number: Select[Any]
    compare: Select[Any]
    verify: Select[Any]
    groups: Select[Any]
    only_here: Select[Any]
    prepare: TextClause


_Value: TypeAlias = Callable[[str], ColumnElement[Any]]

ORDINAL: Final = "ordinal"
_LIMIT: Final = bindparam("limit_rows", type_=Integer)


CEILING: Final = bindparam("ceiling", type_=DateTime(timezone=True))
"""The latest version that a backfill writes, before all that services write: a row that has a later one has moved here.

It also keeps a clock that is ahead from giving a version of the future, with which a running job is never rescued.
"""


def bind_of(name: str) -> str:
    """Gives the bind that holds a column's values, one of each row that comes."""
    return f"given_{name}"


def _given(rows: Table, **more: Any) -> NamedFromClause:
    kinds: dict[str, Any] = {each.name: Text() if isinstance(each.type, JSONB) else each.type for each in rows.c}
    named = {ORDINAL: Integer(), **kinds, **more}
    return unnested("given", *((bind_of(name), kind, name) for name, kind in named.items()))


def _version(given: FromClause) -> ColumnElement[Any]:
    version: ColumnElement[Any] = func.least(given.c.updated_at, CEILING)
    return version


def _of(given: FromClause, rows: Table, name: str) -> ColumnElement[Any]:
    value: ColumnElement[Any] = given.c[name]
    return as_type(value, JSONB) if isinstance(rows.c[name].type, JSONB) else value


def _digest(values: list[ColumnElement[Any]]) -> ColumnElement[Any]:
    """Of a row, whatever order JSON was written in; the same on each server of a version, and of 64 bits."""
    return func.hash_record_extended(func.row(*values), literal_column("0"))


def _row_there(given: FromClause, rows: Table) -> LateralFromClause:
    return select(*rows.c).where(rows.c.id == given.c.id).offset(literal_column("0")).lateral("there")


def _keyed(
    rows: Table,
    *,
    whose: tuple[str, ...],
    kind: str | None,
    attempts: Callable[[_Value], ColumnElement[Any]],
    final: int,
    name: str | None = None,
) -> Keyed:
    names = [each.name for each in rows.c]
    content = [each for each in names if each != "updated_at"]
    given = _given(rows)
    there = _row_there(given, rows)
    version = _version(given)
    add = (
        insert(rows)
        .from_select(
            names,
            select(*(version if each == "updated_at" else _of(given, rows, each) for each in names)).order_by(
                given.c.id
            ),
        )
        .on_conflict_do_nothing()
        .returning(rows.c.id)
    )
    same = and_(*(there.c[each].is_not_distinct_from(_of(given, rows, each)) for each in content))
    missing: Any = literal_column(str(Standing.NEW.value))
    if name is not None:
        taken = exists().where(
            rows.c[name] == given.c[name], rows.c.tenant_id.collate("C") == given.c.tenant_id, rows.c.id != given.c.id
        )
        missing = case((taken, _code(Standing.NAME_TAKEN)), else_=missing)
    tried, tried_here = attempts(lambda each: _of(given, rows, each)), attempts(lambda each: there.c[each])
    ended = given.c.status >= literal_column(str(final))
    goes_on = (
        (there.c.updated_at <= CEILING)
        & (there.c.status < literal_column(str(final)))
        & (tried >= tried_here)
        & ((given.c.updated_at > there.c.updated_at) | (tried > tried_here) | ended)
    )
    standing = case(
        (there.c.id.is_(null()), missing),
        (same, _code(Standing.SAME)),
        (and_(*(there.c[each] == given.c[each] for each in whose)).is_not(true()), _code(Standing.ID_TAKEN)),
        (given.c.updated_at < there.c.updated_at, _code(Standing.OLDER)),
        (goes_on, _code(Standing.NEWER)),
        else_=_code(Standing.DIVERGED),
    )
    compare = select(given.c.ordinal, standing, readable(there.c.updated_at), there.c.status).select_from(
        given.outerjoin(there, true())
    )
    replacing = _given(rows, seen=DateTime(timezone=True), expected=SmallInteger())
    renew = (
        update(rows)
        .where(
            rows.c.id == func.any(bindparam(bind_of("id"), type_=ARRAY(Uuid))),
            rows.c.id == replacing.c.id,
            rows.c.tenant_id == replacing.c.tenant_id,
            rows.c.updated_at == replacing.c.seen,
            rows.c.status == replacing.c.expected,
        )
        .values(
            {
                each: _version(replacing) if each == "updated_at" else _of(replacing, rows, each)
                for each in names
                if each != "id"
            }
        )
        .returning(rows.c.id)
    )
    seen = table(f"backfill_seen_{rows.name}", column("id", Uuid))
    # What cannot come for its id is no copy of what has it.
    of_this_job = standing.not_in([_code(Standing.ID_TAKEN), _code(Standing.NAME_TAKEN)])
    noted = (
        insert(seen)
        .from_select(["id"], select(given.c.id).select_from(given.outerjoin(there, true())).where(of_this_job))
        .on_conflict_do_nothing()
        .returning(seen.c.id)
        .cte("noted")
    )
    verify = (
        select(
            given.c.ordinal,
            standing,
            _digest([_of(given, rows, each) for each in content]),
            noted.c.id.is_not(null()),
        )
        .select_from(given.outerjoin(there, true()).outerjoin(noted, noted.c.id == given.c.id))
        .add_cte(noted)
    )
    return Keyed(
        add=add,
        compare=compare,
        renew=renew,
        verify=verify,
        groups=_groups(rows, kind, content),
        only_here=_only_here(rows, kind, seen),
        prepare=_prepare(seen.name, "uuid"),
    )


def _code(standing: Standing) -> ColumnElement[Any]:
    return literal_column(str(standing.value))


def _kind(rows: Table, kind: str | None) -> ColumnElement[Any]:
    return literal_column("0", SmallInteger) if kind is None else rows.c[kind]


def _groups(rows: Table, kind: str | None, content: list[str]) -> Select[Any]:
    named = [rows.c.tenant_id, rows.c.status, *([] if kind is None else [rows.c[kind]])]
    digest = as_type(func.sum(as_type(_digest([rows.c[each] for each in content]), Numeric)), Text)
    return select(rows.c.tenant_id, _kind(rows, kind), rows.c.status, func.count(), digest).group_by(*named)


def _only_here(rows: Table, kind: str | None, seen: Any) -> Select[Any]:
    return (
        select(rows.c.id, rows.c.tenant_id, _kind(rows, kind), rows.c.status)
        .where(~exists().where(seen.c.id == rows.c.id))
        .limit(_LIMIT)
    )


def _prepare(name: str, kind: str) -> TextClause:
    return text(f"CREATE TEMPORARY TABLE {name} (id {kind} PRIMARY KEY) ON COMMIT DROP")


def _logged(rows: Table, parents: Table) -> Logged:
    names = ["job_id", "tenant_id", "status", "payload", "created_at"]
    given = _given(rows)
    parent = (
        select(parents.c.id)
        .where(parents.c.id == given.c.job_id, parents.c.tenant_id.collate("C") == given.c.tenant_id)
        .offset(literal_column("0"))
        .lateral("parent")
    )
    alike = and_(*(rows.c[each] == _of(given, rows, each) for each in names))
    entry = (
        select(rows.c.id, alike.label("alike"))
        .where(given.c.id.is_not(null()), rows.c.id == given.c.id)
        .union_all(
            select(rows.c.id, true())
            .where(given.c.id.is_(null()), alike)
            .order_by(rows.c.id)
            .limit(literal_column("1"))
        )
        .lateral("entry")
    )
    standing = case(
        (parent.c.id.is_(null()), _code(Standing.NO_JOB)),
        (entry.c.id.is_(null()), _code(Standing.NEW)),
        (entry.c.alike, _code(Standing.SAME)),
        else_=_code(Standing.ID_TAKEN),
    )
    joined = given.outerjoin(parent, true()).outerjoin(entry, true())
    entered = [_of(given, rows, each) for each in names]
    # The job's row is looked at once more: it may have gone since.
    its_job = given.join(parent, true())
    add = (
        insert(rows)
        .from_select(names, select(*entered).select_from(its_job).order_by(given.c.ordinal))
        .returning(rows.c.id)
    )
    add_numbered = (
        insert(rows)
        .from_select(["id", *names], select(given.c.id, *entered).select_from(its_job).order_by(given.c.id))
        .on_conflict_do_nothing()
        .returning(rows.c.id)
    )
    seen = table(f"backfill_seen_{rows.name}", column("id", rows.c.id.type))
    compared = (
        select(
            given.c.ordinal,
            standing.label("standing"),
            entry.c.id.label("entry_id"),
            *(e.label(n) for n, e in zip(names, entered, strict=True)),
        )
        .select_from(joined)
        .cte("compared")
        .prefix_with("MATERIALIZED")
    )
    noted = (
        insert(seen)
        .from_select(
            ["id"],
            select(compared.c.entry_id).where(compared.c.entry_id.is_not(null())).distinct(),
        )
        .on_conflict_do_nothing()
        .returning(seen.c.id)
        .cte("noted")
    )
    verify = (
        select(
            compared.c.ordinal,
            compared.c.standing,
            _digest([compared.c[each] for each in names]),
            compared.c.entry_id.is_(null()) | noted.c.id.is_not(null()),
        )
        .select_from(compared.outerjoin(noted, noted.c.id == compared.c.entry_id))
        .add_cte(noted)
    )
    sequence = func.pg_get_serial_sequence(literal_column(f"'{rows.schema}.{rows.name}'"), literal_column("'id'"))
    return Logged(
        add=add,
        add_numbered=add_numbered,
        lock=text(f"LOCK TABLE {rows.schema}.{rows.name} IN SHARE ROW EXCLUSIVE MODE"),
        number=select(func.setval(sequence, select(func.max(rows.c.id)).scalar_subquery())),
        last_number=select(
            func.coalesce(func.pg_sequence_last_value(as_type(sequence, REGCLASS())), literal_column("0"))
        ),
        compare=select(given.c.ordinal, standing).select_from(joined),
        verify=verify,
        groups=_groups(rows, None, names),
        only_here=_only_here(rows, None, seen),
        prepare=_prepare(seen.name, "bigint"),
    )


_JOBS: Final = cast("Table", GraphJobRow.__table__)
_RUNS: Final = cast("Table", PolicyRunRow.__table__)


def _attempts_of_job(value: _Value) -> ColumnElement[Any]:
    # As JSON, which no strange row can make fail.
    return value("payload").op("->", return_type=JSONB)(literal_column("'attempts'"))


def _attempts_of_run(value: _Value) -> ColumnElement[Any]:
    return value("attempts")


JOBS: Final = _keyed(
    _JOBS,
    whose=("tenant_id", "type", "created_at"),
    kind="type",
    attempts=_attempts_of_job,
    final=GraphJobStatus.COMPLETED.code,
)
RUNS: Final = _keyed(
    _RUNS,
    whose=("tenant_id", "run_id", "created_at"),
    kind=None,
    attempts=_attempts_of_run,
    final=PolicyRunStatus.COMPLETED.code,
    name="run_id",
)
EVENTS: Final = _logged(cast("Table", GraphJobEventRow.__table__), _JOBS)
RUN_EVENTS: Final = _logged(cast("Table", PolicyRunEventRow.__table__), _RUNS)
