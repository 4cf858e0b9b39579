"""Whether a database is at a revision this code can work on; runs no migration, and needs nothing that does."""

from typing import Any, Final

from sqlalchemy import Select, literal_column, select, table

from graphjobs.database.executor import Executor
from graphjobs.database.schema import REVISION, SCHEMA, VERSION_TABLE
from graphjobs.errors import SchemaOutOfDate

_READ_REVISION: Final[Select[Any]] = select(literal_column("version_num")).select_from(
    table(VERSION_TABLE, schema=SCHEMA)
)


async def require_revision(executor: Executor) -> str:
    """Lets a database pass that this code can work on: one at its revision, or at a later one, which only adds.

    Returns:
        The revision it is at.

    Raises:
        SchemaOutOfDate: it is at an earlier one, or at none.
    """
    try:
        rows = await executor.fetch_all(_READ_REVISION, {})
    except SchemaOutOfDate:
        rows = []
    found: str | None = rows[0][0] if rows else None
    if found is None or found[:3] < REVISION[:3]:
        raise SchemaOutOfDate(found=found, expected=REVISION)
    return found
