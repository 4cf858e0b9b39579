"""Statements that lease pending runs, and find leases with a lost answer; see `single` for the rules.

Four statements read across tenants: `LEASE_RUNS`, `FIND_LEASED_RUNS`, and in `expired` `LIST_EXPIRED_RUNS` and
`BRING_RUNS_FORWARD`. Rows that other transactions hold are skipped. All times are the database's.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from graphjobs.core.event_log import insert_events, recorded
from graphjobs.core.recovery import on_server
from graphjobs.database.sql_expressions import (
    AFTER_TENANT,
    APART_AFTER,
    ONE,
    ids_within_budget,
    jsonb_merge,
    next_version,
    payload_bytes,
    rotating_tenants,
    size_to_take,
    taken_or_apart,
)
from graphjobs.policy_runs.sql.expressions import (
    DISPATCHING,
    IDS,
    OWNER,
    PENDING,
    counted_attempts,
    materialized,
    released,
    was_rescued,
)
from graphjobs.policy_runs.sql.single import (
    COLUMNS,
    EVENTS,
    LEASE_DURATION,
    LIMIT,
    RUNS,
    TENANT,
    TENANT_KEY,
    run_columns,
)
from graphjobs.policy_runs.status import PolicyRunPriority, PolicyRunStatus

Status = PolicyRunStatus

OVERDUE_EVERY: Final = 8
"""One in so many runs that a lease takes is no emergency, if another run waits; and one in so many that it takes from
a tenant is the oldest run of normal priority, if it is overdue."""

_OVERDUE: Final = sa.text("interval '10 minutes'")
"""The time after which an available run of normal priority is overdue."""

_EVENT_PAYLOAD: Final = sa.cast(sa.bindparam("p_event_payload", type_=sa.Text), JSONB)
_ROTATION_OFFSET: Final = sa.bindparam("p_rotation_offset", type_=sa.BigInteger)
_AFTER_EMERGENCY_TENANT: Final = sa.bindparam("p_after_emergency_tenant_id", type_=sa.Text)
_OTHERS: Final = (PolicyRunPriority.HIGH, PolicyRunPriority.NORMAL)
_NO_IDS: Final = sa.cast(sa.literal_column("'{}'"), IDS).label("ids")
_NO_CURSORS: Final = (sa.cast(sa.null(), sa.Text), sa.cast(sa.null(), sa.Text))


def _one_in_so_many(runs: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Build the part of a number of runs that is reserved; the rotation offset reserves it for smaller numbers, too."""
    part: sa.ColumnElement[Any] = (runs + _ROTATION_OFFSET) // sa.literal_column(str(OVERDUE_EVERY), sa.BigInteger)
    return part


def is_pending(priority: PolicyRunPriority) -> sa.ColumnElement[bool]:
    """Build the condition of the index of pending runs, for one priority."""
    return (RUNS.c.status == PENDING) & (RUNS.c.priority == sa.literal_column(str(priority.code)))


def next_tenant(*priorities: PolicyRunPriority) -> Callable[..., sa.ColumnElement[Any]]:
    """Build the step to the next tenant with a pending run of one of these priorities: one index descent each."""

    def step(is_after: Callable[[sa.ColumnElement[str]], sa.ColumnElement[bool]]) -> sa.ColumnElement[Any]:
        tenants = [
            sa.select(RUNS.c.tenant_id)
            .where(is_pending(priority), TENANT_KEY >= sa.literal_column("''"), is_after(TENANT_KEY))
            .order_by(TENANT_KEY)
            .limit(ONE)
            .scalar_subquery()
            .collate("C")
            for priority in priorities
        ]
        return sa.func.least(*tenants) if len(tenants) > 1 else tenants[0]

    return step


def _has_available(*priorities: PolicyRunPriority) -> Callable[[sa.CTE], sa.ColumnElement[bool]]:
    """Build the condition that a tenant has an available run, and lock that run, so that the lease takes it.

    A tenant with locked runs only is passed over. Otherwise, it would use up the turns of others while they are locked.
    """
    return lambda walk: sa.or_(*(_is_any_available(walk.c.tenant, priority) for priority in priorities))


