"""Every SQL statement that looks for work: tenants that have some, claims, and jobs that have stopped.

What holds for `statements` holds here, but for one exception, named as such: `TENANTS_WITH` reads across tenants.
Whoever looks waits for nobody, and skips what others hold. All times are the database's.
"""

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    Interval,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from graphjobs.core.event_log import insert_events
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.core.transitions import RESCUED
from graphjobs.database.sql_expressions import (
    jsonb_merge,
    null_if_unrepresentable,
    one,
    rotating_tenants,
    unnest_params,
)
from graphjobs.graph_jobs.sql.expressions import (
    QUEUED,
    RUNNING,
    TENANTS,
    TRANSITION,
    attempts,
    db_now,
    is_object,
    next_job_version,
    payload_attempts,
    without_error,
)
from graphjobs.graph_jobs.sql.single import EVENTS, JOBS, KIND, LIMIT, job_columns
from graphjobs.graph_jobs.status import GraphJobStatus

_EVENT_PAYLOAD: Final = as_type(bindparam("p_event_payload", type_=Text), JSONB)


def _next_tenant(of: Callable[[ColumnElement[str]], ColumnElement[bool]]) -> ColumnElement[Any]:
    step = select(JOBS.c.tenant_id).where(JOBS.c.tenant_id >= literal_column("''"), of(JOBS.c.tenant_id))
    return step.order_by(JOBS.c.tenant_id).limit(one()).scalar_subquery()


def _has_work(walk: CTE) -> ColumnElement[bool]:
    newest = (
        select(JOBS.c.created_at)
        .where(
            JOBS.c.tenant_id == walk.c.tenant,
            JOBS.c.type == KIND,
            JOBS.c.status == bindparam("p_status", type_=SmallInteger),
        )
        # Ordered, so that only the index serves it; without, the planner hopes to meet one early in the whole table.
        .order_by(JOBS.c.created_at.desc())
        .limit(one())
        .scalar_subquery()
    )
    return newest.is_not(None)


LIST_TENANTS_WITH_STATUS: Final = rotating_tenants("tenants", _next_tenant, _has_work).limit(LIMIT)
"""Lists the tenants that have jobs of a kind in a status, in a circle from after one. The only read across tenants."""

_tenant_shares: Final = unnest_params("asked", ("p_tenant_ids", Text, "tenant"), ("p_shares", BigInteger, "share"))
_candidates: Final = (
    select(JOBS.c.id)
    .where(JOBS.c.tenant_id == _tenant_shares.c.tenant, JOBS.c.type == KIND, JOBS.c.status == QUEUED)
    # The index's own order, of which ties are no part: with the ids, all jobs of a time would be read and sorted.
    .order_by(JOBS.c.created_at)
    .limit(_tenant_shares.c.share)
    .with_for_update(key_share=True, skip_locked=True)
    .lateral("oldest")
)
# Materialized: planned into the UPDATE, the LIMIT would be asked again for each row, and more taken than asked for.
_locked_ids: Final = (
    select(_candidates.c.id).join_from(_tenant_shares, _candidates, true()).cte("picked").prefix_with("MATERIALIZED")
)
_start_clock: Final = db_now()
_claimed: Final = (
    update(JOBS)
    .where(
        JOBS.c.id == func.any(func.array(select(_locked_ids.c.id).scalar_subquery(), type_=ARRAY(Uuid))),
        JOBS.c.tenant_id.collate("C") == func.any(TENANTS),
    )
    .values(
        status=RUNNING,
        # What has no number of attempts stays as it is: its reader will tell it from a job.
        payload=case(
            (
                is_object & (attempts < literal_column(str(ATTEMPTS_MAX))),
                jsonb_merge(
                    without_error,
                    func.jsonb_build_object(
                        literal_column("'status'"),
                        literal_column(f"'{GraphJobStatus.RUNNING}'"),
                        literal_column("'attempts'"),
                        attempts + literal_column("1"),
                        literal_column("'startedAt'"),
                        select(_start_clock.c.told).scalar_subquery(),
                    ),
                ),
            ),
            else_=JOBS.c.payload,
        ),
        updated_at=next_job_version,
    )
    .returning(*JOBS.c)
    .cte("claimed")
)
_claimed_log: Final = insert_events(
    EVENTS,
    select(
        _claimed.c.id,
        _claimed.c.tenant_id,
        _claimed.c.status,
        jsonb_merge(
            _EVENT_PAYLOAD,
            func.jsonb_build_object(
                literal_column("'attempts'"), _claimed.c.payload.op("->")(literal_column("'attempts'"))
            ),
        ),
        _claimed.c.updated_at,
    ),
    "logged",
)
CLAIM_JOBS: Final = job_columns(_claimed).order_by(_claimed.c.created_at, _claimed.c.id).add_cte(_claimed_log)
"""Starts the oldest queued jobs of one kind, of each tenant at most its share, with an event each; waits for nobody."""

