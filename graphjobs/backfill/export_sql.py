"""Every SQL statement that reads whole tables, as constants with named binds: all tenants' rows, in the key's order.

They are for the one who moves a database as a whole, and give no tenant. No I/O here; no bind has a column's name, and
JSONB crosses as text.
"""

from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from sqlalchemy import BigInteger, Select, Table, Text, TextClause, bindparam, func, select, text
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import ARRAY

from graphjobs.core.event_log import event_columns
from graphjobs.graph_jobs.sql.single import EVENTS as _JOB_EVENTS
from graphjobs.graph_jobs.sql.single import JOBS as _JOBS
from graphjobs.graph_jobs.sql.single import job_columns
from graphjobs.policy_runs.sql.single import EVENTS as _RUN_EVENTS
from graphjobs.policy_runs.sql.single import RUNS as _RUNS
from graphjobs.policy_runs.sql.single import run_columns

_NUMBERS: Final = (-(2**63), 2**63 - 1)
_UUIDS: Final = (UUID(int=0), UUID(int=2**128 - 1))


class Scan(NamedTuple):
    """The statements that read one table.

    Attributes:
        page: rows from the key `from_key` on, that one too, at most `limit_rows`; the key is a row's first column.
        texts: the rows of the keys `row_keys`, with each column as text, whatever it holds.
        columns: the names of those.
        plan: gives PostgreSQL's plan to read all of it, as JSON: how many rows it guesses, without a look at them.
        first: the least key there can be.
        last: the greatest.
    """

    page: Select[Any]
    texts: Select[Any]
    columns: tuple[str, ...]
    plan: TextClause
    first: Any
    last: Any

    def after(self, key: Any) -> Any:
        """Gives the key that follows one, which is not the last."""
        return UUID(int=key.int + 1) if isinstance(key, UUID) else key + 1


def _scan(table: Table, read: Select[Any], ends: tuple[Any, Any]) -> Scan:
    key = table.c.id
    texts = cast("Select[Any]", select(*(as_type(column, Text) for column in table.c)))
    return Scan(
        page=read.where(key >= bindparam("from_key", type_=key.type))
        .order_by(key)
        .limit(bindparam("limit_rows", type_=BigInteger)),
        texts=texts.where(key == func.any(bindparam("row_keys", type_=ARRAY(key.type)))).order_by(key),
        columns=tuple(column.name for column in table.c),
        plan=text(f"EXPLAIN (FORMAT JSON) SELECT FROM {table.fullname}"),
        first=ends[0],
        last=ends[1],
    )


JOBS: Final = _scan(_JOBS, job_columns(_JOBS), _UUIDS)
"""Reads `graph_jobs`, as `any_job_of` takes its rows."""

RUNS: Final = _scan(_RUNS, run_columns(_RUNS), _UUIDS)
"""Reads `policy_runs`, as `run_of` takes its rows."""

EVENTS: Final = _scan(_JOB_EVENTS, event_columns(_JOB_EVENTS), _NUMBERS)
"""Reads `graph_job_events`, as `event_of` takes its rows."""

RUN_EVENTS: Final = _scan(_RUN_EVENTS, event_columns(_RUN_EVENTS), _NUMBERS)
"""Reads `policy_run_events`, as `event_of` takes its rows."""
