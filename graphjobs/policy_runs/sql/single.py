"""Every SQL statement on one policy run and its log, as constants with named binds; `scans` and `leases` have the rest.

There is no I/O here. What holds for the statements of graph jobs holds here: each gives the tenant on every table it
touches, and names its columns; no bind has a column's name; JSONB crosses as text both ways; a write uses no volatile
function. The checks of the table see to it that every code is one, and every time one that Python can hold.
"""

from typing import Any, Final, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Interval,
    Select,
    SmallInteger,
    Table,
    Text,
    Uuid,
    bindparam,
    case,
    exists,
    false,
    func,
    literal_column,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import JSONB, insert

from graphjobs.core.event_log import find_transition, insert_events, list_events
from graphjobs.database.sql_expressions import jsonb_merge, next_version, utc_text
from graphjobs.policy_runs.status import PolicyRunStatus
from graphjobs.policy_runs.tables import PolicyRunEventRow, PolicyRunRow

RUNS: Final = cast("Table", PolicyRunRow.__table__)
EVENTS: Final = cast("Table", PolicyRunEventRow.__table__)

TENANT_KEY: Final = RUNS.c.tenant_id.collate("C")
"""The tenant, so compared that no index of pages can serve it: the key does, or an index that has this very order.

Compared plainly, the planner takes whichever index begins with the tenant, and reads all rows of one that the
statistics do not know.
"""

TENANT: Final = bindparam("p_tenant_id", type_=Text)
LIMIT: Final = bindparam("p_limit", type_=BigInteger)
LEASE_DURATION: Final = bindparam("p_lease_duration", type_=Interval)
_RUN: Final = bindparam("p_job_id", type_=Uuid)
_NAME: Final = bindparam("p_run_id", type_=Text)
_TARGET: Final = bindparam("p_status", type_=SmallInteger)
_PAYLOAD: Final = as_type(bindparam("p_payload", type_=Text), JSONB)
_EVENT_PAYLOAD: Final = as_type(bindparam("p_event_payload", type_=Text), JSONB)


def code(status: PolicyRunStatus) -> ColumnElement[int]:
    """A status as SQL, which the planner sees: a partial index serves what it can prove."""
    return literal_column(str(status.code), SmallInteger)


def _time(bind: str) -> ColumnElement[Any]:
    return bindparam(bind, type_=DateTime(timezone=True))


def _text(bind: str) -> ColumnElement[Any]:
    return bindparam(bind, type_=Text)


COLUMNS: Final = tuple(column.name for column in RUNS.c)
"""What a run is read from, in this order."""


def run_columns(source: FromClause) -> Select[Any]:
    """What a run is read from, in the order of `COLUMNS`."""
    columns = (source.c[name] for name in COLUMNS)
    return select(*(as_type(column, Text) if column.name == "payload" else column for column in columns))


def _by_key() -> ColumnElement[bool]:
    """Finds one row by its key, which alone can serve it."""
    return (RUNS.c.id == _RUN) & (TENANT_KEY == TENANT)


_by_run_id: Final = (TENANT_KEY == TENANT) & (RUNS.c.run_id == _NAME)

_AVAILABLE, _CREATED = _time("p_available_at"), _time("p_created_at")

_new: Final = (
    insert(RUNS)
    .values(
        id=_RUN,
        tenant_id=TENANT,
        run_id=_NAME,
        policy_id=_text("p_policy_id"),
        mode=bindparam("p_mode", type_=SmallInteger),
        priority=bindparam("p_priority", type_=SmallInteger),
        status=_TARGET,
        attempts=bindparam("p_attempts", type_=Integer),
        queued_at=_time("p_queued_at"),
        # What is available as soon as it is made is so from now on, by the one clock that leases: the maker's may be
        # ahead, and keep it waiting, or behind, and take the turn of others.
        available_at=case(
            ((_AVAILABLE == _CREATED) & (_TARGET == code(PolicyRunStatus.PENDING)), func.now()), else_=_AVAILABLE
        ),
        last_attempt_at=_time("p_last_attempt_at"),
        last_error=_text("p_last_error"),
        submitted_at=_time("p_submitted_at"),
        completed_at=_time("p_completed_at"),
        lease_owner=_text("p_lease_owner"),
        lease_expires_at=_time("p_lease_expires_at"),
        cancellation_requested_at=_time("p_cancellation_requested_at"),
        cancellation_reason=_text("p_cancellation_reason"),
        canceled_at=_time("p_canceled_at"),
        payload=_PAYLOAD,
        created_at=_CREATED,
    )
    # A taken id or name gives no row rather than an error, which would end the caller's transaction.
    .on_conflict_do_nothing()
    .returning(*RUNS.c)
    .cte("written")
)
_new_log: Final = insert_events(
    EVENTS, select(_new.c.id, _new.c.tenant_id, _new.c.status, _EVENT_PAYLOAD, _new.c.updated_at), "logged"
)
INSERT_RUN: Final = union_all(
    run_columns(_new).add_columns(true()),
    run_columns(RUNS).add_columns(false()).where(_by_run_id, ~exists(select(_new.c.id))),
).add_cte(_new_log)
"""Inserts a run and its first event; gives it, and whether it is new: else the one of its name that was there before.

No row where the id is taken, or where one of its name was committed meanwhile, which a later look finds.
"""

