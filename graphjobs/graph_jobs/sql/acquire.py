"""Statements that find work: tenants with queued jobs, and claims; see `single` for the rules.

Two statements read across tenants: `LIST_TENANTS_WITH_STATUS`, and `LIST_STALLED_JOBS` in `stalled`. Rows that other
transactions hold are skipped. All times are the database's.
"""

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from graphjobs.core.event_log import insert_events, recorded
from graphjobs.core.recovery import on_server
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.database.sql_expressions import (
    APART_AFTER,
    ONE,
    ids_within_budget,
    jsonb_merge,
    payload_bytes,
    rotating_tenants,
    size_to_take,
    taken_or_apart,
    unnest_params,
)
from graphjobs.graph_jobs.sql.expressions import (
    QUEUED,
    RUNNING,
    TENANTS,
    attempts,
    db_now,
    is_object,
    next_job_version,
    released,
    without_error,
)
from graphjobs.graph_jobs.sql.single import EVENTS, JOBS, KIND, LIMIT, job_columns
from graphjobs.graph_jobs.status import GraphJobStatus

_EVENT_PAYLOAD: Final = sa.cast(sa.bindparam("p_event_payload", type_=sa.Text), JSONB)


def next_tenant(is_after: Callable[[sa.ColumnElement[str]], sa.ColumnElement[bool]]) -> sa.ScalarSelect[Any]:
    """Build the step to the next tenant with a job: one index descent."""
    step = sa.select(JOBS.c.tenant_id).where(JOBS.c.tenant_id >= sa.literal_column("''"), is_after(JOBS.c.tenant_id))
    return step.order_by(JOBS.c.tenant_id).limit(ONE).scalar_subquery()


def _has_work(walk: sa.CTE) -> sa.ColumnElement[bool]:
    newest = (
        sa.select(JOBS.c.created_at)
        .where(
            JOBS.c.tenant_id == walk.c.tenant,
            JOBS.c.type == KIND,
            JOBS.c.status == sa.bindparam("p_status", type_=sa.SmallInteger),
        )
        # Ordered, so that only the index serves it: unordered, the planner expects an early match in a table scan.
        .order_by(JOBS.c.created_at.desc())
        .limit(ONE)
        .scalar_subquery()
    )
    return newest.is_not(None)


LIST_TENANTS_WITH_STATUS: Final = rotating_tenants("tenants", next_tenant, _has_work).limit(LIMIT)
"""Lists tenants that have jobs of a type in a status, beginning after one and wrapping around. Reads across tenants."""

