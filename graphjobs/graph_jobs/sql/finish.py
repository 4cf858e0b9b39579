"""Statements that renew, finish or take over many running jobs, of any tenants; see `single` for the rules.

Jobs are found by `id = ANY(...)` alone: joined to the input instead, the planner may overestimate the rows and read the
whole table. Rows are locked in the order of their ids, and locked rows are skipped. All times are the database's.
"""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.sql.selectable import NamedFromClause

from graphjobs.core.event_log import find_transitioned, insert_events
from graphjobs.core.queue_flow import KEY_ARRAYS, VERSION_ARRAY
from graphjobs.database.sql_expressions import jsonb_merge, null_if_unrepresentable, unnest_params
from graphjobs.graph_jobs.sql.expressions import (
    QUEUED,
    RUNNING,
    attempts,
    db_now,
    is_object,
    next_job_version,
    without_error,
)
from graphjobs.graph_jobs.sql.single import EVENTS, JOBS

_JOBS: Final = sa.bindparam("p_job_ids", type_=ARRAY(sa.Uuid))

# Each tenant once: the array is compared with every row, and there are fewer tenants than jobs.
_DISTINCT_TENANTS: Final = sa.bindparam("p_distinct_tenant_ids", type_=ARRAY(sa.Text))


def _by_keys(*conditions: sa.ColumnElement[bool]) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        JOBS.c.id == sa.func.any(_JOBS),
        JOBS.c.tenant_id.collate("C") == sa.func.any(_DISTINCT_TENANTS),
        *conditions,
    )


# The cast keeps the planner from the indexes on status.
_is_running: Final = sa.cast(JOBS.c.status, sa.Integer) == RUNNING


_ATTEMPTS: Final = ("p_attempts", sa.Integer, "attempts")
_CHANGE: Final = (
    ("p_new_statuses", sa.SmallInteger, "status"),
    ("p_payloads", sa.Text, "patch"),
    ("p_event_payloads", sa.Text, "event_payload"),
)


def _locked() -> sa.CTE:
    """Lock the running jobs; rows that other transactions hold are skipped, or one would hold up all others."""
    return (
        sa.select(
            JOBS.c.id,
            JOBS.c.tenant_id,
            null_if_unrepresentable(JOBS.c.updated_at).label("version"),
            JOBS.c.payload.op("->", return_type=JSONB)(sa.literal_column("'attempts'")).label("attempts"),
        )
        .where(*_by_keys(_is_running))
        .order_by(JOBS.c.id)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("locked")
        .prefix_with("MATERIALIZED")
    )


def _same_job(inputs: sa.FromClause, locked: sa.FromClause) -> sa.ColumnElement[bool]:
    return (locked.c.id == inputs.c.job_id) & (locked.c.tenant_id == inputs.c.tenant_id)


def _same_attempt(inputs: sa.FromClause, locked: sa.FromClause) -> sa.ColumnElement[bool]:
    # Compared as JSON, which no malformed row can make fail.
    return locked.c.attempts == sa.func.to_jsonb(inputs.c.attempts)


def _apply(fenced: sa.CTE) -> sa.CTE:
    """Update the fenced jobs: status, the fields of the patch, and the time of a final status."""
    now = db_now()
    is_final = fenced.c.status > RUNNING
    completed_at = sa.select(
        sa.func.jsonb_build_object(sa.literal_column("'completedAt'"), now.c.utc_text).label("patch")
    ).scalar_subquery()
    nothing = sa.cast(sa.literal_column("'{}'"), JSONB)
    patch = jsonb_merge(sa.cast(fenced.c.patch, JSONB), sa.case((is_final, completed_at), else_=nothing))
    return (
        sa.update(JOBS)
        .where(*_by_fenced(fenced))
        .values(
            status=fenced.c.status,
            # A payload that is not an object stays as it is.
            payload=sa.case((is_object, jsonb_merge(without_error, patch)), else_=JOBS.c.payload),
            updated_at=next_job_version,
        )
        .returning(JOBS.c.id, JOBS.c.tenant_id, JOBS.c.status, JOBS.c.updated_at, fenced.c.event_payload)
        .cte("updated")
    )


def _by_fenced(fenced: sa.CTE) -> tuple[sa.ColumnElement[bool], ...]:
    ids = sa.func.array(sa.select(fenced.c.job_id).scalar_subquery(), type_=ARRAY(sa.Uuid))
    return (
        JOBS.c.id == sa.func.any(ids),
        JOBS.c.id == fenced.c.job_id,
        JOBS.c.tenant_id.collate("C") == fenced.c.tenant_id,
    )


def _insert_events_of(source: sa.CTE, name: str) -> sa.CTE:
    payload = sa.cast(source.c.event_payload, JSONB)
    rows = sa.select(source.c.id, source.c.tenant_id, source.c.status, payload, source.c.updated_at)
    return insert_events(EVENTS, rows, name)


def _fenced(inputs: NamedFromClause, locked: sa.CTE, fence: sa.ColumnElement[bool], *columns: Any) -> sa.CTE:
    joined = sa.select(*(columns or inputs.c)).join_from(inputs, locked, _same_job(inputs, locked) & fence)
    return joined.cte("fenced").prefix_with("MATERIALIZED")


def _returning_versions(updated: sa.CTE) -> sa.Select[Any]:
    events = _insert_events_of(updated, "logged")
    return sa.select(updated.c.id, null_if_unrepresentable(updated.c.updated_at)).add_cte(events)


def _fenced_by_attempt() -> sa.CTE:
    inputs, locked = unnest_params("inputs", *KEY_ARRAYS, _ATTEMPTS, *_CHANGE), _locked()
    return _fenced(inputs, locked, _same_attempt(inputs, locked))


