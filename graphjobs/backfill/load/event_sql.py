"""SQL statements that insert input events and compare them with stored events; no I/O."""

from dataclasses import dataclass
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCLASS, insert
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.selectable import LateralFromClause

from graphjobs.backfill.load import comparison
from graphjobs.backfill.load.comparison import OPTIMIZER_FENCE, RowState, digest, seen_table, state_code
from graphjobs.graph_jobs.tables import GraphJobEventRow, GraphJobRow
from graphjobs.policy_runs.tables import PolicyRunEventRow, PolicyRunRow

_CONTENT: Final = ["job_id", "tenant_id", "status", "payload", "created_at"]


@dataclass(frozen=True, slots=True)
class EventStatements:
    """The statements on an event log. Most input events have no id of their own.

    Attributes:
        insert: inserts events without ids in the order of the input; returns the ids that the database assigned.
        insert_numbered: inserts events with ids; returns the ids that were free.
        lock: locks out other writers of events.
        set_sequence: sets the sequence to the highest id; requires `lock`.
        last_number: selects the last id of the sequence.
        compare: selects ordinal and `RowState`.
        verify, groups, extra_rows, create_seen_table: as in `RowStatements`, with ids of events.
    """

    insert: ReturningInsert[Any]
    insert_numbered: ReturningInsert[Any]
    lock: sa.TextClause
    set_sequence: sa.Select[Any]
    last_number: sa.Select[Any]
    compare: sa.Select[Any]
    verify: sa.Select[Any]
    groups: sa.Select[Any]
    extra_rows: sa.Select[Any]
    create_seen_table: sa.TextClause


def _statements(events: sa.Table, parents: sa.Table) -> EventStatements:
    rows = _input_rows(events)
    parent = (
        sa.select(parents.c.id)
        .where(parents.c.id == rows.c.job_id, parents.c.tenant_id.collate("C") == rows.c.tenant_id)
        .offset(OPTIMIZER_FENCE)
        .lateral("parent")
    )
    stored = _stored_event(events, rows)
    state = sa.case(
        (parent.c.id.is_(sa.null()), state_code(RowState.PARENT_MISSING)),
        (stored.c.id.is_(sa.null()), state_code(RowState.NEW)),
        (stored.c.is_equal, state_code(RowState.UNCHANGED)),
        else_=state_code(RowState.ID_TAKEN),
    )
    joined = rows.outerjoin(parent, sa.true()).outerjoin(stored, sa.true())
    values = [rows.c[name] for name in _CONTENT]
    # Checks the job again: it may be gone since the comparison.
    with_parent = rows.join(parent, sa.true())
    compared = sa.select(
        rows.c.ordinal,
        state.label("state"),
        stored.c.id.label("stored_id"),
        *(value.label(name) for name, value in zip(_CONTENT, values, strict=True)),
    ).select_from(joined)
    table_name: sa.ColumnElement[str] = sa.literal_column(f"'{events.schema}.{events.name}'")
    sequence = sa.func.pg_get_serial_sequence(table_name, sa.literal_column("'id'"))
    return EventStatements(
        insert=insert(events)
        .from_select(_CONTENT, sa.select(*values).select_from(with_parent).order_by(rows.c.ordinal))
        .returning(events.c.id),
        insert_numbered=insert(events)
        .from_select(["id", *_CONTENT], sa.select(rows.c.id, *values).select_from(with_parent).order_by(rows.c.id))
        .on_conflict_do_nothing()
        .returning(events.c.id),
        lock=sa.text(f"LOCK TABLE {events.schema}.{events.name} IN SHARE ROW EXCLUSIVE MODE"),
        set_sequence=sa.select(sa.func.setval(sequence, sa.select(sa.func.max(events.c.id)).scalar_subquery())),
        last_number=sa.select(
            sa.func.coalesce(sa.func.pg_sequence_last_value(sa.cast(sequence, REGCLASS())), sa.literal_column("0"))
        ),
        compare=sa.select(rows.c.ordinal, state).select_from(joined),
        verify=_verify(events, compared),
        groups=comparison.groups(events, None, _CONTENT),
        extra_rows=comparison.extra_rows(events, None),
        create_seen_table=comparison.create_seen_table(events, "bigint"),
    )


def _input_rows(events: sa.Table) -> sa.FromClause:
    """Return input rows with JSON parsed once: events of the same time are compared with each other."""
    texts = comparison.input_rows(events)
    values = (comparison.input_value(texts, events, column.name).label(column.name) for column in events.c)
    return sa.select(texts.c.ordinal, *values).offset(OPTIMIZER_FENCE).subquery("input")


def _stored_event(events: sa.Table, rows: sa.FromClause) -> LateralFromClause:
    """Return the stored event with the input's id; for an input without id, the first event with equal content."""
    is_equal = sa.and_(*(events.c[name] == rows.c[name] for name in _CONTENT))
    return (
        sa.select(events.c.id, is_equal.label("is_equal"))
        .where(rows.c.id.is_not(sa.null()), events.c.id == rows.c.id)
        .union_all(
            sa.select(events.c.id, sa.true())
            .where(rows.c.id.is_(sa.null()), is_equal)
            .order_by(events.c.id)
            .limit(sa.literal_column("1"))
        )
        .lateral("stored")
    )


def _verify(events: sa.Table, selected: sa.Select[Any]) -> sa.Select[Any]:
    compared = selected.cte("compared").prefix_with("MATERIALIZED")
    seen = seen_table(events)
    newly_seen = (
        insert(seen)
        .from_select(["id"], sa.select(compared.c.stored_id).where(compared.c.stored_id.is_not(sa.null())).distinct())
        .on_conflict_do_nothing()
        .returning(seen.c.id)
        .cte("newly_seen")
    )
    return (
        sa.select(
            compared.c.ordinal,
            compared.c.state,
            digest([compared.c[name] for name in _CONTENT]),
            compared.c.stored_id.is_(sa.null()) | newly_seen.c.id.is_not(sa.null()),
        )
        .select_from(compared.outerjoin(newly_seen, newly_seen.c.id == compared.c.stored_id))
        .add_cte(newly_seen)
    )


EVENTS: Final = _statements(cast("sa.Table", GraphJobEventRow.__table__), cast("sa.Table", GraphJobRow.__table__))
RUN_EVENTS: Final = _statements(cast("sa.Table", PolicyRunEventRow.__table__), cast("sa.Table", PolicyRunRow.__table__))