FIND_CLAIMED_JOBS: Final = (
    job_columns(JOBS)
    .where(
        JOBS.c.tenant_id == func.any(TENANTS),
        JOBS.c.type == KIND,
        JOBS.c.status == RUNNING,
        # One for each job: as EXISTS, the planner may begin with the log of all jobs.
        select(EVENTS.c.payload.op("->>", return_type=Text)(literal_column("'transitionId'")))
        .where(
            EVENTS.c.job_id == JOBS.c.id,
            EVENTS.c.tenant_id == JOBS.c.tenant_id,
            EVENTS.c.created_at == JOBS.c.updated_at,
        )
        .order_by(EVENTS.c.created_at.desc())
        .limit(literal_column("1"))
        .scalar_subquery()
        == TRANSITION,
    )
    .order_by(JOBS.c.created_at, JOBS.c.id)
)
"""Finds what a claim took whose answer was lost: the jobs that run since it, and nothing has renewed."""

_stalled: Final = (
    select(JOBS.c.id, JOBS.c.tenant_id, JOBS.c.updated_at, JOBS.c.payload)
    .where(
        JOBS.c.tenant_id == _tenant_shares.c.tenant,
        JOBS.c.type == KIND,
        JOBS.c.status == RUNNING,
        # A version ahead of the clock is looked at too: that clock was set back, and its age would hide it for long.
        or_(
            JOBS.c.updated_at < func.now() - bindparam("p_lease", type_=Interval),
            JOBS.c.updated_at > func.now() + bindparam("p_lease", type_=Interval),
        ),
    )
    .order_by(JOBS.c.created_at)
    .limit(_tenant_shares.c.share)
    # Whose row somebody holds cannot be renewed, and its silence says nothing.
    .with_for_update(key_share=True, skip_locked=True)
    .lateral("stalled")
)
_released: Final = (
    select(func.count(EVENTS.c.id))
    .where(
        EVENTS.c.job_id == _stalled.c.id,
        EVENTS.c.tenant_id == _stalled.c.tenant_id,
        EVENTS.c.payload.op("->>", return_type=Text)(literal_column("'from'"))
        == literal_column(f"'{GraphJobStatus.RUNNING}'"),
        EVENTS.c.status == QUEUED,
        ~EVENTS.c.payload.op("?", return_type=Boolean)(literal_column(f"'{RESCUED}'")),
    )
    .correlate(_stalled)
    .scalar_subquery()
)
LIST_STALLED_JOBS: Final = select(
    _stalled.c.id,
    _stalled.c.tenant_id,
    null_if_unrepresentable(_stalled.c.updated_at),
    payload_attempts(_stalled.c.payload),
    _released,
).join_from(_tenant_shares, _stalled, true())
"""Reads which running jobs give no sign of life, though nobody holds their rows; of each tenant the oldest, its share.

Gives id, tenant, version, attempts (NULL where they are no number), and how many of them were given back in order.
"""
