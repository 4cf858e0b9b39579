"""The statements that find expired leases, and pending runs that wait too long; see `single` for the rules.

No index has the ends of leases, which each heartbeat would write. So `LIST_EXPIRED_RUNS` reads what is leased, across
tenants, a bounded part at a time, and the next one goes on behind it.
"""

from typing import Any, Final

import sqlalchemy as sa

from graphjobs.database.sql_expressions import AFTER_TENANT, next_version, null_if_unrepresentable, skip_scan
from graphjobs.policy_runs.sql.acquire import is_pending, next_tenant
from graphjobs.policy_runs.sql.expressions import DISPATCHING, IDS, PENDING, materialized, released, was_rescued
from graphjobs.policy_runs.sql.single import LEASE_DURATION, LIMIT, RUNS, TENANT, TENANT_KEY
from graphjobs.policy_runs.status import PolicyRunPriority

_is_expired: Final = sa.or_(
    RUNS.c.lease_expires_at < sa.func.now(),
    # A version that is ahead of the clock by more than its lease: after the clock was set back, the end of the
    # lease is as far ahead. A heartbeat since then has set an end before the version.
    sa.and_(
        RUNS.c.lease_expires_at > RUNS.c.updated_at,
        RUNS.c.updated_at - sa.func.now() > RUNS.c.lease_expires_at - RUNS.c.updated_at,
    ),
)


def _leased(*conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Read leases, the earliest first, by the time of the lease: no heartbeat changes it, nor writes its index."""
    leased = sa.select(RUNS.c.id, RUNS.c.tenant_id, RUNS.c.last_attempt_at, _is_expired.label("is_expired"))
    return leased.where(RUNS.c.status == DISPATCHING, *conditions).order_by(RUNS.c.last_attempt_at)


def _list_expired() -> sa.Select[Any]:
    after = sa.bindparam("p_after_attempt_at", type_=sa.DateTime(timezone=True))
    # The next part begins after a time, so that this one has all leases of its last time.
    part = _leased(RUNS.c.last_attempt_at > after).fetch(LIMIT, with_ties=True).cte("part").prefix_with("MATERIALIZED")
    # Only a row that was written by hand has no time.
    timeless = materialized(_leased(RUNS.c.last_attempt_at.is_(None)).limit(LIMIT), "timeless")
    read = sa.union_all(sa.select(*part.c), sa.select(*timeless.c)).subquery("read")
    ids = sa.select(read.c.id).where(read.c.is_expired, sa.or_(TENANT.is_(None), read.c.tenant_id == TENANT))
    expired = materialized(
        sa.select(RUNS.c.id, RUNS.c.tenant_id, RUNS.c.updated_at, RUNS.c.attempts, RUNS.c.last_attempt_at)
        .where(
            RUNS.c.id == sa.func.any(sa.func.array(ids.scalar_subquery(), type_=IDS)),
            # The cast keeps the planner from the indexes of statuses.
            sa.cast(RUNS.c.status, sa.Integer) == DISPATCHING,
            _is_expired,
        )
        # A run with a row that another transaction holds receives no heartbeat, so a missing heartbeat says nothing.
        .with_for_update(key_share=True, skip_locked=True),
        "expired",
    )
    last = sa.select(sa.func.count(part.c.id).label("number"), sa.func.max(part.c.last_attempt_at).label("last"))
    last_part = last.subquery("last_part")
    return (
        sa.select(
            sa.case((last_part.c.number >= LIMIT, last_part.c.last)),
            expired.c.id,
            expired.c.tenant_id,
            expired.c.updated_at,
            expired.c.attempts,
            released(expired),
            was_rescued(expired),
        )
        .select_from(last_part.outerjoin(expired, sa.true()))
        .order_by(expired.c.last_attempt_at)
    )


LIST_EXPIRED_RUNS: Final = _list_expired()
"""Lists expired leases among the next ones after a time, of one tenant or of all, with free rows.

Returns at least one row: the time to go on after (NULL where all was read), and of each expired lease id, tenant,
version, attempts, how many attempts were released, and whether one was lost; the earliest leased first.
"""


# A version that is ahead of the clock by more than a lease: it was written before the clock was set back. A run that is
# available before its version was released since then, or its caller has set the time.
_is_ahead: Final = sa.and_(
    RUNS.c.updated_at > sa.func.now() + LEASE_DURATION,
    RUNS.c.available_at >= RUNS.c.updated_at,
    null_if_unrepresentable(RUNS.c.available_at).is_not(None),
)


_LATEST_MAX: Final[sa.ColumnElement[int]] = sa.literal_column("100")
"""The most runs of a tenant and priority that are read at once, those that become available last."""


def _latest(tenants: sa.CTE, priority: PolicyRunPriority) -> sa.Select[Any]:
    """Read the runs of each tenant that become available last; of a clock that is right, there are few or none."""
    latest = (
        sa.select(RUNS.c.id, _is_ahead.label("is_ahead"))
        .where(
            is_pending(priority),
            TENANT_KEY == tenants.c.tenant_id,
            RUNS.c.available_at > sa.func.now() + LEASE_DURATION,
        )
        .order_by(RUNS.c.available_at.desc())
        .limit(_LATEST_MAX)
        .lateral(f"latest_{priority.code}")
    )
    return sa.select(latest.c.id).join_from(tenants, latest, latest.c.is_ahead)


def _bring_forward() -> sa.Select[Any]:
    walk = skip_scan(
        "waiting",
        next_tenant(*PolicyRunPriority),
        lambda _: sa.true(),
        lambda tenant: (tenant > AFTER_TENANT) & TENANT.is_(None),
    )
    listed = sa.union_all(walk, sa.select(sa.cast(TENANT, sa.Text)).where(TENANT.is_not(None))).subquery("listed")
    tenants = materialized(sa.select(listed.c.tenant.label("tenant_id")).limit(LIMIT), "tenants")
    ahead = sa.union_all(*(_latest(tenants, priority) for priority in PolicyRunPriority)).limit(LIMIT)
    # The cast keeps the planner from the indexes of pending runs.
    is_still_pending = sa.cast(RUNS.c.status, sa.Integer) == PENDING
    locked = materialized(
        sa.select(RUNS.c.id)
        .where(RUNS.c.id == sa.func.any(sa.func.array(ahead.scalar_subquery(), type_=IDS)), is_still_pending, _is_ahead)
        .order_by(RUNS.c.id)
        .with_for_update(key_share=True, skip_locked=True),
        "locked",
    )
    moved = (
        sa.update(RUNS)
        .where(
            RUNS.c.id == sa.func.any(sa.func.array(sa.select(locked.c.id).scalar_subquery(), type_=IDS)),
            is_still_pending,
        )
        .values(
            available_at=sa.func.now() + (RUNS.c.available_at - RUNS.c.updated_at),
            updated_at=next_version(RUNS.c.updated_at),
        )
        .returning(RUNS.c.id)
        .cte("moved")
    )
    last = sa.func.max(tenants.c.tenant_id.collate("C")).label("last")
    part = sa.select(sa.func.count(tenants.c.tenant_id).label("number"), last).subquery("part")
    number = sa.select(sa.func.count(moved.c.id)).scalar_subquery()
    return sa.select(sa.case((part.c.number >= LIMIT, part.c.last)), number).select_from(part)


BRING_RUNS_FORWARD: Final = _bring_forward()
"""Makes pending runs available that wait because they were written before the clock was set back by more than a lease.

They keep their delay. As heartbeats, it raises versions and writes no event. It reads the tenants after the given one,
or one tenant; returns the tenant to go on after (NULL where all were read), and the number of runs.
"""