def _is_any_available(tenant: sa.ColumnElement[str], priority: PolicyRunPriority) -> sa.ColumnElement[bool]:
    return (
        sa.select(RUNS.c.available_at)
        .where(is_pending(priority), TENANT_KEY == tenant, RUNS.c.available_at <= sa.func.now())
        .order_by(RUNS.c.available_at)
        .limit(ONE)
        .with_for_update(key_share=True, skip_locked=True)
        .correlate_except(RUNS)
        .scalar_subquery()
        .is_not(None)
    )


def _candidates(
    tenants: sa.CTE,
    priority: PolicyRunPriority,
    limit: Any,
    *conditions: sa.ColumnElement[bool],
    columns: Sequence[sa.ColumnElement[Any]] = (),
) -> sa.Select[Any]:
    """Lock the runs of a tenant and priority that have been available for longest."""
    return (
        sa.select(RUNS.c.id, *columns)
        .where(is_pending(priority), TENANT_KEY == tenants.c.tenant_id, *conditions)
        # The index's own order: with the id in it, all runs of one time would be read and sorted.
        .order_by(RUNS.c.available_at)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )


_is_available: Final = RUNS.c.available_at <= sa.func.now()
_is_overdue: Final = RUNS.c.available_at <= sa.func.now() - _OVERDUE


def _remaining(step: sa.CTE) -> sa.ColumnElement[Any]:
    return step.c.share - sa.func.cardinality(step.c.ids)


def _with_locked(step: sa.CTE, name: str, candidates: sa.Select[Any]) -> sa.CTE:
    """Build the next step: the ids that each tenant has in this step, and those of its candidates, which it locks."""
    ids = sa.func.array_cat(step.c.ids, sa.func.array(candidates.correlate(step).scalar_subquery()), type_=IDS)
    return materialized(sa.select(step.c.tenant_id, step.c.share, ids.label("ids")), name)


def _pick_by_priority(tenant_shares: sa.CTE, *, with_emergencies: bool) -> sa.Select[Any]:
    """Lock the runs of each tenant's share, one CTE for each step: emergency, overdue, high, normal.

    A step locks no more runs than the steps before have left of the share.
    """
    step = tenant_shares
    if with_emergencies:
        others = (_is_any_available(step.c.tenant_id, priority) for priority in _OTHERS)
        reserved = sa.case((sa.or_(*others), _one_in_so_many(step.c.share)), else_=sa.literal_column("0"))
        emergencies = _candidates(step, PolicyRunPriority.EMERGENCY, step.c.share - reserved, _is_available)
        step = _with_locked(step, "emergency", emergencies)
    overdue_limit = sa.func.least(_remaining(step), _one_in_so_many(step.c.share))
    step = _with_locked(step, "overdue", _candidates(step, PolicyRunPriority.NORMAL, overdue_limit, _is_overdue))
    step = _with_locked(step, "high", _candidates(step, PolicyRunPriority.HIGH, _remaining(step), _is_available))
    # SKIP LOCKED does not skip the statement's own locks: the overdue runs are excluded by their ids.
    is_new = RUNS.c.id != sa.func.all(step.c.ids)
    step = _with_locked(
        step, "normal", _candidates(step, PolicyRunPriority.NORMAL, _remaining(step), _is_available, is_new)
    )
    ids = (
        sa.func.unnest(step.c.ids).table_valued(sa.column("id", sa.Uuid), with_ordinality="turn").render_derived("ids")
    )
    return sa.select(ids.c.id, step.c.tenant_id, ids.c.turn).select_from(step.join(ids, sa.true()))


