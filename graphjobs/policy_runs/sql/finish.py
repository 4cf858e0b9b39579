"""Every SQL statement that renews or ends many leases of policy runs, as constants with named binds.

What holds for `statements` holds here. Runs are found by their keys alone, `id = ANY(...)`: joined to what was given
instead, the planner may guess too many rows and read the whole table. Whoever locks many does so in the order of their
ids, and waits for nobody. All times are the database's.
"""

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Interval,
    Select,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    case,
    func,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from graphjobs.core.event_log import find_transitioned, insert_events
from graphjobs.database.sql_expressions import jsonb_merge, next_version, unnest_params
from graphjobs.policy_runs.sql.single import EVENTS, LEASE_DURATION, RUNS, TENANT_KEY, code
from graphjobs.policy_runs.status import PolicyRunStatus

Status = PolicyRunStatus

_Fence = Callable[[FromClause, FromClause], ColumnElement[bool]]
_PENDING, _DISPATCHING, _CANCELED = (
    code(Status.PENDING),
    code(Status.DISPATCHING),
    code(Status.CANCELED),
)
_JOBS: Final = bindparam("p_job_ids", type_=ARRAY(Uuid))

# Each tenant once: it is compared with every row, and there are fewer tenants than runs.
_TENANTS: Final = bindparam("p_distinct_tenant_ids", type_=ARRAY(Text))

_of_keys_given: Final = (("p_job_ids", Uuid, "given_id"), ("p_tenant_ids", Text, "tenant"))
_of_attempt: Final = (("p_lease_attempts", Integer, "attempts_held"), ("p_lease_owners", Text, "owner"))
_of_version: Final = (("p_versions", DateTime(timezone=True), "version_seen"),)
_of_end: Final = (
    ("p_new_statuses", SmallInteger, "target"),
    ("p_delays", Interval, "delay"),
    ("p_last_errors", Text, "problem"),
    ("p_event_payloads", Text, "entry"),
)


def _by_keys() -> tuple[ColumnElement[bool], ...]:
    return (RUNS.c.id == func.any(_JOBS), TENANT_KEY == func.any(_TENANTS))


def _locked() -> CTE:
    return (
        select(
            RUNS.c.id,
            RUNS.c.tenant_id,
            RUNS.c.attempts,
            RUNS.c.lease_owner,
            RUNS.c.updated_at,
            RUNS.c.cancellation_requested_at,
        )
        # The cast takes the indexes on status out of the planner's choice.
        .where(*_by_keys(), as_type(RUNS.c.status, Integer) == _DISPATCHING)
        .order_by(RUNS.c.id)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("locked")
        .prefix_with("MATERIALIZED")
    )


def _same_run(given: FromClause, found: FromClause) -> ColumnElement[bool]:
    return (found.c.id == given.c.given_id) & (found.c.tenant_id == given.c.tenant)


def _same_attempt(given: FromClause, found: FromClause) -> ColumnElement[bool]:
    return (
        _same_run(given, found) & (found.c.attempts == given.c.attempts_held) & (found.c.lease_owner == given.c.owner)
    )


def _same_version(given: FromClause, found: FromClause) -> ColumnElement[bool]:
    return _same_run(given, found) & (found.c.updated_at == given.c.version_seen)


def _apply(held: CTE) -> Select[Any]:
    """Writes how attempts end: where to, when it is available again, why it failed."""
    target = held.c.reached

    def at(*statuses: PolicyRunStatus) -> Any:
        return case(
            (target == func.any(literal_column(f"ARRAY[{', '.join(str(s.code) for s in statuses)}]")), func.now())
        )

    written = (
        update(RUNS)
        .where(
            RUNS.c.id == func.any(func.array(select(held.c.given_id).scalar_subquery(), type_=ARRAY(Uuid))),
            RUNS.c.id == held.c.given_id,
            TENANT_KEY == held.c.tenant,
        )
        .values(
            status=target,
            available_at=case((target == _PENDING, func.now() + held.c.delay), else_=RUNS.c.available_at),
            # Why its last attempt failed: one that was handed over, or given back in order, has not.
            last_error=case(
                (target == _CANCELED, func.coalesce(held.c.problem, RUNS.c.last_error)), else_=held.c.problem
            ),
            submitted_at=at(Status.SUBMITTED),
            completed_at=at(Status.FAILED),
            canceled_at=at(Status.CANCELED),
            lease_owner=null(),
            lease_expires_at=null(),
            updated_at=next_version(RUNS.c.updated_at),
        )
        .returning(RUNS.c.id, RUNS.c.tenant_id, RUNS.c.status, RUNS.c.updated_at, held.c.entry, held.c.target)
        .cte("written")
    )
    instead = func.jsonb_build_object(literal_column("'to'"), literal_column(f"'{Status.CANCELED}'"))
    entry = as_type(written.c.entry, JSONB)
    log = insert_events(
        EVENTS,
        select(
            written.c.id,
            written.c.tenant_id,
            written.c.status,
            case((written.c.status != written.c.target, jsonb_merge(entry, instead)), else_=entry),
            written.c.updated_at,
        ),
        "logged",
    )
    return select(written.c.id, written.c.updated_at, written.c.status).add_cte(log)


