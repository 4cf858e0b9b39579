"""Every SQL statement that renews or ends many running jobs, of any tenants, as constants with named binds.

What holds for `statements` holds here. Jobs are found by their keys alone, `id = ANY(...)`: joined to what was given
instead, the planner may guess a few hundred rows too many and read the whole table. Whoever locks many does so in the
order of their ids, and waits for nobody. All times are the database's.
"""

from typing import Any, Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Select,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    case,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.sql.selectable import NamedFromClause

from graphjobs.core.event_log import find_transitioned, insert_events
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

_JOBS: Final = bindparam("p_job_ids", type_=ARRAY(Uuid))

# Each tenant once: it is compared with every row, and there are fewer tenants than jobs.
_WHOSE: Final = bindparam("p_distinct_tenant_ids", type_=ARRAY(Text))


def _by_keys(*conditions: ColumnElement[bool]) -> tuple[ColumnElement[bool], ...]:
    return (JOBS.c.id == func.any(_JOBS), JOBS.c.tenant_id.collate("C") == func.any(_WHOSE), *conditions)


# The cast takes the indexes on status out of the planner's choice.
_runs: Final = as_type(JOBS.c.status, Integer) == RUNNING


_of_keys_given: Final = (("p_job_ids", Uuid, "given_id"), ("p_tenant_ids", Text, "tenant"))
_of_attempts: Final = ("p_attempts", Integer, "attempts_held")
_of_version: Final = ("p_versions", DateTime(timezone=True), "version_seen")
_of_move: Final = (
    ("p_new_statuses", SmallInteger, "target"),
    ("p_payloads", Text, "patch"),
    ("p_event_payloads", Text, "entry"),
)


def _locked() -> CTE:
    """Those that run, locked; but for those whose row somebody holds: one of these would keep all others waiting."""
    return (
        select(
            JOBS.c.id,
            JOBS.c.tenant_id,
            null_if_unrepresentable(JOBS.c.updated_at).label("version"),
            JOBS.c.payload.op("->", return_type=JSONB)(literal_column("'attempts'")).label("attempts"),
        )
        .where(*_by_keys(_runs))
        .order_by(JOBS.c.id)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("locked")
        .prefix_with("MATERIALIZED")
    )


def _same_job(given: FromClause, locked: FromClause) -> ColumnElement[bool]:
    return (locked.c.id == given.c.given_id) & (locked.c.tenant_id == given.c.tenant)


def _has_attempts(given: FromClause, locked: FromClause) -> ColumnElement[bool]:
    # As JSON, which no strange row can make fail.
    return locked.c.attempts == func.to_jsonb(given.c.attempts_held)


def _apply(held: CTE) -> CTE:
    """Writes what is held: status, the fields of the patch, and a final one's time."""
    now = db_now()
    final = held.c.target > RUNNING
    ended_at = select(
        func.jsonb_build_object(literal_column("'completedAt'"), now.c.told).label("told")
    ).scalar_subquery()
    patch = jsonb_merge(
        as_type(held.c.patch, JSONB), case((final, ended_at), else_=as_type(literal_column("'{}'"), JSONB))
    )
    return (
        update(JOBS)
        .where(
            JOBS.c.id == func.any(func.array(select(held.c.given_id).scalar_subquery(), type_=ARRAY(Uuid))),
            JOBS.c.id == held.c.given_id,
            JOBS.c.tenant_id.collate("C") == held.c.tenant,
        )
        .values(
            status=held.c.target,
            # What is no object stays as it is.
            payload=case(
                (
                    is_object,
                    jsonb_merge(without_error, patch),
                ),
                else_=JOBS.c.payload,
            ),
            updated_at=next_job_version,
        )
        .returning(JOBS.c.id, JOBS.c.tenant_id, JOBS.c.status, JOBS.c.updated_at, held.c.entry)
        .cte("written")
    )


def _log_of(source: CTE, name: str) -> CTE:
    """Writes an event for each row that was written."""
    entries = select(
        source.c.id, source.c.tenant_id, source.c.status, as_type(source.c.entry, JSONB), source.c.updated_at
    )
    return insert_events(EVENTS, entries, name)


def _fenced(given: NamedFromClause, locked: CTE, fence: ColumnElement[bool]) -> CTE:
    return (select(*given.c).join_from(given, locked, _same_job(given, locked) & fence).cte("held")).prefix_with(
        "MATERIALIZED"
    )


def _returning_versions(written: CTE) -> Select[Any]:
    return select(written.c.id, null_if_unrepresentable(written.c.updated_at)).add_cte(_log_of(written, "logged"))


