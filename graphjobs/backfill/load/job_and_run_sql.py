"""SQL statements that write input jobs and runs and compare them with stored rows; no I/O."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from graphjobs.backfill.load import comparison
from graphjobs.backfill.load.comparison import (
    BACKFILL_VERSION_MAX,
    OPTIMIZER_FENCE,
    RowState,
    input_rows,
    input_value,
    param_name,
    seen_table,
    state_code,
)
from graphjobs.database.sql_expressions import null_if_unrepresentable
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.graph_jobs.tables import GraphJobRow
from graphjobs.policy_runs.status import PolicyRunStatus
from graphjobs.policy_runs.tables import PolicyRunRow


@dataclass(frozen=True, slots=True)
class RowStatements:
    """The statements on a table of input rows with ids: graph jobs, policy runs.

    Attributes:
        insert: inserts new rows; returns their ids.
        compare: selects ordinal, `RowState`, and the version and status of the stored row.
        overwrite: replaces stored rows that still have the expected version and status; returns their ids.
        verify: selects ordinal, `RowState`, digest of the input row, and whether it is the first row of its id.
        groups: selects tenant, kind, status, number and digest of the whole table.
        extra_rows: selects id, tenant, kind and status of rows that `verify` has not read.
        create_seen_table: creates the table in which `verify` records ids, until the end of the transaction.
    """

    insert: ReturningInsert[Any]
    compare: sa.Select[Any]
    overwrite: ReturningUpdate[Any]
    verify: sa.Select[Any]
    groups: sa.Select[Any]
    extra_rows: sa.Select[Any]
    create_seen_table: sa.TextClause


_ColumnOf: TypeAlias = Callable[[str], sa.ColumnElement[Any]]


@dataclass(frozen=True, slots=True)
class _TableRules:
    """The differences between the tables.

    Attributes:
        identity_columns: the columns that are equal in all copies of one job.
        kind: the column of the kind, or None.
        attempts: the number of attempts, from the values of the columns.
        final_code: the lowest code of a final status.
        has_run_id: whether the run id is unique within the tenant.
    """

    identity_columns: tuple[str, ...]
    kind: str | None
    attempts: Callable[[_ColumnOf], sa.ColumnElement[Any]]
    final_code: int
    has_run_id: bool


def _statements(table: sa.Table, rules: _TableRules) -> RowStatements:
    content = [column.name for column in table.c if column.name != "updated_at"]
    rows = input_rows(table)
    stored = sa.select(*table.c).where(table.c.id == rows.c.id).offset(OPTIMIZER_FENCE).lateral("stored")
    joined = rows.outerjoin(stored, sa.true())
    is_equal = sa.and_(*(stored.c[name].is_not_distinct_from(input_value(rows, table, name)) for name in content))
    is_same_job = sa.and_(*(stored.c[name] == rows.c[name] for name in rules.identity_columns))
    state = sa.case(
        (stored.c.id.is_(sa.null()), _state_without_stored_row(table, rules, rows)),
        (is_equal, state_code(RowState.UNCHANGED)),
        (is_same_job.is_not(sa.true()), state_code(RowState.ID_TAKEN)),
        (rows.c.updated_at < stored.c.updated_at, state_code(RowState.TARGET_AHEAD)),
        (_source_is_ahead(table, rules, rows, stored), state_code(RowState.SOURCE_AHEAD)),
        else_=state_code(RowState.CONFLICT),
    )
    # A document that is rejected for its id is not a copy of the row with that id.
    is_copy = state.not_in([state_code(RowState.ID_TAKEN), state_code(RowState.RUN_ID_TAKEN)])
    seen = seen_table(table)
    newly_seen = (
        insert(seen)
        .from_select(["id"], sa.select(rows.c.id).select_from(joined).where(is_copy))
        .on_conflict_do_nothing()
        .returning(seen.c.id)
        .cte("newly_seen")
    )
    digest = comparison.digest([input_value(rows, table, name) for name in content])
    return RowStatements(
        insert=_insert(table, rows),
        compare=sa.select(
            rows.c.ordinal, state, null_if_unrepresentable(stored.c.updated_at), stored.c.status
        ).select_from(joined),
        overwrite=_overwrite(table),
        verify=sa.select(rows.c.ordinal, state, digest, newly_seen.c.id.is_not(sa.null()))
        .select_from(joined.outerjoin(newly_seen, newly_seen.c.id == rows.c.id))
        .add_cte(newly_seen),
        groups=comparison.groups(table, rules.kind, content),
        extra_rows=comparison.extra_rows(table, rules.kind),
        create_seen_table=comparison.create_seen_table(table, "uuid"),
    )


def _written_value(table: sa.Table, rows: sa.FromClause, name: str) -> sa.ColumnElement[Any]:
    version: sa.ColumnElement[Any] = sa.func.least(rows.c.updated_at, BACKFILL_VERSION_MAX)
    return version if name == "updated_at" else input_value(rows, table, name)


def _insert(table: sa.Table, rows: sa.FromClause) -> ReturningInsert[Any]:
    names = [column.name for column in table.c]
    return (
        insert(table)
        .from_select(names, sa.select(*(_written_value(table, rows, name) for name in names)).order_by(rows.c.id))
        .on_conflict_do_nothing()
        .returning(table.c.id)
    )


def _overwrite(table: sa.Table) -> ReturningUpdate[Any]:
    rows = input_rows(table, expected_version=sa.DateTime(timezone=True), expected_status=sa.SmallInteger())
    return (
        sa.update(table)
        .where(
            table.c.id == sa.func.any(sa.bindparam(param_name("id"), type_=ARRAY(sa.Uuid))),
            table.c.id == rows.c.id,
            table.c.tenant_id == rows.c.tenant_id,
            table.c.updated_at == rows.c.expected_version,
            table.c.status == rows.c.expected_status,
        )
        .values({column.name: _written_value(table, rows, column.name) for column in table.c if column.name != "id"})
        .returning(table.c.id)
    )


def _state_without_stored_row(table: sa.Table, rules: _TableRules, rows: sa.FromClause) -> sa.ColumnElement[Any]:
    if not rules.has_run_id:
        return state_code(RowState.NEW)
    is_taken = sa.exists().where(
        table.c.run_id == rows.c.run_id,
        table.c.tenant_id.collate("C") == rows.c.tenant_id,
        table.c.id != rows.c.id,
    )
    return sa.case((is_taken, state_code(RowState.RUN_ID_TAKEN)), else_=state_code(RowState.NEW))


def _source_is_ahead(
    table: sa.Table, rules: _TableRules, rows: sa.FromClause, stored: sa.FromClause
) -> sa.ColumnElement[bool]:
    """Compare by version, attempts and final status, if the stored row is as a backfill wrote it."""
    final: sa.ColumnElement[Any] = sa.literal_column(str(rules.final_code))
    attempts = rules.attempts(lambda name: input_value(rows, table, name))
    stored_attempts = rules.attempts(lambda name: stored.c[name])
    return (
        (stored.c.updated_at <= BACKFILL_VERSION_MAX)
        & (stored.c.status < final)
        & (attempts >= stored_attempts)
        & ((rows.c.updated_at > stored.c.updated_at) | (attempts > stored_attempts) | (rows.c.status >= final))
    )


def _attempts_of_job(value: _ColumnOf) -> sa.ColumnElement[Any]:
    # Compared as JSON: a cast to a number would fail on an unreadable row.
    return value("payload").op("->", return_type=JSONB)(sa.literal_column("'attempts'"))


def _attempts_of_run(value: _ColumnOf) -> sa.ColumnElement[Any]:
    return value("attempts")


JOBS: Final = _statements(
    cast("sa.Table", GraphJobRow.__table__),
    _TableRules(
        identity_columns=("tenant_id", "type", "created_at"),
        kind="type",
        attempts=_attempts_of_job,
        final_code=GraphJobStatus.COMPLETED.code,
        has_run_id=False,
    ),
)
RUNS: Final = _statements(
    cast("sa.Table", PolicyRunRow.__table__),
    _TableRules(
        identity_columns=("tenant_id", "run_id", "created_at"),
        kind=None,
        attempts=_attempts_of_run,
        final_code=PolicyRunStatus.COMPLETED.code,
        has_run_id=True,
    ),
)