def _fenced(
    fence: tuple[tuple[str, Any, str], ...], same: Callable[[FromClause, FromClause], ColumnElement[bool]]
) -> CTE:
    given, locked = unnest_params("given", *_of_keys_given, *fence, *_of_end), _locked()
    # Whose end was asked for, and that nobody has taken, has what was asked for.
    reached = case(
        (
            (given.c.target != code(Status.SUBMITTED)) & locked.c.cancellation_requested_at.is_not(None),
            _CANCELED,
        ),
        else_=given.c.target,
    ).label("reached")
    return (
        select(*given.c, reached).join_from(given, locked, same(given, locked)).cte("held").prefix_with("MATERIALIZED")
    )


FINISH_RUNS: Final = _apply(_fenced(_of_attempt, _same_attempt))
"""Ends leases of those only that still are their owner's at the attempts given; an event each.

Gives id, version and the status that was reached: canceled in place of pending or failed, where that was asked for. A
run whose row somebody holds is left out.
"""

TAKE_OVER_RUNS: Final = _apply(_fenced(_of_version, _same_version))
"""Ends leases of runs that are still at the version seen, whoever's they are; an event each, and the same answer.

A run whose row somebody holds is left alone: there is life in it.
"""


def _renew() -> Select[Any]:
    given, locked = unnest_params("given", *_of_keys_given, *_of_attempt), _locked()
    held = (
        select(given.c.given_id, given.c.tenant)
        .join_from(given, locked, _same_attempt(given, locked))
        .cte("held")
        .prefix_with("MATERIALIZED")
    )
    renewed = (
        update(RUNS)
        .where(
            RUNS.c.id == func.any(func.array(select(held.c.given_id).scalar_subquery(), type_=ARRAY(Uuid))),
            RUNS.c.id == held.c.given_id,
            TENANT_KEY == held.c.tenant,
        )
        .values(lease_expires_at=func.now() + LEASE_DURATION, updated_at=next_version(RUNS.c.updated_at))
        .returning(
            RUNS.c.id,
            RUNS.c.updated_at,
            RUNS.c.lease_expires_at,
            RUNS.c.cancellation_requested_at,
            RUNS.c.cancellation_reason,
        )
        .cte("renewed")
    )
    # As it was when the statement began: whose row somebody holds at the moment is not lost yet.
    as_seen = (
        select(RUNS.c.id, RUNS.c.tenant_id, RUNS.c.attempts, RUNS.c.lease_owner)
        .where(*_by_keys(), as_type(RUNS.c.status, Integer) == _DISPATCHING)
        .cte("as_seen")
        .prefix_with("MATERIALIZED")
    )
    told = [column for column in renewed.c if column.name != "id"]
    return (
        select(as_seen.c.id, *told)
        .join_from(given, as_seen, _same_attempt(given, as_seen))
        .outerjoin(renewed, renewed.c.id == as_seen.c.id)
    )


RENEW_RUNS: Final = _renew()
"""Lets leases last longer that still are their owner's at the attempts given, and changes nothing else: the heartbeat.

Gives each run that still is held, with version, end of the lease, and when and why its end was asked for; these are
NULL where somebody else has its row at the moment.
"""

FIND_TRANSITIONED: Final = find_transitioned(EVENTS)
"""Finds the events of a statement that moved many runs: run, and the version it got by it."""

GET_STATES: Final = select(RUNS.c.id, RUNS.c.tenant_id, RUNS.c.status, RUNS.c.attempts, RUNS.c.lease_owner).where(
    *_by_keys()
)
"""Reads where runs stand: id, tenant, status, attempts, owner."""
