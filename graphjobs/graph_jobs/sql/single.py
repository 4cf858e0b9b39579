"""Every SQL statement on one graph job and its log, as constants with named binds; `scans` has those on many.

There is no I/O here, and no such SQL anywhere else. What holds for each: it gives the tenant on every table it touches,
and names its columns; no bind has a column's name; JSONB crosses as text both ways, so that nobody's codec matters; a
write uses no volatile function. So each routes to one node of a distributed engine. Being constants, they are compiled
once.
"""

from typing import Any, Final, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Select,
    SmallInteger,
    Table,
    Text,
    Uuid,
    bindparam,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.sql import ColumnCollection
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from graphjobs.core.event_log import LOG_COLUMNS, entered, find_transition, list_events
from graphjobs.database.sql_expressions import readable, rising, unnested
from graphjobs.graph_jobs.tables import GraphJobEventRow, GraphJobRow

JOBS: Final = cast("Table", GraphJobRow.__table__)
EVENTS: Final = cast("Table", GraphJobEventRow.__table__)

TENANT: Final = bindparam("tenant", type_=Text)
_JOB: Final = bindparam("job", type_=Uuid)
KIND: Final = bindparam("kind", type_=SmallInteger)
LIMIT: Final = bindparam("limit_rows", type_=BigInteger)
_DOCUMENT: Final = as_type(bindparam("document", type_=Text), JSONB)
_ENTRY: Final = as_type(bindparam("entry", type_=Text), JSONB)
_TARGET: Final = bindparam("target", type_=SmallInteger)
_CREATED: Final = bindparam("created", type_=DateTime(timezone=True))
CORRELATION: Final = bindparam("correlation", type_=Text)


def _one_job() -> ColumnElement[bool]:
    """Finds one row by its key, so that only the primary key can serve it.

    The collation takes the tenant's indexes out of the planner's choice. Without it the planner reads, of a tenant the
    statistics do not know yet, every row: 17.8 ms against 0.12 at 100,000 new rows.
    """
    return (JOBS.c.id == _JOB) & (JOBS.c.tenant_id == TENANT.collate("C"))


def job_columns(source: FromClause) -> Select[Any]:
    """What a job is read from, in the order the repository takes it."""
    c: ColumnCollection[str, ColumnElement[Any]] = source.c
    return select(
        c.id,
        c.tenant_id,
        c.type,
        c.status,
        readable(c.created_at),
        c.correlation_id,
        readable(c.updated_at),
        as_type(c.payload, Text),
    )


_insert: Final = (
    insert(JOBS)
    .values(
        id=_JOB,
        tenant_id=TENANT,
        type=KIND,
        status=_TARGET,
        payload=_DOCUMENT,
        created_at=_CREATED,
        correlation_id=CORRELATION,
    )
    # A taken id gives no row rather than an error, which would end the caller's transaction.
    .on_conflict_do_nothing(index_elements=[JOBS.c.id])
)

INSERT_JOB: Final = _insert.returning(readable(JOBS.c.updated_at))
"""Inserts a job; gives its version, or no row where the id is taken."""

_swap: Final = (
    update(JOBS)
    .where(
        _one_job(),
        JOBS.c.type == KIND,
        JOBS.c.status == bindparam("expected", type_=SmallInteger),
        # The fence: who lost the job has other attempts. As JSON, which no strange row can make fail.
        JOBS.c.payload.op("->", return_type=JSONB)(literal_column("'attempts'"))
        == func.to_jsonb(bindparam("expected_attempts", type_=Integer)),
        # No move changes this; comparing it keeps column and payload of one mind.
        JOBS.c.created_at == _CREATED,
    )
    .values(
        status=_TARGET,
        payload=_DOCUMENT,
        correlation_id=CORRELATION,
        updated_at=rising(JOBS.c.updated_at),
    )
)
_edit: Final = _swap.where(JOBS.c.updated_at == bindparam("seen", type_=DateTime(timezone=True)))

REPLACE_JOB: Final = _swap.returning(readable(JOBS.c.updated_at))
"""Moves a job from one status to another; gives its new version, or no row where the swap was lost."""

