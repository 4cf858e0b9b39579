"""Expressions that several statements of policy runs share: statuses, the owner of a lease, counted attempts."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from graphjobs.core.transitions import RESCUED
from graphjobs.policy_runs.sql.single import EVENTS, code
from graphjobs.policy_runs.status import PolicyRunStatus

PENDING: Final = code(PolicyRunStatus.PENDING)
DISPATCHING: Final = code(PolicyRunStatus.DISPATCHING)
OWNER: Final = sa.bindparam("p_lease_owner", type_=sa.Text)
IDS: Final = ARRAY(sa.Uuid)


def materialized(select: sa.Select[Any] | sa.CompoundSelect[Any], name: str) -> sa.CTE:
    """Build a CTE that is evaluated once: one that locks rows could be inlined, evaluated again, and lock too many."""
    return select.cte(name).prefix_with("MATERIALIZED")


def counted_attempts(runs: sa.FromClause) -> sa.ColumnElement[int]:
    """Build the number of attempts that count; the log is read only where no attempt may be left."""
    return sa.case(
        (runs.c.attempts >= sa.bindparam("p_attempts_max", type_=sa.Integer), runs.c.attempts - released(runs)),
        else_=runs.c.attempts,
    )


def released(runs: sa.FromClause) -> sa.ColumnElement[int]:
    """Build the number of attempts that were released in order: they do not count against the bound."""
    has_no_error = EVENTS.c.payload.op("->", return_type=JSONB)(sa.literal_column("'error'")).is_(None)
    return _count_of_returns(runs, has_no_error)


def was_rescued(runs: sa.FromClause) -> sa.ColumnElement[bool]:
    """Build the condition that an attempt was lost without an answer."""
    is_rescue = EVENTS.c.payload.op("?", return_type=sa.Boolean)(sa.literal_column(f"'{RESCUED}'"))
    return _count_of_returns(runs, is_rescue) > sa.literal_column("0")


def _count_of_returns(runs: sa.FromClause, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return (
        sa.select(sa.func.count(EVENTS.c.id))
        .where(
            EVENTS.c.job_id == runs.c.id,
            EVENTS.c.tenant_id == runs.c.tenant_id,
            EVENTS.c.status == PENDING,
            EVENTS.c.payload.op("->>", return_type=sa.Text)(sa.literal_column("'from'"))
            == sa.literal_column(f"'{PolicyRunStatus.DISPATCHING}'"),
            condition,
        )
        .correlate(runs)
        .scalar_subquery()
    )
