"""Parts that the SQL of the queue is made of: the next version, times and attempts in payloads; knows no statement."""

from typing import Any, Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    SmallInteger,
    Text,
    bindparam,
    case,
    func,
    literal_column,
    select,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from graphjobs.database.sql_expressions import next_version, null_if_unrepresentable, utc_text
from graphjobs.graph_jobs.sql.single import JOBS
from graphjobs.graph_jobs.status import GraphJobStatus

QUEUED: Final = literal_column(str(GraphJobStatus.QUEUED.code), SmallInteger)
RUNNING: Final = literal_column(str(GraphJobStatus.RUNNING.code), SmallInteger)
TENANTS: Final = bindparam("p_tenant_ids", type_=ARRAY(Text))
TRANSITION: Final = bindparam("p_transition_id", type_=Text)
# One that Python cannot hold begins anew: nothing can be added to the last of times, and who sees no version could not
# tell that it has moved.
next_job_version: Final = case(
    (
        null_if_unrepresentable(JOBS.c.updated_at).is_not(None),
        next_version(JOBS.c.updated_at),
    ),
    else_=func.now(),
)
is_object: Final = func.jsonb_typeof(JOBS.c.payload) == literal_column("'object'")


def db_now() -> CTE:
    """The time, as payloads tell it, of the same text as a value's own; written once and not for each row."""
    return select(utc_text(func.now()).label("told")).cte("clock").prefix_with("MATERIALIZED")


# To look whether there is one is cheaper than to write the whole payload once more.
without_error: Final = case(
    (
        JOBS.c.payload.op("?")(literal_column("'error'")),
        JOBS.c.payload.op("-", return_type=JSONB)(literal_column("'error'")),
    ),
    else_=JOBS.c.payload,
)


def payload_attempts(payload: ColumnElement[Any]) -> ColumnElement[int | None]:
    """Reads the attempts of a payload. No strange row makes it fail: what is no small number gives NULL."""
    told = payload.op("->>", return_type=Text)(literal_column("'attempts'"))
    kind = func.jsonb_typeof(payload.op("->", return_type=JSONB)(literal_column("'attempts'")))
    small = told.op("~")(literal_column("'^[0-9]{1,5}$'"))
    return case(((kind == literal_column("'number'")) & small, as_type(told, Integer)))


attempts: Final = payload_attempts(JOBS.c.payload)