def _finish() -> CTE:
    given, locked = unnest_params("given", *_of_keys_given, _of_attempts, *_of_move), _locked()
    return _apply(_fenced(given, locked, _has_attempts(given, locked)))


def _take_over() -> CTE:
    given, locked = unnest_params("given", *_of_keys_given, _of_version, *_of_move), _locked()
    return _apply(_fenced(given, locked, locked.c.version.is_not_distinct_from(given.c.version_seen)))


FINISH_JOBS: Final = _returning_versions(_finish())
"""Ends running jobs, or gives them back, of those only that still are at the attempts given; an event each.

A job whose row somebody holds is left out.
"""

TAKE_OVER_JOBS: Final = _returning_versions(_take_over())
"""Ends or requeues running jobs that are still at the version seen, whoever ran them; an event each.

A job whose row somebody holds is left alone: there is life in it.
"""


def _finish_with_followups() -> Select[Any]:
    ended = _finish()
    following = unnest_params(
        "following",
        ("p_parent_ids", Uuid, "parent"),
        ("p_followup_ids", Uuid, "added_id"),
        ("p_types", SmallInteger, "kind"),
        ("p_followup_payloads", Text, "document"),
        ("p_created_ats", DateTime(timezone=True), "time"),
        ("p_correlation_ids", Text, "correlation"),
        ("p_followup_event_payloads", Text, "entry"),
    )
    added = (
        insert(JOBS)
        .from_select(
            ["id", "tenant_id", "type", "status", "payload", "created_at", "correlation_id"],
            select(
                following.c.added_id,
                ended.c.tenant_id,
                following.c.kind,
                QUEUED,
                as_type(following.c.document, JSONB),
                following.c.time,
                following.c.correlation,
            )
            .join_from(following, ended, ended.c.id == following.c.parent)
            .order_by(following.c.added_id),
        )
        .on_conflict_do_nothing(index_elements=[JOBS.c.id])
        .returning(JOBS.c.id, JOBS.c.tenant_id, JOBS.c.status, JOBS.c.updated_at)
        .cte("added")
    )
    insert_events = (
        select(*added.c, following.c.entry)
        .join_from(added, following, following.c.added_id == added.c.id)
        .cte("entered")
    )
    return _returning_versions(ended).add_cte(_log_of(insert_events, "added_log"))


FINISH_JOBS_WITH_FOLLOWUPS: Final = _finish_with_followups()
"""As `END_JOBS`; adds the queued jobs that follow from those that were ended, with an event each: both or neither."""


def _renew() -> Select[Any]:
    given, locked = unnest_params("given", *_of_keys_given, _of_attempts), _locked()
    held = (
        select(given.c.given_id, given.c.tenant)
        .join_from(given, locked, _same_job(given, locked) & _has_attempts(given, locked))
        .cte("held")
        .prefix_with("MATERIALIZED")
    )
    renewed = (
        update(JOBS)
        .where(
            JOBS.c.id == func.any(func.array(select(held.c.given_id).scalar_subquery(), type_=ARRAY(Uuid))),
            JOBS.c.id == held.c.given_id,
            JOBS.c.tenant_id.collate("C") == held.c.tenant,
        )
        .values(updated_at=next_job_version)
        .returning(JOBS.c.id, JOBS.c.updated_at)
        .cte("renewed")
    )
    # As it was when the statement began: whose row somebody holds at the moment is not lost yet.
    as_seen = (
        select(JOBS.c.id, JOBS.c.tenant_id, JOBS.c.payload.op("->")(literal_column("'attempts'")).label("attempts"))
        .where(*_by_keys(_runs))
        .cte("as_seen")
        .prefix_with("MATERIALIZED")
    )
    return (
        select(as_seen.c.id, null_if_unrepresentable(renewed.c.updated_at))
        .join_from(given, as_seen, _same_job(given, as_seen) & _has_attempts(given, as_seen))
        .outerjoin(renewed, renewed.c.id == as_seen.c.id)
    )


RENEW_JOBS: Final = _renew()
"""Raises the versions of running jobs that are still at the attempts given, and changes nothing else: the heartbeat.

Gives each job that still is held, with its new version, or NULL where somebody else has its row at the moment.
"""

FIND_TRANSITIONED: Final = find_transitioned(EVENTS)
"""Finds the events of a statement that moved many jobs: job, and the version it got by it."""

GET_STATES: Final = select(JOBS.c.id, JOBS.c.tenant_id, JOBS.c.status, attempts).where(*_by_keys())
"""Reads where jobs stand: id, tenant, status, attempts (NULL where they are no number)."""
