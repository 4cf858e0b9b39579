"""Every SQL statement that writes jobs and runs that come, or compares them with what is there; no I/O here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from sqlalchemy import (
    ColumnElement,
    DateTime,
    FromClause,
    Select,
    SmallInteger,
    Table,
    TextClause,
    Uuid,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from graphjobs.backfill.load.comparison import (
    CEILING,
    NOT_UNFOLDED,
    Standing,
    bind_of,
    code,
    digest,
    given,
    groups,
    only_here,
    prepare,
    seen,
    value_of,
)
from graphjobs.database.sql_expressions import null_if_unrepresentable
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.graph_jobs.tables import GraphJobRow
from graphjobs.policy_runs.status import PolicyRunStatus
from graphjobs.policy_runs.tables import PolicyRunRow


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


_Value: TypeAlias = Callable[[str], ColumnElement[Any]]


@dataclass(frozen=True, slots=True)
class _Rules:
    """What is of its own in a table.

    Attributes:
        whose: the columns by which two rows of one id are the same job.
        kind: the column of the kind, or None.
        attempts: how often it was begun, by the values of its columns.
        final: the least code of a status that is final.
        name: the column that is unique in a tenant, beside the id.
    """

    whose: tuple[str, ...]
    kind: str | None
    attempts: Callable[[_Value], ColumnElement[Any]]
    final: int
    name: str | None = None


def _keyed(rows: Table, rules: _Rules) -> Keyed:
    content = [each.name for each in rows.c if each.name != "updated_at"]
    coming = given(rows)
    there = select(*rows.c).where(rows.c.id == coming.c.id).offset(NOT_UNFOLDED).lateral("there")
    joined = coming.outerjoin(there, true())
    same = and_(*(there.c[each].is_not_distinct_from(value_of(coming, rows, each)) for each in content))
    standing = case(
        (there.c.id.is_(null()), _missing(rows, rules, coming)),
        (same, code(Standing.SAME)),
        (and_(*(there.c[each] == coming.c[each] for each in rules.whose)).is_not(true()), code(Standing.ID_TAKEN)),
        (coming.c.updated_at < there.c.updated_at, code(Standing.OLDER)),
        (_goes_on(rows, rules, coming, there), code(Standing.NEWER)),
        else_=code(Standing.DIVERGED),
    )
    # What cannot come for its id is no copy of what has it.
    of_this_job = standing.not_in([code(Standing.ID_TAKEN), code(Standing.NAME_TAKEN)])
    noted = (
        insert(seen(rows))
        .from_select(["id"], select(coming.c.id).select_from(joined).where(of_this_job))
        .on_conflict_do_nothing()
        .returning(seen(rows).c.id)
        .cte("noted")
    )
    digested = digest([value_of(coming, rows, each) for each in content])
    return Keyed(
        add=_add(rows, coming),
        compare=select(
            coming.c.ordinal, standing, null_if_unrepresentable(there.c.updated_at), there.c.status
        ).select_from(joined),
        renew=_renew(rows),
        verify=select(coming.c.ordinal, standing, digested, noted.c.id.is_not(null()))
        .select_from(joined.outerjoin(noted, noted.c.id == coming.c.id))
        .add_cte(noted),
        groups=groups(rows, rules.kind, content),
        only_here=only_here(rows, rules.kind),
        prepare=prepare(rows, "uuid"),
    )


def _written(rows: Table, coming: FromClause, name: str) -> ColumnElement[Any]:
    version: ColumnElement[Any] = func.least(coming.c.updated_at, CEILING)
    return version if name == "updated_at" else value_of(coming, rows, name)


def _add(rows: Table, coming: FromClause) -> ReturningInsert[Any]:
    names = [each.name for each in rows.c]
    return (
        insert(rows)
        .from_select(names, select(*(_written(rows, coming, each) for each in names)).order_by(coming.c.id))
        .on_conflict_do_nothing()
        .returning(rows.c.id)
    )


def _renew(rows: Table) -> ReturningUpdate[Any]:
    coming = given(rows, seen=DateTime(timezone=True), expected=SmallInteger())
    return (
        update(rows)
        .where(
            rows.c.id == func.any(bindparam(bind_of("id"), type_=ARRAY(Uuid))),
            rows.c.id == coming.c.id,
            rows.c.tenant_id == coming.c.tenant_id,
            rows.c.updated_at == coming.c.seen,
            rows.c.status == coming.c.expected,
        )
        .values({each.name: _written(rows, coming, each.name) for each in rows.c if each.name != "id"})
        .returning(rows.c.id)
    )


def _missing(rows: Table, rules: _Rules, coming: FromClause) -> ColumnElement[Any]:
    """How it stands where no row has its id."""
    if rules.name is None:
        return code(Standing.NEW)
    taken = exists().where(
        rows.c[rules.name] == coming.c[rules.name],
        rows.c.tenant_id.collate("C") == coming.c.tenant_id,
        rows.c.id != coming.c.id,
    )
    return case((taken, code(Standing.NAME_TAKEN)), else_=code(Standing.NEW))


def _goes_on(rows: Table, rules: _Rules, coming: FromClause, there: FromClause) -> ColumnElement[bool]:
    """Whether the row that is there is as a backfill wrote it, and what comes is later: by version, attempts or end."""
    final: ColumnElement[Any] = literal_column(str(rules.final))
    tried = rules.attempts(lambda each: value_of(coming, rows, each))
    tried_here = rules.attempts(lambda each: there.c[each])
    return (
        (there.c.updated_at <= CEILING)
        & (there.c.status < final)
        & (tried >= tried_here)
        & ((coming.c.updated_at > there.c.updated_at) | (tried > tried_here) | (coming.c.status >= final))
    )


def _attempts_of_job(value: _Value) -> ColumnElement[Any]:
    # As JSON, which no strange row can make fail.
    return value("payload").op("->", return_type=JSONB)(literal_column("'attempts'"))


def _attempts_of_run(value: _Value) -> ColumnElement[Any]:
    return value("attempts")


JOBS: Final = _keyed(
    cast("Table", GraphJobRow.__table__),
    _Rules(
        whose=("tenant_id", "type", "created_at"),
        kind="type",
        attempts=_attempts_of_job,
        final=GraphJobStatus.COMPLETED.code,
    ),
)
RUNS: Final = _keyed(
    cast("Table", PolicyRunRow.__table__),
    _Rules(
        whose=("tenant_id", "run_id", "created_at"),
        kind=None,
        attempts=_attempts_of_run,
        final=PolicyRunStatus.COMPLETED.code,
        name="run_id",
    ),
)
