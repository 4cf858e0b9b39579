"""A plain COPY as the baseline of the backfill: prepared rows of a file, sent as one statement."""

import pickle
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from asyncpg.pgproto.pgproto import UUID

from benchmarks.seeding import connected
from graphjobs.database.schema import SCHEMA
from graphjobs.graph_jobs.tables import GraphJobRow

_TABLE: Final = GraphJobRow.__tablename__
_COLUMNS: Final = ("id", "tenant_id", "type", "status", "payload", "created_at", "updated_at", "correlation_id")
_ROWS: Final = f"SELECT {', '.join(_COLUMNS)} FROM {SCHEMA}.{_TABLE}"
_ROWS_PER_FETCH: Final = 1_000


async def write_rows(url: str, file: Path) -> int:
    """Write the rows of the table to a file in physical order, and return their number."""
    number = 0
    with file.open("wb") as output:
        async with connected(url) as connection, connection.transaction():
            cursor = await connection.cursor(_ROWS)
            while rows := await cursor.fetch(_ROWS_PER_FETCH):
                number += len(rows)
                # UUIDs as bytes: unpickling Python's UUID takes longer than everything else.
                pickle.dump([(row[0].bytes, *row[1:]) for row in rows], output, pickle.HIGHEST_PROTOCOL)
    return number


async def copy_rows(url: str, file: Path) -> float:
    """Copy the rows of a file into the table with one COPY, and return the seconds."""
    async with connected(url) as connection:
        started = time.perf_counter()
        await connection.copy_records_to_table(_TABLE, schema_name=SCHEMA, columns=_COLUMNS, records=_records(file))
        return time.perf_counter() - started


async def _records(file: Path) -> AsyncIterator[tuple[Any, ...]]:
    """Yield the rows of a file, a microsecond each, with a thousand in memory."""
    with file.open("rb") as source:
        while True:
            try:
                rows = pickle.load(source)  # noqa: S301  # a file of this benchmark
            except EOFError:
                return
            for key, *values in rows:
                yield (UUID(key), *values)
