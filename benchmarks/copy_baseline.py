"""The bare COPY that the backfill is held against: rows made ready in a file, and sent as one statement."""

import pickle
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from graphjobs.database.schema import SCHEMA
from graphjobs.graph_jobs.tables import GraphJobRow

_TABLE: Final = GraphJobRow.__tablename__
_COLUMNS: Final = ("id", "tenant_id", "type", "status", "payload", "created_at", "updated_at", "correlation_id")
_ROWS: Final = f"SELECT {', '.join(_COLUMNS)} FROM {SCHEMA}.{_TABLE}"
_AT_ONCE: Final = 1_000


async def write_rows(url: str, file: Path) -> int:
    """Writes the rows of the table to a file, in the order they lie there, and gives how many there are."""
    number = 0
    connection = await asyncpg.connect(url)
    try:
        with file.open("wb") as opened:
            async with connection.transaction():
                cursor = await connection.cursor(_ROWS)
                while rows := await cursor.fetch(_AT_ONCE):
                    number += len(rows)
                    # Of a UUID its bytes: Python's own takes longer to be unpickled than all the rest.
                    pickle.dump([(row[0].bytes, *row[1:]) for row in rows], opened, pickle.HIGHEST_PROTOCOL)
    finally:
        await connection.close()
    return number


async def copy_rows(url: str, file: Path) -> float:
    """Copies the rows of a file into the table with one COPY, and gives the seconds it took."""
    connection = await asyncpg.connect(url)
    try:
        started = time.perf_counter()
        await connection.copy_records_to_table(_TABLE, schema_name=SCHEMA, columns=_COLUMNS, records=_records(file))
        return time.perf_counter() - started
    finally:
        await connection.close()


async def _records(file: Path) -> AsyncIterator[tuple[Any, ...]]:
    """Gives the rows of a file, a thousand of them in memory: a microsecond each."""
    with file.open("rb") as opened:
        while True:
            try:
                rows = pickle.load(opened)  # noqa: S301  # our own file, written a moment ago
            except EOFError:
                return
            for key, *values in rows:
                yield (UUID(key), *values)
