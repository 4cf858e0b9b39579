"""Every SQL statement on graph jobs, as constants with named binds; no I/O here, and no such SQL anywhere else.

What holds for each: it gives the tenant on every table it touches, and names its columns; no bind has a column's name;
JSONB crosses as text both ways, so that nobody's codec matters; a write uses no volatile function. So each routes to
one node of a distributed engine. Being constants, they are compiled once.
"""

from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Select,
    SmallInteger,
    Subquery,
    Table,
    Text,
    Uuid,
    bindparam,
    case,
    func,
    literal_column,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.sql import ColumnCollection

from graphjobs.jobs.status import GraphJobStatus
from graphjobs.jobs.tables import GraphJobEventRow, GraphJobRow

_jobs: Final = cast("Table", GraphJobRow.__table__)
_events: Final = cast("Table", GraphJobEventRow.__table__)

_TENANT: Final = bindparam("tenant", type_=Text)
_JOB: Final = bindparam("job", type_=Uuid)
_KIND: Final = bindparam("kind", type_=SmallInteger)
_LIMIT: Final = bindparam("limit_rows", type_=BigInteger)
_DOCUMENT: Final = as_type(bindparam("document", type_=Text), JSONB)
_CREATED: Final = bindparam("created", type_=DateTime(timezone=True))
_CORRELATION: Final = bindparam("correlation", type_=Text)


def _one_job() -> ColumnElement[bool]:
    """Finds one row by its key, so that only the primary key can serve it.

    The collation takes the tenant's indexes out of the planner's choice. Without it the planner reads, of a tenant the
    statistics do not know yet, every row: 17.8 ms against 0.12 at 100,000 new rows.
    """
    return (_jobs.c.id == _JOB) & (_jobs.c.tenant_id == _TENANT.collate("C"))


def _readable(time: ColumnElement[datetime]) -> ColumnElement[datetime | None]:
    """Gives NULL for a time that Python cannot hold: one such row, written by hand, would end every page with it."""
    return case((time.between(text("'0001-01-02 00:00:00+00'"), text("'9999-12-30 23:59:59.999999+00'")), time))


def _job_columns(source: FromClause) -> Select[Any]:
    """What a job is read from, in the order the repository takes it."""
    c: ColumnCollection[str, ColumnElement[Any]] = source.c
    return select(
        c.id,
        c.tenant_id,
        c.type,
        c.status,
        _readable(c.created_at),
        c.correlation_id,
        _readable(c.updated_at),
        as_type(c.payload, Text),
    )


INSERT_JOB: Final = (
    insert(_jobs)
    .values(
        id=_JOB,
        tenant_id=_TENANT,
        type=_KIND,
        status=bindparam("target", type_=SmallInteger),
        payload=_DOCUMENT,
        created_at=_CREATED,
        correlation_id=_CORRELATION,
    )
    # A taken id gives no row rather than an error, which would end the caller's transaction.
    .on_conflict_do_nothing(index_elements=[_jobs.c.id])
    .returning(_readable(_jobs.c.updated_at))
)
"""Inserts a job; gives its version, or no row where the id is taken."""

REPLACE_JOB: Final = (
    update(_jobs)
    .where(
        _one_job(),
        _jobs.c.type == _KIND,
        _jobs.c.status == bindparam("expected", type_=SmallInteger),
        # The fence: who lost the job has other attempts. As JSON, which no strange row can make fail.
        _jobs.c.payload.op("->", return_type=JSONB)(literal_column("'attempts'"))
        == func.to_jsonb(bindparam("expected_attempts", type_=Integer)),
        # No move changes this; comparing it keeps column and payload of one mind.
        _jobs.c.created_at == _CREATED,
    )
    .values(
        status=bindparam("target", type_=SmallInteger),
        payload=_DOCUMENT,
        correlation_id=_CORRELATION,
        # now() can go backwards between writers; the version must not.
        updated_at=func.greatest(func.now(), _jobs.c.updated_at + text("interval '1 microsecond'")),
    )
    .returning(_readable(_jobs.c.updated_at))
)
"""Moves a job from one status to another; gives its new version, or no row where the swap was lost."""

EDIT_JOB: Final = REPLACE_JOB.where(_jobs.c.updated_at == bindparam("seen", type_=DateTime(timezone=True)))
"""Changes a job that keeps its status: status and attempts stay, so the version it was read at is compared too."""

GET_JOB: Final = _job_columns(_jobs).where(_one_job(), _jobs.c.type == _KIND)
"""Reads one job of one kind."""


def _newest(statuses: ColumnElement[bool]) -> Subquery:
    """A tenant's newest jobs of one kind and of these statuses, in no order; a few more where times are equal.

    It asks for the index's own order and for ties, not for the ids within a time: then no plan but the ordered scan is
    cheap. Asked for both, PostgreSQL 15 sorts all rows of a tenant that the statistics do not know yet.
    """
    return (
        select(_jobs)
        .where(_jobs.c.tenant_id == _TENANT, _jobs.c.type == _KIND, statuses)
        .order_by(_jobs.c.created_at.desc())
        .fetch(_LIMIT, with_ties=True)
        .subquery()
    )


def _listed(newest: FromClause) -> Select[Any]:
    """The one fixed order of lists, over what the scans found."""
    return _job_columns(newest).order_by(newest.c.created_at.desc(), newest.c.id.desc()).limit(_LIMIT)


def _newest_of_every_status() -> FromClause:
    """One ordered index scan a status, merged: no index orders across statuses (181 ms at 1M rows, so 0.6)."""
    codes = [status.code for status in GraphJobStatus]
    ranges = [_jobs.c.status == literal_column(str(code)) for code in codes]
    # A status that is none is listed too, to be reported as a row that cannot be read.
    ranges += [_jobs.c.status < literal_column(str(min(codes))), _jobs.c.status > literal_column(str(max(codes)))]
    return union_all(*(select(_newest(statuses)) for statuses in ranges)).subquery("newest")


LIST_JOBS_OF_STATUS: Final = _listed(_newest(_jobs.c.status == bindparam("expected", type_=SmallInteger)))
"""Reads a tenant's newest jobs of one kind and status."""

LIST_JOBS: Final = _listed(_newest_of_every_status())
"""Reads a tenant's newest jobs of one kind, whatever their status."""

_its_job: Final = (
    select(_jobs.c.id, _jobs.c.tenant_id)
    .where(_one_job())
    # Under the row's lock, so that event ids order one job's history. NO KEY lets others insert events meanwhile.
    .with_for_update(key_share=True)
    .cte("its_job")
    .prefix_with("MATERIALIZED")
)
APPEND_EVENT: Final = (
    insert(_events)
    .from_select(
        ["job_id", "tenant_id", "status", "payload", "created_at"],
        select(_its_job.c.id, _its_job.c.tenant_id, bindparam("target", type_=SmallInteger), _DOCUMENT, _CREATED),
    )
    .returning(_events.c.id)
)
"""Appends to the log of a job that is there and the tenant's; gives the event's id, or no row."""

LIST_EVENTS: Final = (
    select(
        _events.c.id,
        _events.c.job_id,
        _events.c.tenant_id,
        _events.c.status,
        as_type(_events.c.payload, Text),
        _readable(_events.c.created_at),
    )
    .where(
        _events.c.job_id == _JOB,
        _events.c.tenant_id == _TENANT,
        _events.c.id > bindparam("after_event", type_=BigInteger),
    )
    .order_by(_events.c.id)
    .limit(_LIMIT)
)
"""Reads one job's log, oldest first, from after an event on."""