def _take_over() -> sa.CTE:
    inputs, locked = unnest_params("inputs", *KEY_ARRAYS, VERSION_ARRAY, *_CHANGE), _locked()
    return _apply(_fenced(inputs, locked, locked.c.version.is_not_distinct_from(inputs.c.version)))


FINISH_JOBS: Final = _returning_versions(_apply(_fenced_by_attempt()))
"""Finishes or releases running jobs that still are at the given attempts, with an event each; returns id and version.

Jobs with rows that other transactions hold are left out.
"""

TAKE_OVER_JOBS: Final = _returning_versions(_take_over())
"""Fails or queues running jobs that still are at the version seen, with an event each; returns id and version.

Jobs with rows that other transactions hold are left alone: their workers are alive.
"""


def _refused(running: sa.CTE, followups: NamedFromClause) -> sa.CTE:
    """Select the jobs with a followup that has the id of another tenant's job: it can never be added."""
    # A scalar, because the planner may join an EXISTS, and read the whole table.
    taken = (
        sa.select(JOBS.c.id)
        .where(
            JOBS.c.id == followups.c.job_id,
            (JOBS.c.tenant_id.collate("C") == running.c.tenant_id).is_(sa.false()),
        )
        .correlate(running, followups)
        .scalar_subquery()
    )
    parents = sa.select(running.c.job_id).join_from(running, followups, followups.c.parent_id == running.c.job_id)
    return parents.where(taken.is_not(None)).distinct().cte("refused").prefix_with("MATERIALIZED")


def _finish_with_followups() -> sa.CompoundSelect[Any]:
    followups = unnest_params(
        "followups",
        ("p_parent_ids", sa.Uuid, "parent_id"),
        ("p_followup_ids", sa.Uuid, "job_id"),
        ("p_types", sa.SmallInteger, "type"),
        ("p_followup_payloads", sa.Text, "payload"),
        ("p_created_ats", sa.DateTime(timezone=True), "created_at"),
        ("p_correlation_ids", sa.Text, "correlation_id"),
        ("p_followup_event_payloads", sa.Text, "event_payload"),
    )
    running = _fenced_by_attempt()
    refused = _refused(running, followups)
    storable = sa.select(*running.c).where(running.c.job_id.not_in(sa.select(refused.c.job_id)))
    finished = _apply(storable.cte("storable").prefix_with("MATERIALIZED"))
    added = (
        insert(JOBS)
        .from_select(
            ["id", "tenant_id", "type", "status", "payload", "created_at", "correlation_id"],
            sa.select(
                followups.c.job_id,
                finished.c.tenant_id,
                followups.c.type,
                QUEUED,
                sa.cast(followups.c.payload, JSONB),
                followups.c.created_at,
                followups.c.correlation_id,
            )
            .join_from(followups, finished, finished.c.id == followups.c.parent_id)
            .order_by(followups.c.job_id),
        )
        .on_conflict_do_nothing(index_elements=[JOBS.c.id])
        .returning(JOBS.c.id, JOBS.c.tenant_id, JOBS.c.status, JOBS.c.updated_at)
        .cte("added")
    )
    added_events = (
        sa.select(*added.c, followups.c.event_payload)
        .join_from(added, followups, followups.c.job_id == added.c.id)
        .cte("added_events")
    )
    versions = _returning_versions(finished).add_cte(_insert_events_of(added_events, "added_log"))
    return versions.union_all(sa.select(refused.c.job_id, sa.null()))


FINISH_JOBS_WITH_FOLLOWUPS: Final = _finish_with_followups()
"""Does what `FINISH_JOBS` does, and inserts the queued follow-up jobs of those that it finished, with an event each.

A followup with the id of another job of its tenant is left out. A job with a followup that has the id of another
tenant's job is not finished; it is returned without a version.
"""


def _renew() -> sa.Select[Any]:
    inputs, locked = unnest_params("inputs", *KEY_ARRAYS, _ATTEMPTS), _locked()
    fenced = _fenced(inputs, locked, _same_attempt(inputs, locked), inputs.c.job_id, inputs.c.tenant_id)
    renewed = (
        sa.update(JOBS)
        .where(*_by_fenced(fenced))
        .values(updated_at=next_job_version)
        .returning(JOBS.c.id, JOBS.c.updated_at)
        .cte("renewed")
    )
    # As the statement's snapshot has it: a job with a row that another transaction holds is not lost yet.
    snapshot = (
        sa.select(
            JOBS.c.id, JOBS.c.tenant_id, JOBS.c.payload.op("->")(sa.literal_column("'attempts'")).label("attempts")
        )
        .where(*_by_keys(_is_running))
        .cte("snapshot")
        .prefix_with("MATERIALIZED")
    )
    return (
        sa.select(snapshot.c.id, null_if_unrepresentable(renewed.c.updated_at))
        .join_from(inputs, snapshot, _same_job(inputs, snapshot) & _same_attempt(inputs, snapshot))
        .outerjoin(renewed, renewed.c.id == snapshot.c.id)
    )


RENEW_JOBS: Final = _renew()
"""Raises the versions of running jobs that still are at the given attempts, and writes nothing else: the heartbeat.

Returns each of them with its new version, or NULL where another transaction holds its row.
"""

FIND_TRANSITIONED: Final = find_transitioned(EVENTS)
"""Finds the events of one transition id in the logs of many jobs; returns job id and version."""

GET_STATES: Final = sa.select(JOBS.c.id, JOBS.c.tenant_id, JOBS.c.status, attempts).where(*_by_keys())
"""Reads the states of jobs: id, tenant, status, attempts (NULL where the payload has no such number)."""
