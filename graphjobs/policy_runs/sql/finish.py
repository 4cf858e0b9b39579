"""Statements that renew, finish or take over many leases of policy runs; see `single` for the rules.

Runs are found by `id = ANY(...)` alone: joined to the input instead, the planner may overestimate the rows and read the
whole table. Rows are locked in the order of their ids, and locked rows are skipped. All times are the database's.
"""

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from graphjobs.core.event_log import find_transitioned, insert_events
from graphjobs.core.queue_flow import KEY_ARRAYS, VERSION_ARRAY
from graphjobs.database.sql_expressions import jsonb_merge, next_version, unnest_params
from graphjobs.policy_runs.sql.single import EVENTS, LEASE_DURATION, RUNS, TENANT_KEY, code
from graphjobs.policy_runs.status import PolicyRunStatus

Status = PolicyRunStatus

_PENDING, _DISPATCHING, _CANCELED = code(Status.PENDING), code(Status.DISPATCHING), code(Status.CANCELED)
_JOBS: Final = sa.bindparam("p_job_ids", type_=ARRAY(sa.Uuid))

# Each tenant once: the array is compared with every row, and there are fewer tenants than runs.
_DISTINCT_TENANTS: Final = sa.bindparam("p_distinct_tenant_ids", type_=ARRAY(sa.Text))

_by_keys: Final = (RUNS.c.id == sa.func.any(_JOBS), TENANT_KEY == sa.func.any(_DISTINCT_TENANTS))

# The cast keeps the planner from the indexes on status.
_is_dispatching: Final = sa.cast(RUNS.c.status, sa.Integer) == _DISPATCHING

_LEASE: Final = (("p_lease_attempts", sa.Integer, "attempts"), ("p_lease_owners", sa.Text, "lease_owner"))
_CHANGE: Final = (
    ("p_new_statuses", sa.SmallInteger, "requested_status"),
    ("p_delays", sa.Interval, "delay"),
    ("p_last_errors", sa.Text, "last_error"),
    ("p_event_payloads", sa.Text, "event_payload"),
)


def _locked() -> sa.CTE:
    return (
        sa.select(
            RUNS.c.id,
            RUNS.c.tenant_id,
            RUNS.c.attempts,
            RUNS.c.lease_owner,
            RUNS.c.updated_at,
            RUNS.c.cancellation_requested_at,
        )
        .where(*_by_keys, _is_dispatching)
        .order_by(RUNS.c.id)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("locked")
        .prefix_with("MATERIALIZED")
    )


_Fence = Callable[[sa.FromClause, sa.FromClause], sa.ColumnElement[bool]]


def _same_run(inputs: sa.FromClause, runs: sa.FromClause) -> sa.ColumnElement[bool]:
    return (runs.c.id == inputs.c.job_id) & (runs.c.tenant_id == inputs.c.tenant_id)


def _same_lease(inputs: sa.FromClause, runs: sa.FromClause) -> sa.ColumnElement[bool]:
    same_owner = runs.c.lease_owner == inputs.c.lease_owner
    return _same_run(inputs, runs) & (runs.c.attempts == inputs.c.attempts) & same_owner


def _same_version(inputs: sa.FromClause, runs: sa.FromClause) -> sa.ColumnElement[bool]:
    return _same_run(inputs, runs) & (runs.c.updated_at == inputs.c.version)


def _by_fenced(fenced: sa.CTE) -> tuple[sa.ColumnElement[bool], ...]:
    ids = sa.func.array(sa.select(fenced.c.job_id).scalar_subquery(), type_=ARRAY(sa.Uuid))
    return (RUNS.c.id == sa.func.any(ids), RUNS.c.id == fenced.c.job_id, TENANT_KEY == fenced.c.tenant_id)


def _apply(fence_columns: tuple[tuple[str, Any, str], ...], fence: _Fence) -> sa.Select[Any]:
    """Finish the leases that the fence admits: the status, when the run is available again, and the error."""
    inputs, locked = unnest_params("inputs", *KEY_ARRAYS, *fence_columns, *_CHANGE), _locked()
    # A run with a requested cancellation is canceled, unless it was submitted.
    requested = inputs.c.requested_status
    is_canceled = (requested != code(Status.SUBMITTED)) & locked.c.cancellation_requested_at.is_not(None)
    status = sa.case((is_canceled, _CANCELED), else_=requested).label("status")
    fenced = (
        sa.select(*inputs.c, status)
        .join_from(inputs, locked, fence(inputs, locked))
        .cte("fenced")
        .prefix_with("MATERIALIZED")
    )
    updated = _update(fenced)
    canceled_instead = sa.func.jsonb_build_object(sa.literal_column("'to'"), sa.literal_column(f"'{Status.CANCELED}'"))
    payload = sa.cast(updated.c.event_payload, JSONB)
    log = insert_events(
        EVENTS,
        sa.select(
            updated.c.id,
            updated.c.tenant_id,
            updated.c.status,
            sa.case(
                (updated.c.status != updated.c.requested_status, jsonb_merge(payload, canceled_instead)), else_=payload
            ),
            updated.c.updated_at,
        ),
        "logged",
    )
    return sa.select(updated.c.id, updated.c.updated_at, updated.c.status).add_cte(log)


