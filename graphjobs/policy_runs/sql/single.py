"""Statements on one policy run and its log, as constants with named binds. SQL of policy runs is in this package only.

The rules of `graphjobs.graph_jobs.sql.single` apply. The checks of the table guarantee valid codes, and times that
Python can represent.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from graphjobs.core.event_log import find_transition, insert_events, list_events
from graphjobs.core.recovery import HAS_STANDBYS, on_server
from graphjobs.database.sql_expressions import jsonb_merge, next_version, utc_text
from graphjobs.policy_runs.status import PolicyRunStatus
from graphjobs.policy_runs.tables import PolicyRunEventRow, PolicyRunRow

RUNS: Final = cast("sa.Table", PolicyRunRow.__table__)
EVENTS: Final = cast("sa.Table", PolicyRunEventRow.__table__)

TENANT_KEY: Final = RUNS.c.tenant_id.collate("C")
"""The tenant, compared such that only the primary key, or an index of this collation, can serve it.

Compared without it, the planner takes any index that begins with the tenant, and reads all rows of a tenant that the
statistics do not know.
"""

TENANT: Final = sa.bindparam("p_tenant_id", type_=sa.Text)
LIMIT: Final = sa.bindparam("p_limit", type_=sa.BigInteger)
LEASE_DURATION: Final = sa.bindparam("p_lease_duration", type_=sa.Interval)
_RUN: Final = sa.bindparam("p_job_id", type_=sa.Uuid)
_RUN_ID: Final = sa.bindparam("p_run_id", type_=sa.Text)
_TARGET: Final = sa.bindparam("p_status", type_=sa.SmallInteger)
_EVENT_PAYLOAD: Final = sa.cast(sa.bindparam("p_event_payload", type_=sa.Text), JSONB)
_THROUGH_TARGET: Final = sa.bindparam("p_through_status", type_=sa.SmallInteger)
_THROUGH_EVENT_PAYLOAD: Final = sa.cast(sa.bindparam("p_through_event_payload", type_=sa.Text), JSONB)
_MICROSECOND: Final = sa.text("interval '1 microsecond'")


def code(status: PolicyRunStatus) -> sa.ColumnElement[int]:
    """Return the code of a status as an SQL literal, so that the planner can use partial indexes."""
    return sa.literal_column(str(status.code), sa.SmallInteger)


COLUMNS: Final = tuple(column.name for column in RUNS.c)
"""The columns of a run, in the order of `run_columns`."""

_PARAMS: Final[Mapping[str, sa.ColumnElement[Any]]] = {
    **{column.name: sa.bindparam(f"p_{column.name}", type_=column.type) for column in RUNS.c},
    "id": _RUN,
    "payload": sa.cast(sa.bindparam("p_payload", type_=sa.Text), JSONB),
}
_REQUEST: Final = ("policy_id", "mode", "priority", "queued_at", "created_at", "payload")
"""The columns that never change, beside the key and the run id."""


def run_columns(source: sa.FromClause) -> sa.Select[Any]:
    """Select the columns of a run, in the order of `COLUMNS`."""
    columns = (source.c[name] for name in COLUMNS)
    return sa.select(*(sa.cast(column, sa.Text) if column.name == "payload" else column for column in columns))


def _by_key() -> sa.ColumnElement[bool]:
    """Find one row by its key, such that only the primary key can serve it."""
    return (RUNS.c.id == _RUN) & (TENANT_KEY == TENANT)


_by_run_id: Final = (TENANT_KEY == TENANT) & (RUNS.c.run_id == _RUN_ID)

_new: Final = (
    insert(RUNS)
    .values(
        {
            **{name: _PARAMS[name] for name in COLUMNS if name != "updated_at"},
            # A run that is available when it is made is available from now() on, by the clock of leases: a caller's
            # clock that is ahead would delay the run, and one that is behind would put it before others.
            "available_at": sa.case(
                (
                    (_PARAMS["available_at"] == _PARAMS["created_at"]) & (_TARGET == code(PolicyRunStatus.PENDING)),
                    sa.func.now(),
                ),
                else_=_PARAMS["available_at"],
            ),
        }
    )
    # A taken id or run id returns no row; an error would abort the caller's transaction.
    .on_conflict_do_nothing()
    .returning(*RUNS.c)
    .cte("written")
)
_new_log: Final = insert_events(
    EVENTS, sa.select(_new.c.id, _new.c.tenant_id, _new.c.status, _EVENT_PAYLOAD, _new.c.updated_at), "logged"
)
INSERT_RUN: Final = sa.union_all(
    run_columns(_new).add_columns(sa.true(), sa.false()),
    run_columns(RUNS).add_columns(sa.false(), HAS_STANDBYS).where(_by_run_id, ~sa.exists(sa.select(_new.c.id))),
).add_cte(_new_log)
"""Inserts a run and its first event; returns the run and true, or the earlier run of this run id and false.

Of an earlier run the last column tells whether it has to be confirmed by a standby.

