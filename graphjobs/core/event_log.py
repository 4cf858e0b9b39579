"""The log that moves are written to, in the shape of migration 014: its entries, and the statements on such a table."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

from immutabledict import immutabledict
from pydantic import Field
from sqlalchemy import CTE, BigInteger, Select, Table, Text, Uuid, bindparam, func, literal_column, select
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import ARRAY, insert

from graphjobs.core.fields import FrozenModel, Id, Json, Name, UtcTime
from graphjobs.core.json_values import read_json, to_plain_json
from graphjobs.core.state_machine import StatusEnum
from graphjobs.database.executor import Row
from graphjobs.database.sql_expressions import null_if_unrepresentable
from graphjobs.errors import CorruptRow

LOG_COLUMNS: Final = ("job_id", "tenant_id", "status", "payload", "created_at")


def _now() -> datetime:
    return datetime.now(UTC)


class Event(FrozenModel):
    """One entry of a log. For a move, the payload tells from, to, attempts, transition id, actor and error.

    `id` is the database's to give.
    """

    id: Annotated[int, Field(ge=1)] | None = None
    job_id: Id
    tenant_id: Name
    status: Any
    payload: Json = Field(default_factory=immutabledict)
    created_at: UtcTime = Field(default_factory=_now)

    def payload_json(self) -> str:
        """Gives the payload alone, as it is stored."""
        return json.dumps(to_plain_json(self.payload), ensure_ascii=False, separators=(",", ":"))


E = TypeVar("E", bound=Event)


def event_from_row(kind: type[E], statuses: type[StatusEnum], table: str, row: Row) -> E:
    """Reads an event of a row, in the order of `event_columns`.

    Raises:
        CorruptRow: it cannot be read.
    """
    event_id, job_id, tenant_id, status_code, document, created_at = row
    try:
        return kind(
            id=event_id,
            job_id=UUID(int=job_id.int),
            tenant_id=tenant_id,
            status=statuses.from_code(status_code),
            payload=read_json(document),
            created_at=created_at,
        )
    except ValueError as error:  # InvalidJob is one, too
        problem = str(error)
    raise CorruptRow(table, event_id, problem)


def insert_events(events: Table, rows: Select[Any], name: str) -> CTE:
    """Writes entries, in the order of `LOG_COLUMNS`; gives their ids."""
    return insert(events).from_select(LOG_COLUMNS, rows).returning(events.c.id).cte(name)


def find_transition(events: Table) -> Select[Any]:
    """Finds the events of the moves of one job that were given an id: id, payload, and the version each left."""
    return (
        select(events.c.id, as_type(events.c.payload, Text), null_if_unrepresentable(events.c.created_at))
        .where(
            events.c.job_id == bindparam("p_job_id", type_=Uuid),
            events.c.tenant_id == bindparam("p_tenant_id", type_=Text),
            events.c.payload.op("->>", return_type=Text)(literal_column("'transitionId'"))
            == bindparam("p_transition_id", type_=Text),
        )
        # By the index's own order: by id, the planner would walk the log of all jobs for a move that is not there.
        .order_by(events.c.created_at.desc())
        .limit(literal_column("100"))
    )


def event_columns(events: Table) -> Select[Any]:
    """What an event is read from, in the order `event_of` takes it."""
    return select(
        events.c.id,
        events.c.job_id,
        events.c.tenant_id,
        events.c.status,
        as_type(events.c.payload, Text),
        null_if_unrepresentable(events.c.created_at),
    )


def list_events(events: Table) -> Select[Any]:
    """Reads one job's log, oldest first, from after an event on."""
    # Added to nothing, so that the key serves neither order nor range: the planner would walk all logs by it.
    number = events.c.id + literal_column("0")
    return (
        event_columns(events)
        .where(
            events.c.job_id == bindparam("p_job_id", type_=Uuid),
            events.c.tenant_id == bindparam("p_tenant_id", type_=Text),
            number > bindparam("p_after_event_id", type_=BigInteger),
        )
        .order_by(number)
        .limit(bindparam("p_limit", type_=BigInteger))
    )


def find_transitioned(events: Table) -> Select[Any]:
    """Finds the events of a statement that moved many jobs: job, and the version it left."""
    return select(events.c.job_id, null_if_unrepresentable(events.c.created_at)).where(
        events.c.job_id == func.any(bindparam("p_job_ids", type_=ARRAY(Uuid))),
        events.c.tenant_id == func.any(bindparam("p_distinct_tenant_ids", type_=ARRAY(Text))),
        events.c.payload.op("->>", return_type=Text)(literal_column("'transitionId'"))
        == bindparam("p_transition_id", type_=Text),
    )
