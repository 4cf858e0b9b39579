"""SQL statements that read whole tables in the order of the key, with the rows of all tenants; no I/O.

They are for the migration of a whole database and return no tenant's rows alone. JSONB is selected as text.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from graphjobs.core.event_log import event_columns
from graphjobs.database.sql_expressions import within_budget
from graphjobs.graph_jobs.sql import single as graph_jobs
from graphjobs.policy_runs.sql import single as policy_runs

_NUMBERS: Final = (-(2**63), 2**63 - 1)
_UUIDS: Final = (UUID(int=0), UUID(int=2**128 - 1))


class TableScan(NamedTuple):
    """The statements that read one table.

    Attributes:
        page: rows from the key `p_from_id` (included) on, at most `p_limit`, and
            at most the budget of bytes. The key is the first column.
        texts: the rows of the keys `p_id`, with each column as text, whatever it contains.
        columns: the names of these columns.
        plan: PostgreSQL's plan to read the whole table, as JSON. It estimates the number of rows without a scan.
        first: the lowest possible key.
        last: the highest possible key.
    """

    page: sa.Select[Any]
    texts: sa.Select[Any]
    columns: tuple[str, ...]
    plan: sa.TextClause
    first: Any
    last: Any

    def key_after(self, key: Any) -> Any:
        """Return the key that follows a key, which must not be the last."""
        return UUID(int=key.int + 1) if isinstance(key, UUID) else key + 1


def _scan(table: sa.Table, columns: Callable[[sa.FromClause], sa.Select[Any]], bounds: tuple[Any, Any]) -> TableScan:
    key = table.c.id
    rows = sa.select(table).where(key >= sa.bindparam("p_from_id", type_=key.type))
    page = rows.order_by(key).limit(sa.bindparam("p_limit", type_=sa.BigInteger))
    texts = cast("sa.Select[Any]", sa.select(*(sa.cast(column, sa.Text) for column in table.c)))
    return TableScan(
        page=within_budget(page, columns, lambda page: [page.c.id]),
        texts=texts.where(key == sa.func.any(sa.bindparam("p_id", type_=ARRAY(key.type)))).order_by(key),
        columns=tuple(column.name for column in table.c),
        plan=sa.text(f"EXPLAIN (FORMAT JSON) SELECT FROM {table.fullname}"),
        first=bounds[0],
        last=bounds[1],
    )


EXPORT_JOBS: Final = _scan(graph_jobs.JOBS, graph_jobs.job_columns, _UUIDS)
EXPORT_RUNS: Final = _scan(policy_runs.RUNS, policy_runs.run_columns, _UUIDS)
EXPORT_EVENTS: Final = _scan(graph_jobs.EVENTS, event_columns, _NUMBERS)
EXPORT_RUN_EVENTS: Final = _scan(policy_runs.EVENTS, event_columns, _NUMBERS)