def _update(fenced: sa.CTE) -> sa.CTE:
    status = fenced.c.status

    def now_if(target: PolicyRunStatus) -> Any:
        return sa.case((status == sa.func.any(sa.literal_column(f"ARRAY[{target.code}]")), sa.func.now()))

    return (
        sa.update(RUNS)
        .where(*_by_fenced(fenced))
        .values(
            status=status,
            available_at=sa.case((status == _PENDING, sa.func.now() + fenced.c.delay), else_=RUNS.c.available_at),
            # The error of the last attempt; an attempt that was submitted or released did not fail.
            last_error=sa.case(
                (status == _CANCELED, sa.func.coalesce(fenced.c.last_error, RUNS.c.last_error)),
                else_=fenced.c.last_error,
            ),
            submitted_at=now_if(Status.SUBMITTED),
            completed_at=now_if(Status.FAILED),
            canceled_at=now_if(Status.CANCELED),
            lease_owner=sa.null(),
            lease_expires_at=sa.null(),
            updated_at=next_version(RUNS.c.updated_at),
        )
        .returning(
            RUNS.c.id,
            RUNS.c.tenant_id,
            RUNS.c.status,
            RUNS.c.updated_at,
            fenced.c.event_payload,
            fenced.c.requested_status,
        )
        .cte("updated")
    )


FINISH_RUNS: Final = _apply(_LEASE, _same_lease)
"""Finishes leases that still have the given owner and attempts, with an event each; returns id, version and status.

The status is canceled in place of pending or failed where cancellation was requested. Runs with rows that
other transactions hold are left out.
"""

TAKE_OVER_RUNS: Final = _apply((VERSION_ARRAY,), _same_version)
"""Finishes leases of runs that still are at the version seen, of any owner; returns the same as `FINISH_RUNS`.

Runs with rows that other transactions hold are left alone: their holders are alive.
"""


def _renew() -> sa.Select[Any]:
    inputs, locked = unnest_params("inputs", *KEY_ARRAYS, *_LEASE), _locked()
    fenced = (
        sa.select(inputs.c.job_id, inputs.c.tenant_id)
        .join_from(inputs, locked, _same_lease(inputs, locked))
        .cte("fenced")
        .prefix_with("MATERIALIZED")
    )
    renewed = (
        sa.update(RUNS)
        .where(*_by_fenced(fenced))
        .values(lease_expires_at=sa.func.now() + LEASE_DURATION, updated_at=next_version(RUNS.c.updated_at))
        .returning(
            RUNS.c.id,
            RUNS.c.updated_at,
            RUNS.c.lease_expires_at,
            RUNS.c.cancellation_requested_at,
            RUNS.c.cancellation_reason,
        )
        .cte("renewed")
    )
    # As the statement's snapshot has it: a run with a row that another transaction holds is not lost yet.
    snapshot = (
        sa.select(RUNS.c.id, RUNS.c.tenant_id, RUNS.c.attempts, RUNS.c.lease_owner)
        .where(*_by_keys, _is_dispatching)
        .cte("snapshot")
        .prefix_with("MATERIALIZED")
    )
    return (
        sa.select(snapshot.c.id, *(column for column in renewed.c if column.name != "id"))
        .join_from(inputs, snapshot, _same_lease(inputs, snapshot))
        .outerjoin(renewed, renewed.c.id == snapshot.c.id)
    )


RENEW_RUNS: Final = _renew()
"""Extends leases that still have the given owner and attempts, and writes nothing else: the heartbeat.

Returns each of these runs with its version, the end of the lease, and when and why cancellation was requested; NULL
where another transaction holds its row.
"""

FIND_TRANSITIONED: Final = find_transitioned(EVENTS)
"""Finds the events of one transition id in the logs of many runs; returns run and version."""

GET_STATES: Final = sa.select(RUNS.c.id, RUNS.c.tenant_id, RUNS.c.status, RUNS.c.attempts, RUNS.c.lease_owner).where(
    *_by_keys
)
"""Reads the states of runs: id, tenant, status, attempts, lease owner."""
