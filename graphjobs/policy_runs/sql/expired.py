"""The statement that finds expired leases; see `single` for the rules.

No index has the ends of leases, which each heartbeat would write. So `LIST_EXPIRED_RUNS` reads what is leased, across
tenants, a bounded part at a time, and the next one goes on behind it.
"""

from typing import Any, Final

import sqlalchemy as sa

from graphjobs.policy_runs.sql.expressions import DISPATCHING, IDS, materialized, released, was_rescued
from graphjobs.policy_runs.sql.single import LIMIT, RUNS, TENANT

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