No row where the id is taken, or where a run of this run id was committed meanwhile; a later read finds that run.
"""

GET_RUN: Final = run_columns(RUNS).where(_by_key())
"""Reads one run by its id."""

GET_RUN_BY_RUN_ID: Final = run_columns(RUNS).where(_by_run_id)
"""Reads one run by its run id."""

FIND_RUN_BY_RUN_ID: Final = on_server(GET_RUN_BY_RUN_ID)
"""Does what `GET_RUN_BY_RUN_ID` does, after a lost answer."""

_swap: Final = (
    sa.update(RUNS)
    .where(
        _by_key(),
        # The cast keeps the planner from the indexes of pending and of leased runs.
        sa.cast(RUNS.c.status, sa.Integer) == sa.bindparam("p_expected_status", type_=sa.Integer),
        # The fence: a dispatcher that lost the run is not its owner, or has other attempts.
        RUNS.c.lease_owner.is_not_distinct_from(sa.bindparam("p_expected_lease_owner", type_=sa.Text)),
        RUNS.c.attempts == sa.bindparam("p_expected_attempts", type_=sa.Integer),
        # The request never changes: a value with another request is not this run. The collation keeps the planner from
        # the index of run ids.
        RUNS.c.run_id.collate("C") == _RUN_ID,
        *(RUNS.c[name] == _PARAMS[name] for name in _REQUEST),
        # A run with a requested cancellation is not released but canceled: its holder has to read it again.
        (_TARGET != code(PolicyRunStatus.PENDING)) | RUNS.c.cancellation_requested_at.is_(None),
    )
    .values(
        {
            **{name: _PARAMS[name] for name in COLUMNS if name not in ("id", "tenant_id", "run_id", *_REQUEST)},
            # A cancellation request is never removed, even if the caller has not read it yet.
            "cancellation_requested_at": sa.func.coalesce(
                RUNS.c.cancellation_requested_at, _PARAMS["cancellation_requested_at"]
            ),
            "cancellation_reason": sa.case(
                (RUNS.c.cancellation_requested_at.is_not(None), RUNS.c.cancellation_reason),
                else_=_PARAMS["cancellation_reason"],
            ),
            "updated_at": next_version(RUNS.c.updated_at),
        }
    )
)


CANCELLATION_REQUESTED_AT: Final = "cancellationRequestedAt"
CANCELLATION_REASON: Final = "cancellationReason"
"""Keys in the payload of an event: when and why cancellation was requested, if it was by then."""


def _with_event(swap: Any, *, through: bool = False) -> sa.Select[Any]:
    written = swap.returning(
        RUNS.c.id,
        RUNS.c.tenant_id,
        RUNS.c.updated_at,
        RUNS.c.cancellation_requested_at,
        RUNS.c.cancellation_reason,
    ).cte("written")
    # The event records a cancellation that the caller may not have read, so that a repeated call returns the same.
    cancellation = sa.func.jsonb_strip_nulls(
        sa.func.jsonb_build_object(
            sa.literal_column(f"'{CANCELLATION_REQUESTED_AT}'"),
            utc_text(written.c.cancellation_requested_at),
            sa.literal_column(f"'{CANCELLATION_REASON}'"),
            written.c.cancellation_reason,
        )
    )

    def event(status: Any, payload: Any, version: Any) -> sa.Select[Any]:
        merged = jsonb_merge(payload, cancellation)
        return sa.select(written.c.id, written.c.tenant_id, status, merged, version.label("version"))

    events: Any = event(_TARGET, _EVENT_PAYLOAD, written.c.updated_at)
    if through:
        first = event(_THROUGH_TARGET, _THROUGH_EVENT_PAYLOAD, written.c.updated_at - _MICROSECOND)
        events = sa.union_all(first, events).order_by("version")
    logged = insert_events(EVENTS, events, "logged")
    return sa.select(
        written.c.updated_at,
        sa.select(sa.func.max(logged.c.id)).scalar_subquery(),
        written.c.cancellation_requested_at,
        written.c.cancellation_reason,
    ).select_from(written)


TRANSITION_RUN: Final = _with_event(_swap)
"""Swaps a run to another status, with its event; returns no row where the swap lost.

Returns the version, the event's id, and when and why cancellation was requested, or NULL.
"""

_EXPECTED_VERSION: Final = sa.bindparam("p_expected_version", type_=RUNS.c.updated_at.type)
TRANSITION_RUN_AT_VERSION: Final = _with_event(_swap.where(RUNS.c.updated_at == _EXPECTED_VERSION))
"""Swaps a run that keeps its status: status, owner and attempts stay equal, so the version is compared, too."""

TRANSITION_RUN_THROUGH: Final = _with_event(
    _swap.values(updated_at=next_version(RUNS.c.updated_at) + _MICROSECOND), through=True
)
"""Swaps a run through a status between, with the events of both transitions in their order; else as `TRANSITION_RUN`.

The version of the first is a microsecond before that of the second.
"""

FIND_TRANSITION: Final = find_transition(EVENTS)
"""Finds the events of one run by a transition id; returns event id, payload and version."""

LIST_EVENTS: Final = list_events(RUNS, EVENTS)
"""Lists one run's log after an event, oldest first."""