def _lease(
    locked_turns: sa.Select[Any] | sa.CompoundSelect[Any], tenants: Any, *cursors: sa.ColumnElement[Any]
) -> sa.Select[Any]:
    turns = materialized(locked_turns, "turns")
    is_apart = (RUNS.c.attempts - released(RUNS) >= APART_AFTER) & was_rescued(RUNS)
    size = sa.select(size_to_take(payload_bytes(RUNS), RUNS.c.attempts, is_apart).label("size"))
    of_turn = size.where(RUNS.c.id == turns.c.id, TENANT_KEY == turns.c.tenant_id).scalar_subquery()
    locked = materialized(sa.select(*turns.c, of_turn.label("size")).select_from(turns), "locked")
    within_budget = ids_within_budget(locked)
    leased = (
        sa.update(RUNS)
        .where(
            RUNS.c.id == sa.func.any(sa.func.array(sa.select(within_budget.c.id).scalar_subquery(), type_=IDS)),
            TENANT_KEY == tenants,
            # The cast keeps the planner from the indexes of pending runs.
            sa.cast(RUNS.c.status, sa.Integer) == PENDING,
        )
        .values(
            status=DISPATCHING,
            # A run at the largest number of attempts keeps it; the queue fails it at once.
            attempts=sa.func.least(RUNS.c.attempts + ONE, sa.literal_column("99999")),
            last_attempt_at=sa.func.now(),
            lease_owner=OWNER,
            lease_expires_at=sa.func.now() + LEASE_DURATION,
            updated_at=next_version(RUNS.c.updated_at),
        )
        .returning(*RUNS.c)
        .cte("leased")
    )
    attempts = sa.func.jsonb_build_object(sa.literal_column("'attempts'"), leased.c.attempts)
    payload = jsonb_merge(_EVENT_PAYLOAD, attempts)
    log = insert_events(
        EVENTS,
        sa.select(leased.c.id, leased.c.tenant_id, leased.c.status, payload, leased.c.updated_at),
        "logged",
    )
    rows = run_columns(leased).add_columns(counted_attempts(leased), *cursors)
    return (
        taken_or_apart(rows, leased, locked)
        .order_by(leased.c.priority.desc(), leased.c.available_at, leased.c.id)
        .add_cte(log)
    )


def _tenants_with(name: str, *priorities: PolicyRunPriority, after: Any, limit: Any) -> sa.CTE:
    """List tenants with available runs of these priorities, in their rotation, numbered."""
    tenants = rotating_tenants(name, next_tenant(*priorities), _has_available(*priorities), after=after)
    listed = tenants.limit(limit).subquery(f"{name}_listed")
    turn = sa.func.row_number().over().label("turn")
    return materialized(sa.select(listed.c.tenant.label("tenant_id"), turn), name)


