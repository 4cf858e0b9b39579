"""Statements that find stalled jobs: running, and without a heartbeat for the length of a lease; see `single`.

No index has the times of heartbeats, which would be written for each of them. So these statements read what runs, a
bounded part at a time, and the next one goes on behind it. `LIST_STALLED_JOBS` reads across tenants.
"""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from graphjobs.database.sql_expressions import AFTER_TENANT, ONE, null_if_unrepresentable
from graphjobs.graph_jobs.sql.acquire import next_tenant
from graphjobs.graph_jobs.sql.expressions import RUNNING, payload_attempts, released
from graphjobs.graph_jobs.sql.single import JOBS, KIND, LIMIT, TENANT

_AFTER_CREATED: Final = sa.bindparam("p_after_created_at", type_=sa.DateTime(timezone=True))
_LEASE: Final = sa.bindparam("p_lease", type_=sa.Interval)
# Versions ahead of the clock, too: after the clock was set back, their age would hide them for long.
_is_stalled: Final = sa.or_(JOBS.c.updated_at < sa.func.now() - _LEASE, JOBS.c.updated_at > sa.func.now() + _LEASE)


def _read_running(tenant: sa.ColumnElement[str], after: Any, limit: Any, *outer: sa.FromClause) -> sa.FromClause:
    """Read running jobs of a tenant, oldest first, as one row: their number, the last time, and the stalled ids."""
    running = (
        sa.select(JOBS.c.id, JOBS.c.created_at, _is_stalled.label("is_stalled"))
        .where(JOBS.c.tenant_id == tenant, JOBS.c.type == KIND, JOBS.c.status == RUNNING, JOBS.c.created_at > after)
        .order_by(JOBS.c.created_at)
        # The next part begins after a time, so that this one has all jobs of its last time.
        .fetch(limit, with_ties=True)
        .correlate(*outer)
        .lateral("running")
    )
    return sa.select(
        sa.func.count(running.c.id).label("number"),
        sa.func.max(running.c.created_at).label("last_created"),
        sa.func.array_agg(running.c.id, type_=ARRAY(sa.Uuid)).filter(running.c.is_stalled).label("stalled_ids"),
    ).lateral("part")


def _first_part(tenant: sa.ColumnElement[str]) -> sa.Select[Any]:
    part = _read_running(tenant, _AFTER_CREATED, LIMIT)
    return sa.select(
        sa.cast(tenant, sa.Text).label("tenant"),
        sa.literal_column("0", sa.BigInteger).label("turn"),
        part.c.number,
        part.c.last_created,
        part.c.stalled_ids,
    ).select_from(part)


def _walk_tenants() -> sa.CTE:
    """Read one tenant after the other, up to the limit of jobs and of tenants; numbers are sums of all before."""
    walk = _first_part(AFTER_TENANT).cte("walk", recursive=True)
    tenant = next_tenant(lambda tenant: tenant > walk.c.tenant).correlate(walk)
    successor = sa.select(tenant.label("tenant")).lateral("successor")
    beginning: sa.ColumnElement[Any] = sa.literal_column("'-infinity'::timestamptz")
    part = _read_running(successor.c.tenant, beginning, LIMIT - walk.c.number, walk, successor)
    return walk.union_all(
        sa.select(
            successor.c.tenant,
            walk.c.turn + ONE,
            walk.c.number + part.c.number,
            part.c.last_created,
            part.c.stalled_ids,
        )
        .select_from(walk.join(successor, sa.true()).join(part, sa.true()))
        .where(walk.c.number < LIMIT, walk.c.turn < LIMIT, successor.c.tenant.is_not(None))
    )


def _list_stalled(parts: sa.CTE, of_tenants: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Lock the stalled jobs of these parts that no other transaction holds."""
    ids = sa.select(sa.func.unnest(parts.c.stalled_ids)).scalar_subquery()
    stalled = (
        sa.select(JOBS.c.id, JOBS.c.tenant_id, JOBS.c.updated_at, JOBS.c.payload)
        .where(
            JOBS.c.id == sa.func.any(sa.func.array(ids, type_=ARRAY(sa.Uuid))),
            of_tenants,
            # The cast keeps the planner from the indexes of statuses.
            sa.cast(JOBS.c.status, sa.Integer) == RUNNING,
            _is_stalled,
        )
        # A job with a row that another transaction holds receives no heartbeat, so a missing heartbeat says nothing.
        .with_for_update(key_share=True, skip_locked=True)
        .cte("stalled")
        .prefix_with("MATERIALIZED")
    )
    last = sa.select(parts).order_by(parts.c.turn.desc()).limit(ONE).subquery("last_part")
    goes_on = (last.c.number >= LIMIT) | (last.c.turn >= LIMIT)
    return sa.select(
        sa.case((goes_on, last.c.tenant)),
        null_if_unrepresentable(last.c.last_created),
        stalled.c.id,
        stalled.c.tenant_id,
        null_if_unrepresentable(stalled.c.updated_at),
        payload_attempts(stalled.c.payload),
        released(stalled),
    ).select_from(last.outerjoin(stalled, sa.true()))


_parts: Final = _walk_tenants()
LIST_STALLED_JOBS: Final = _list_stalled(
    _parts,
    JOBS.c.tenant_id.collate("C")
    == sa.func.any(sa.func.array(sa.select(_parts.c.tenant).scalar_subquery(), type_=ARRAY(sa.Text))),
)
"""Lists stalled jobs among the next running ones, from a time of a tenant on, and then of the tenants after it.

Returns at least one row: the tenant and the time to go on after (NULL where all was read), and of each stalled job id,
tenant, version, attempts (NULL where the payload has no such number), and how many attempts were released.
"""

LIST_STALLED_JOBS_OF_TENANT: Final = _list_stalled(
    _first_part(TENANT).cte("first_part_of_tenant"), JOBS.c.tenant_id.collate("C") == TENANT
)
"""Lists stalled jobs among the next running ones of one tenant; see `LIST_STALLED_JOBS`."""