GET_RUN: Final = run_columns(RUNS).where(_by_key())
"""Reads one run by its id."""

GET_RUN_BY_RUN_ID: Final = run_columns(RUNS).where(_by_run_id)
"""Reads one run by the asker's own name of it."""

_swap: Final = (
    update(RUNS)
    .where(
        _by_key(),
        # The cast takes the indexes of what is pending or leased out of the planner's choice.
        as_type(RUNS.c.status, Integer) == bindparam("p_expected_status", type_=Integer),
        # The fence: who lost the run is not its owner, or has other attempts.
        RUNS.c.lease_owner.is_not_distinct_from(_text("p_expected_lease_owner")),
        RUNS.c.attempts == bindparam("p_expected_attempts", type_=Integer),
        # What was asked for never changes; a value that says otherwise is of no such run.
        # So compared that the key alone serves this.
        RUNS.c.run_id.collate("C") == _NAME,
        RUNS.c.policy_id == _text("p_policy_id"),
        RUNS.c.mode == bindparam("p_mode", type_=SmallInteger),
        RUNS.c.priority == bindparam("p_priority", type_=SmallInteger),
        RUNS.c.queued_at == _time("p_queued_at"),
        RUNS.c.created_at == _CREATED,
        RUNS.c.payload == _PAYLOAD,
        # Whose end was asked for meanwhile is not given back, but canceled: its holder has to look again.
        (_TARGET != code(PolicyRunStatus.PENDING)) | RUNS.c.cancellation_requested_at.is_(None),
    )
    .values(
        status=_TARGET,
        attempts=bindparam("p_attempts", type_=Integer),
        available_at=_AVAILABLE,
        last_attempt_at=_time("p_last_attempt_at"),
        last_error=_text("p_last_error"),
        submitted_at=_time("p_submitted_at"),
        completed_at=_time("p_completed_at"),
        lease_owner=_text("p_lease_owner"),
        lease_expires_at=_time("p_lease_expires_at"),
        # Once asked for, it stays so, whatever the mover has seen.
        cancellation_requested_at=func.coalesce(RUNS.c.cancellation_requested_at, _time("p_cancellation_requested_at")),
        cancellation_reason=case(
            (RUNS.c.cancellation_requested_at.is_not(None), RUNS.c.cancellation_reason),
            else_=_text("p_cancellation_reason"),
        ),
        canceled_at=_time("p_canceled_at"),
        updated_at=next_version(RUNS.c.updated_at),
    )
)


CANCELLATION_REQUESTED_AT: Final = "cancellationRequestedAt"
CANCELLATION_REASON: Final = "cancellationReason"
"""In the payload of an event: when and why the end of the run was asked for, if it was by then."""


def _with_event(swap: Any) -> Select[Any]:
    written = swap.returning(
        RUNS.c.id,
        RUNS.c.tenant_id,
        RUNS.c.updated_at,
        RUNS.c.cancellation_requested_at,
        RUNS.c.cancellation_reason,
    ).cte("written")
    # What the row kept, the mover may not have seen: told, so that whoever asks again is answered the same.
    kept = func.jsonb_strip_nulls(
        func.jsonb_build_object(
            literal_column(f"'{CANCELLATION_REQUESTED_AT}'"),
            utc_text(written.c.cancellation_requested_at),
            literal_column(f"'{CANCELLATION_REASON}'"),
            written.c.cancellation_reason,
        )
    )
    columns = (written.c.id, written.c.tenant_id, _TARGET, jsonb_merge(_EVENT_PAYLOAD, kept), written.c.updated_at)
    logged = insert_events(EVENTS, select(*columns), "logged")
    return select(
        written.c.updated_at,
        select(logged.c.id).scalar_subquery(),
        written.c.cancellation_requested_at,
        written.c.cancellation_reason,
    ).select_from(written)


TRANSITION_RUN: Final = _with_event(_swap)
"""Moves a run, with its event; gives the version, the event's id, and when and why its end was asked for, if it was.

No row where the swap was lost.
"""

TRANSITION_RUN_AT_VERSION: Final = _with_event(_swap.where(RUNS.c.updated_at == _time("p_expected_version")))
"""Changes a run that keeps its status: status, owner and attempts stay, so the version it was read at is compared."""

FIND_TRANSITION: Final = find_transition(EVENTS)
"""Finds the events of the moves of one run that were given an id: id, payload, and the version the run got by each."""

LIST_EVENTS: Final = list_events(EVENTS)
"""Reads one run's log, oldest first, from after an event on."""
