"""Check the schema revision of a database. This module runs no migration and imports no migration code."""

from typing import Any, Final

from sqlalchemy import Select, literal_column, select, table

from graphjobs.database.executor import Executor
from graphjobs.database.schema import REVISION, SCHEMA, VERSION_TABLE
from graphjobs.errors import SchemaOutOfDate

_READ_REVISION: Final[Select[Any]] = select(literal_column("version_num")).select_from(
    table(VERSION_TABLE, schema=SCHEMA)
)


async def require_revision(executor: Executor) -> str:
    """Check that a database is at this code's revision or a later one; later revisions only add to the schema.

    Returns:
        The revision of the database.

    Raises:
        SchemaOutOfDate: the database is at an earlier revision, or has none.
    """
    try:
        rows = await executor.fetch_all(_READ_REVISION, {})
    except SchemaOutOfDate:
        rows = []
    revision: str | None = rows[0][0] if rows else None
    if revision is None or revision[:3] < REVISION[:3]:
        raise SchemaOutOfDate(found=revision, expected=REVISION)
    return revision
