"""Expressions that the statements of the queue share: the next version, times and attempts in payloads."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from graphjobs.core.transitions import RESCUED
from graphjobs.database.sql_expressions import next_version, null_if_unrepresentable, utc_text
from graphjobs.graph_jobs.sql.single import EVENTS, JOBS
from graphjobs.graph_jobs.status import GraphJobStatus

QUEUED: Final = sa.literal_column(str(GraphJobStatus.QUEUED.code), sa.SmallInteger)
RUNNING: Final = sa.literal_column(str(GraphJobStatus.RUNNING.code), sa.SmallInteger)
TENANTS: Final = sa.bindparam("p_tenant_ids", type_=ARRAY(sa.Text))
# A version that Python cannot represent restarts at now(): infinity has no successor, so that a change would not
# be detected.
next_job_version: Final = sa.case(
    (
        null_if_unrepresentable(JOBS.c.updated_at).is_not(None),
        next_version(JOBS.c.updated_at),
    ),
    else_=sa.func.now(),
)
is_object: Final = sa.func.jsonb_typeof(JOBS.c.payload) == sa.literal_column("'object'")


def db_now() -> sa.CTE:
    """Build a CTE of the current time as payloads have it, evaluated once and not for each row."""
    return sa.select(utc_text(sa.func.now()).label("utc_text")).cte("db_now").prefix_with("MATERIALIZED")


# The test is cheaper than copying the whole payload.
without_error: Final = sa.case(
    (
        JOBS.c.payload.op("?")(sa.literal_column("'error'")),
        JOBS.c.payload.op("-", return_type=JSONB)(sa.literal_column("'error'")),
    ),
    else_=JOBS.c.payload,
)


def payload_attempts(payload: sa.ColumnElement[Any]) -> sa.ColumnElement[int | None]:
    """Return the attempts of a payload; NULL where it has no such number, so that no malformed row makes it fail."""
    text = payload.op("->>", return_type=sa.Text)(sa.literal_column("'attempts'"))
    kind = sa.func.jsonb_typeof(payload.op("->", return_type=JSONB)(sa.literal_column("'attempts'")))
    is_small = text.op("~")(sa.literal_column("'^[0-9]{1,5}$'"))
    return sa.case(((kind == sa.literal_column("'number'")) & is_small, sa.cast(text, sa.Integer)))


attempts: Final = payload_attempts(JOBS.c.payload)


def released(jobs: sa.FromClause) -> sa.ColumnElement[int]:
    """Build the number of attempts that were released in order: they do not count against the bound."""
    return (
        sa.select(sa.func.count(EVENTS.c.id))
        .where(
            EVENTS.c.job_id == jobs.c.id,
            EVENTS.c.tenant_id == jobs.c.tenant_id,
            EVENTS.c.payload.op("->>", return_type=sa.Text)(sa.literal_column("'from'"))
            == sa.literal_column(f"'{GraphJobStatus.RUNNING}'"),
            EVENTS.c.status == QUEUED,
            ~EVENTS.c.payload.op("?", return_type=sa.Boolean)(sa.literal_column(f"'{RESCUED}'")),
        )
        .correlate(jobs)
        .scalar_subquery()
    )
