"""Every SQL statement that writes the entries of logs that come, or compares them with what is there; no I/O here."""

from dataclasses import dataclass
from typing import Any, Final, cast

from sqlalchemy import FromClause, Select, Table, TextClause, and_, case, func, literal_column, null, select, text, true
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import REGCLASS, insert
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.selectable import LateralFromClause

from graphjobs.backfill.load.comparison import (
    NOT_UNFOLDED,
    Standing,
    code,
    digest,
    given,
    groups,
    only_here,
    prepare,
    seen,
    value_of,
)
from graphjobs.graph_jobs.tables import GraphJobEventRow, GraphJobRow
from graphjobs.policy_runs.tables import PolicyRunEventRow, PolicyRunRow

_CONTENT: Final = ["job_id", "tenant_id", "status", "payload", "created_at"]


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


def _logged(rows: Table, parents: Table) -> Logged:
    coming = _coming(rows)
    parent = (
        select(parents.c.id)
        .where(parents.c.id == coming.c.job_id, parents.c.tenant_id.collate("C") == coming.c.tenant_id)
        .offset(NOT_UNFOLDED)
        .lateral("parent")
    )
    entry = _entry(rows, coming)
    standing = case(
        (parent.c.id.is_(null()), code(Standing.NO_JOB)),
        (entry.c.id.is_(null()), code(Standing.NEW)),
        (entry.c.alike, code(Standing.SAME)),
        else_=code(Standing.ID_TAKEN),
    )
    joined = coming.outerjoin(parent, true()).outerjoin(entry, true())
    entered = [coming.c[each] for each in _CONTENT]
    # The job's row is looked at once more: it may have gone since.
    its_job = coming.join(parent, true())
    compared = select(
        coming.c.ordinal,
        standing.label("standing"),
        entry.c.id.label("entry_id"),
        *(value.label(name) for name, value in zip(_CONTENT, entered, strict=True)),
    ).select_from(joined)
    sequence = func.pg_get_serial_sequence(literal_column(f"'{rows.schema}.{rows.name}'"), literal_column("'id'"))
    return Logged(
        add=insert(rows)
        .from_select(_CONTENT, select(*entered).select_from(its_job).order_by(coming.c.ordinal))
        .returning(rows.c.id),
        add_numbered=insert(rows)
        .from_select(["id", *_CONTENT], select(coming.c.id, *entered).select_from(its_job).order_by(coming.c.id))
        .on_conflict_do_nothing()
        .returning(rows.c.id),
        lock=text(f"LOCK TABLE {rows.schema}.{rows.name} IN SHARE ROW EXCLUSIVE MODE"),
        number=select(func.setval(sequence, select(func.max(rows.c.id)).scalar_subquery())),
        last_number=select(
            func.coalesce(func.pg_sequence_last_value(as_type(sequence, REGCLASS())), literal_column("0"))
        ),
        compare=select(coming.c.ordinal, standing).select_from(joined),
        verify=_verify(rows, compared),
        groups=groups(rows, None, _CONTENT),
        only_here=only_here(rows, None),
        prepare=prepare(rows, "bigint"),
    )


def _coming(rows: Table) -> FromClause:
    """What comes, its JSON made of text once: of many entries of one moment each is compared with all the others."""
    texts = given(rows)
    values = (value_of(texts, rows, each.name).label(each.name) for each in rows.c)
    return select(texts.c.ordinal, *values).offset(NOT_UNFOLDED).subquery("coming")


def _entry(rows: Table, coming: FromClause) -> LateralFromClause:
    """What is there of an entry: what has its number, or where it has none the first that is just like it."""
    alike = and_(*(rows.c[each] == coming.c[each] for each in _CONTENT))
    return (
        select(rows.c.id, alike.label("alike"))
        .where(coming.c.id.is_not(null()), rows.c.id == coming.c.id)
        .union_all(
            select(rows.c.id, true())
            .where(coming.c.id.is_(null()), alike)
            .order_by(rows.c.id)
            .limit(literal_column("1"))
        )
        .lateral("entry")
    )


def _verify(rows: Table, selected: Select[Any]) -> Select[Any]:
    compared = selected.cte("compared").prefix_with("MATERIALIZED")
    noted = (
        insert(seen(rows))
        .from_select(["id"], select(compared.c.entry_id).where(compared.c.entry_id.is_not(null())).distinct())
        .on_conflict_do_nothing()
        .returning(seen(rows).c.id)
        .cte("noted")
    )
    return (
        select(
            compared.c.ordinal,
            compared.c.standing,
            digest([compared.c[each] for each in _CONTENT]),
            compared.c.entry_id.is_(null()) | noted.c.id.is_not(null()),
        )
        .select_from(compared.outerjoin(noted, noted.c.id == compared.c.entry_id))
        .add_cte(noted)
    )


EVENTS: Final = _logged(cast("Table", GraphJobEventRow.__table__), cast("Table", GraphJobRow.__table__))
RUN_EVENTS: Final = _logged(cast("Table", PolicyRunEventRow.__table__), cast("Table", PolicyRunRow.__table__))
