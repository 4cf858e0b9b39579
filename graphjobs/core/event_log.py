"""The event log of a domain, in the shape of migration 014: its entries, and the statements on such a table."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import sqlalchemy as sa
from immutabledict import immutabledict
from pydantic import Field
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from graphjobs.core.fields import (
    FrozenModel,
    Id,
    Json,
    Name,
    UtcTime,
    as_uuid,
    check_limit,
    check_name,
    parse_id,
    utc_now,
)
from graphjobs.core.json_values import read_json, to_plain_json
from graphjobs.core.pagination import PAGE_MAX, PartialList, check_event_id, read_rows
from graphjobs.core.recovery import on_server
from graphjobs.core.state_machine import StatusEnum
from graphjobs.database.executor import Executor, Row
from graphjobs.database.sql_expressions import null_if_unrepresentable, within_budget
from graphjobs.errors import CorruptRow

LOG_COLUMNS: Final = ("job_id", "tenant_id", "status", "payload", "created_at")


class Event(FrozenModel):
    """One entry of a log. The payload of a transition holds from, to, attempts, transition id, actor and error.

    The database assigns `id`.
    """

    id: Annotated[int, Field(ge=1)] | None = None
    job_id: Id
    tenant_id: Name
    status: Any
    payload: Json = Field(default_factory=immutabledict)
    created_at: UtcTime = Field(default_factory=utc_now)

    def payload_json(self) -> str:
        """Return the payload as it is stored."""
        return json.dumps(to_plain_json(self.payload), ensure_ascii=False, separators=(",", ":"))


E = TypeVar("E", bound=Event)


def event_from_row(kind: type[E], statuses: type[StatusEnum], table: str, row: Row) -> E:
    """Read an event from a row of `event_columns`.

    Raises:
        CorruptRow: the row is unreadable.
    """
    event_id, job_id, tenant_id, status_code, payload, created_at = row
    try:
        return kind(
            id=event_id,
            job_id=as_uuid(job_id),
            tenant_id=tenant_id,
            status=statuses.from_code(status_code),
            payload=read_json(payload),
            created_at=created_at,
        )
    except ValueError as error:  # InvalidJob is one, too
        problem = str(error)
    raise CorruptRow(table, event_id, problem)


async def read_log(
    executor: Executor,
    statement: sa.Select[Any],
    read: Callable[[Row], E],
    tenant_id: str,
    job_id: UUID | str,
    *,
    after: int,
    limit: int,
) -> PartialList[E]:
    """Read a part of one log, oldest first; empty where the tenant has no such job.

    Args:
        executor: runs the statement.
        statement: one that `list_events` built.
        read: reads a row.
        tenant_id: the tenant.
        job_id: the job or run, a UUID or its text.
        after: the id of the event to continue after.
        limit: the most events, 1 to 1,000.
    """
    params = {
        "p_tenant_id": check_name(tenant_id, "tenant_id"),
        "p_limit": check_limit(limit, limit_max=PAGE_MAX),
        "p_after_event_id": check_event_id(after),
    }
    job = parse_id(job_id, "job_id")
    if job is None:
        return PartialList()
    return await read_rows(read, await executor.fetch_all(statement, {**params, "p_job_id": job}))


def insert_events(events: sa.Table, rows: sa.Select[Any], name: str) -> sa.CTE:
    """Insert events from rows of `LOG_COLUMNS`; returns their ids."""
    return insert(events).from_select(LOG_COLUMNS, rows).returning(events.c.id).cte(name)


def recorded(events: sa.Table, *conditions: sa.ColumnElement[bool]) -> sa.CTE:
    """Find the events of one transition id, by its index: event id, job id, tenant, version, attempts, payload.

    Materialized, so that no other index serves it: on a table without statistics the planner would take that of one
    job's log, and read all of a long one.
    """
    payload: sa.ColumnElement[Any] = events.c.payload
    transition_id = payload.op("->>", return_type=sa.Text)(sa.literal_column("'transitionId'"))
    return (
        sa.select(
            events.c.id,
            events.c.job_id,
            events.c.tenant_id,
            events.c.created_at,
            payload.op("->", return_type=JSONB)(sa.literal_column("'attempts'")).label("attempts"),
            payload.label("payload"),
        )
        .where(
            transition_id == sa.bindparam("p_transition_id", type_=sa.Text),
            sa.func.length(transition_id) == sa.literal_column("36"),  # the index has no others
            *conditions,
        )
        .cte("recorded")
        .prefix_with("MATERIALIZED")
    )


def find_transition(events: sa.Table) -> sa.Select[Any]:
    """Find the events of one job by a transition id, newest first; returns id, payload, and the version of each."""
    log = recorded(events, events.c.tenant_id == sa.bindparam("p_tenant_id", type_=sa.Text))
    return on_server(
        sa.select(
            log.c.id,
            sa.cast(log.c.payload, sa.Text).label("payload"),
            null_if_unrepresentable(log.c.created_at).label("version"),
        )
        .where(log.c.job_id == sa.bindparam("p_job_id", type_=sa.Uuid))
        .order_by(log.c.id.desc())
        .limit(sa.literal_column("100"))
    ).order_by(sa.desc("id"))


def event_columns(events: sa.FromClause) -> sa.Select[Any]:
    """Select the columns that `event_from_row` reads, in its order."""
    return sa.select(
        events.c.id,
        events.c.job_id,
        events.c.tenant_id,
        events.c.status,
        sa.cast(events.c.payload, sa.Text),
        null_if_unrepresentable(events.c.created_at),
    )


def list_events(jobs: sa.Table, events: sa.Table) -> sa.Select[Any]:
    """List one job's log after an event, oldest first; the log of another tenant's job is not read."""
    tenant = sa.bindparam("p_tenant_id", type_=sa.Text)
    job_id = sa.select(jobs.c.id).where(
        jobs.c.id == sa.bindparam("p_job_id", type_=sa.Uuid), jobs.c.tenant_id == tenant.collate("C")
    )
    # Without the tenant, which all events of a job share: the planner takes it for a condition that few events meet,
    # and reads and sorts the whole log.
    page = (
        sa.select(events)
        .where(
            events.c.job_id == job_id.scalar_subquery(),
            events.c.id > sa.bindparam("p_after_event_id", type_=sa.BigInteger),
        )
        .order_by(events.c.job_id, events.c.id)
        .limit(sa.bindparam("p_limit", type_=sa.BigInteger))
        .subquery("page_of_log")
    )
    return within_budget(sa.select(page).where(page.c.tenant_id == tenant), event_columns, lambda rows: [rows.c.id])


def find_transitioned(events: sa.Table) -> sa.Select[Any]:
    """Find the events of one transition id in the logs of many jobs; returns job id and version."""
    tenants = sa.bindparam("p_distinct_tenant_ids", type_=ARRAY(sa.Text))
    log = recorded(events, events.c.tenant_id == sa.func.any(tenants))
    return on_server(
        sa.select(log.c.job_id, null_if_unrepresentable(log.c.created_at).label("version")).where(
            log.c.job_id == sa.func.any(sa.bindparam("p_job_ids", type_=ARRAY(sa.Uuid)))
        )
    )