def _shares(tenants: sa.CTE, name: str, limit: Any) -> sa.CTE:
    """Divide the limit among tenants; the first ones get one more where a remainder is left."""
    counted = sa.select(sa.func.count(tenants.c.tenant_id).label("tenant_count")).subquery(f"{name}_counted")
    remainder = sa.case((tenants.c.turn <= limit % counted.c.tenant_count, ONE), else_=sa.literal_column("0"))
    share = (limit // counted.c.tenant_count + remainder).label("share")
    columns = (tenants.c.tenant_id, tenants.c.turn, share, counted.c.tenant_count, limit.label("taken"), _NO_IDS)
    return materialized(sa.select(*columns).join_from(tenants, counted, sa.true()), name)


def _cursor(shares: sa.CTE) -> sa.ColumnElement[Any]:
    """Select the tenant after which the next lease begins."""
    # Where every tenant was served, the next lease begins with the second one: remainders go around, too.
    turn = sa.case((shares.c.tenant_count < shares.c.taken, ONE), else_=shares.c.taken)
    return sa.select(shares.c.tenant_id).where(shares.c.turn == turn).scalar_subquery()


def _lease_any_tenant() -> sa.Select[Any]:
    emergency_tenants = _tenants_with(
        "emergency_tenants", PolicyRunPriority.EMERGENCY, after=_AFTER_EMERGENCY_TENANT, limit=LIMIT
    )
    others_max = sa.case((sa.exists(sa.select(emergency_tenants.c.turn)), _one_in_so_many(LIMIT)), else_=LIMIT)
    tenants = _tenants_with("tenants", *_OTHERS, after=AFTER_TENANT, limit=others_max)
    reserved = sa.case((sa.exists(sa.select(tenants.c.turn)), _one_in_so_many(LIMIT)), else_=sa.literal_column("0"))
    emergency_shares = _shares(emergency_tenants, "emergency_shares", LIMIT - reserved)
    candidates = _candidates(
        emergency_shares,
        PolicyRunPriority.EMERGENCY,
        emergency_shares.c.share,
        _is_available,
        columns=[RUNS.c.available_at],
    ).lateral("candidates")
    emergencies = materialized(
        sa.select(
            candidates.c.id,
            emergency_shares.c.tenant_id,
            sa.func.row_number()
            .over(partition_by=emergency_shares.c.tenant_id, order_by=candidates.c.available_at)
            .label("turn"),
        ).join_from(emergency_shares, candidates, sa.true()),
        "emergencies",
    )
    tenant_shares = _shares(tenants, "tenant_shares", others_max)
    others = _pick_by_priority(tenant_shares, with_emergencies=False)
    served = sa.union_all(sa.select(emergency_shares.c.tenant_id), sa.select(tenant_shares.c.tenant_id)).subquery(
        "served"
    )
    return _lease(
        sa.union_all(sa.select(*emergencies.c), others),
        sa.func.any(sa.func.array(sa.select(served.c.tenant_id).scalar_subquery(), type_=ARRAY(sa.Text))),
        _cursor(emergency_shares),
        _cursor(tenant_shares),
    )


LEASE_RUNS: Final = _lease_any_tenant()
"""Leases pending runs of any tenants, with an event each: emergencies before all, else tenants in their rotation.

One in `OVERDUE_EVERY` runs is no emergency, as long as another run waits.

Returns the runs, the number of attempts that count, two rotation cursors, emergency and regular, each NULL if no run of
that class was leased, and the tenants of runs that were left to be leased alone: in a row of NULLs if no run was
leased. Reads across tenants.
"""


def _lease_tenant() -> sa.Select[Any]:
    tenant, share = sa.cast(TENANT, sa.Text).label("tenant_id"), sa.cast(LIMIT, sa.BigInteger).label("share")
    tenant_shares = sa.select(tenant, share, _NO_IDS).cte("tenant_shares")
    return _lease(_pick_by_priority(tenant_shares, with_emergencies=True), TENANT, *_NO_CURSORS)


LEASE_RUNS_OF_TENANT: Final = _lease_tenant()
"""Leases pending runs of one tenant; see `LEASE_RUNS`. The cursors are NULL."""


def _find_leased() -> sa.Select[Any]:
    log = recorded(EVENTS, EVENTS.c.status == DISPATCHING)
    # By the ids alone: joined to the log instead, the planner may overestimate its rows and read the whole table.
    held = materialized(
        sa.select(RUNS).where(
            RUNS.c.id == sa.func.any(sa.func.array(sa.select(log.c.job_id).scalar_subquery(), type_=IDS)),
            sa.cast(RUNS.c.status, sa.Integer) == DISPATCHING,
            RUNS.c.lease_owner == OWNER,
        ),
        "held",
    )
    is_attempt = sa.func.to_jsonb(held.c.attempts) == log.c.attempts
    is_held = (held.c.id == log.c.job_id) & (held.c.tenant_id == log.c.tenant_id) & is_attempt
    columns = zip(COLUMNS, run_columns(held).selected_columns, strict=True)
    found = sa.select(
        log.c.job_id,
        *(column.label(f"held_{name}") for name, column in columns),
        counted_attempts(held).label("counted_attempts"),
        *(cursor.label(f"cursor_{number}") for number, cursor in enumerate(_NO_CURSORS)),
        sa.cast(sa.null(), ARRAY(sa.Text)).label("tenants_apart"),
    )
    located = on_server(found.select_from(log.outerjoin(held, is_held)))
    return located.order_by(sa.desc("held_priority"), "held_available_at", "job_id")


FIND_LEASED_RUNS: Final = _find_leased()
"""Finds the runs of a lease with a lost answer in the log: the id of each, and its row if its owner still holds it.

The row is as `LEASE_RUNS` returns it, without cursors.
"""