EDIT_JOB: Final = _edit.returning(readable(JOBS.c.updated_at))
"""Changes a job that keeps its status: status and attempts stay, so the version it was read at is compared too."""


def _logged(write: ReturningInsert[Any] | ReturningUpdate[Any]) -> Select[Any]:
    """The write of a job and the entry of its log, as one statement: neither is ever there without the other.

    The event's `created_at` is the version the job got by it, so that who asks again can be told.
    """
    written = write.cte("written")
    logged = entered(EVENTS, select(written.c.id, written.c.tenant_id, _TARGET, _ENTRY, written.c.updated_at), "logged")
    return select(readable(written.c.updated_at), select(logged.c.id).scalar_subquery()).select_from(written)


_WRITTEN: Final = (JOBS.c.id, JOBS.c.tenant_id, JOBS.c.updated_at)

ADD_JOB: Final = _logged(_insert.returning(*_WRITTEN))
"""Inserts a job and its first event; gives its version and the event's id, or no row where the id is taken."""

MOVE_JOB: Final = _logged(_swap.returning(*_WRITTEN))
"""As `REPLACE_JOB`, with its event; gives the new version and the event's id."""

MOVE_JOB_SEEN: Final = _logged(_edit.returning(*_WRITTEN))
"""As `EDIT_JOB`, with its event; gives the new version and the event's id."""


_given: Final = unnested(
    "given",
    ("jobs", Uuid, "given_id"),
    ("kinds", SmallInteger, "kind"),
    ("targets", SmallInteger, "target"),
    ("documents", Text, "document"),
    ("times", DateTime(timezone=True), "time"),
    ("correlations", Text, "correlation"),
    ("entries", Text, "entry"),
)
_added: Final = (
    insert(JOBS)
    .from_select(
        ["id", "tenant_id", "type", "status", "payload", "created_at", "correlation_id"],
        select(
            _given.c.given_id,
            as_type(TENANT, Text),
            _given.c.kind,
            _given.c.target,
            as_type(_given.c.document, JSONB),
            _given.c.time,
            _given.c.correlation,
        )
        # Two of these with the same ids take them in the same order, and so never deadlock.
        .order_by(_given.c.given_id),
    )
    .on_conflict_do_nothing(index_elements=[JOBS.c.id])
    .returning(*_WRITTEN, JOBS.c.status)
    .cte("written")
)
_added_log: Final = entered(
    EVENTS,
    select(
        _added.c.id, _added.c.tenant_id, _added.c.status, as_type(_given.c.entry, JSONB), _added.c.updated_at
    ).join_from(_added, _given, _given.c.given_id == _added.c.id),
    "logged",
)
ADD_JOBS: Final = select(_added.c.id, readable(_added.c.updated_at)).add_cte(_added_log)
"""Inserts many jobs of one tenant and their first events; gives id and version of each whose id was free."""

GET_JOB: Final = job_columns(JOBS).where(_one_job(), JOBS.c.type == KIND)
"""Reads one job of one kind."""

GET_ANY_JOB: Final = job_columns(JOBS).where(_one_job())
"""Reads one job of either kind."""

FIND_TRANSITION: Final = find_transition(EVENTS)
"""Finds the events of the moves of one job that were given an id: id, payload, and the version the job got by each."""

_its_job: Final = (
    select(JOBS.c.id, JOBS.c.tenant_id)
    .where(_one_job())
    # Under the row's lock, so that event ids order one job's history. NO KEY lets others insert events meanwhile.
    .with_for_update(key_share=True)
    .cte("its_job")
    .prefix_with("MATERIALIZED")
)
APPEND_EVENT: Final = (
    insert(EVENTS)
    .from_select(
        LOG_COLUMNS,
        select(_its_job.c.id, _its_job.c.tenant_id, _TARGET, _DOCUMENT, _CREATED),
    )
    .returning(EVENTS.c.id)
)
"""Appends to the log of a job that is there and the tenant's; gives the event's id, or no row."""

LIST_EVENTS: Final = list_events(EVENTS)
"""Reads one job's log, oldest first, from after an event on."""