_tenant_shares: Final = unnest_params(
    "tenant_shares", ("p_tenant_ids", sa.Text, "tenant_id"), ("p_shares", sa.BigInteger, "share")
)
_candidates: Final = (
    sa.select(
        JOBS.c.id, JOBS.c.tenant_id, JOBS.c.created_at, payload_bytes(JOBS).label("size"), attempts.label("attempts")
    )
    .where(JOBS.c.tenant_id == _tenant_shares.c.tenant_id, JOBS.c.type == KIND, JOBS.c.status == QUEUED)
    # The index's own order: with the id in it, all jobs of one time would be read and sorted.
    .order_by(JOBS.c.created_at)
    .limit(_tenant_shares.c.share)
    .with_for_update(key_share=True, skip_locked=True)
    .lateral("candidates")
)
# Not in the scan of the candidates, where its cost can make the planner prefer another index.
_is_apart: Final = _candidates.c.attempts - released(_candidates) >= APART_AFTER
# Materialized: inlined into the UPDATE, the LIMIT can be evaluated again for each row, and too many rows are taken.
_locked: Final = (
    sa.select(
        _candidates.c.id,
        size_to_take(_candidates.c.size, _candidates.c.attempts, _is_apart).label("size"),
        _tenant_shares.c.tenant_id,
        sa.func.row_number()
        .over(partition_by=_tenant_shares.c.tenant_id, order_by=_candidates.c.created_at)
        .label("turn"),
    )
    .join_from(_tenant_shares, _candidates, sa.true())
    .cte("locked")
    .prefix_with("MATERIALIZED")
)
_locked_ids: Final = ids_within_budget(_locked)
_now: Final = db_now()
_claimed: Final = (
    sa.update(JOBS)
    .where(
        JOBS.c.id == sa.func.any(sa.func.array(sa.select(_locked_ids.c.id).scalar_subquery(), type_=ARRAY(sa.Uuid))),
        JOBS.c.tenant_id.collate("C") == sa.func.any(TENANTS),
    )
    .values(
        status=RUNNING,
        # A payload without a number of attempts stays as it is: the caller reports it as unreadable.
        payload=sa.case(
            (
                is_object & (attempts < sa.literal_column(str(ATTEMPTS_MAX))),
                jsonb_merge(
                    without_error,
                    sa.func.jsonb_build_object(
                        sa.literal_column("'status'"),
                        sa.literal_column(f"'{GraphJobStatus.RUNNING}'"),
                        sa.literal_column("'attempts'"),
                        attempts + sa.literal_column("1"),
                        sa.literal_column("'startedAt'"),
                        sa.select(_now.c.utc_text).scalar_subquery(),
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
    sa.select(
        _claimed.c.id,
        _claimed.c.tenant_id,
        _claimed.c.status,
        jsonb_merge(
            _EVENT_PAYLOAD,
            sa.func.jsonb_build_object(
                sa.literal_column("'attempts'"), _claimed.c.payload.op("->")(sa.literal_column("'attempts'"))
            ),
        ),
        _claimed.c.updated_at,
    ),
    "logged",
)
CLAIM_JOBS: Final = (
    taken_or_apart(job_columns(_claimed), _claimed, _locked)
    .order_by(_claimed.c.created_at, _claimed.c.id)
    .add_cte(_claimed_log)
)
"""Starts the oldest queued jobs of one type, of each tenant at most its share, with an event each.

It takes fewer where their payloads exceed the budget of bytes, and leaves jobs that are to be claimed alone. Each row
ends with the tenants of those; a row of NULLs tells them where no job was started.
"""


def _find_claimed() -> sa.Select[Any]:
    log = recorded(EVENTS, EVENTS.c.tenant_id == sa.func.any(TENANTS), EVENTS.c.status == RUNNING)
    ids = sa.func.array(sa.select(log.c.job_id).scalar_subquery(), type_=ARRAY(sa.Uuid))
    # By the ids alone: joined to the log instead, the planner may overestimate its rows and read the whole table.
    held = (
        sa.select(JOBS)
        .where(
            JOBS.c.id == sa.func.any(ids),
            JOBS.c.tenant_id.collate("C") == sa.func.any(TENANTS),
            sa.cast(JOBS.c.status, sa.Integer) == RUNNING,
        )
        .cte("held")
        .prefix_with("MATERIALIZED")
    )
    # As the log has them, JSON null for a payload without attempts.
    no_attempts = sa.cast(sa.literal_column("'null'"), JSONB)
    attempts = sa.func.coalesce(
        held.c.payload.op("->", return_type=JSONB)(sa.literal_column("'attempts'")), no_attempts
    )
    is_held = (held.c.id == log.c.job_id) & (held.c.tenant_id == log.c.tenant_id) & (attempts == log.c.attempts)
    names = ("id", "tenant_id", "type", "status", "created_at", "correlation_id", "updated_at", "payload")
    columns = zip(names, job_columns(held).selected_columns, strict=True)
    found = sa.select(
        log.c.job_id,
        *(column.label(f"held_{name}") for name, column in columns),
        sa.cast(sa.null(), ARRAY(sa.Text)).label("tenants_apart"),
    )
    return on_server(found.select_from(log.outerjoin(held, is_held))).order_by("held_created_at", "job_id")


FIND_CLAIMED_JOBS: Final = _find_claimed()
"""Finds the jobs of a claim with a lost answer in the log: the id of each, and its row if it runs at that attempt."""
