"""Storages behind a wire, with one connection, for tests of lost answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from graphjobs import open_storage
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.faults.backend_monitor import DEADLINE_SECONDS, Watch, checked_out, url_of, with_settings
from tests.faults.faulty_proxy import Wire


@asynccontextmanager
async def open_wire(settings: Settings, folder: Path) -> AsyncIterator[Wire]:
    """Open an intact wire to the database of these settings."""
    wire = Wire(url_of(settings), folder)
    async with wire.running():
        yield wire


@asynccontextmanager
async def open_wired(wire: Wire, settings: Settings, *, statement_timeout: float = 20.0) -> AsyncIterator[Storage]:
    """Open a storage behind the wire; assert at the end that it has returned its connections to the pools."""
    wired = with_settings(
        settings,
        database_url=wire.url,
        pool_size=1,
        statement_timeout=statement_timeout,
        lock_timeout=20.0,
        connect_timeout=2.0,
    )
    async with open_storage(wired) as storage:
        yield storage
        assert (0, 0) == checked_out(storage)


async def cut_until_looked_up(wire: Wire, watch: Watch) -> None:
    """Cut the connections, and wait until a statement looks for the result of the interrupted call."""
    since = await watch.connection.fetchval("SELECT clock_timestamp()")
    wire.cut()

    async def is_looked_up() -> bool:
        count: int = await watch.connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query_start > $1"
            " AND application_name = 'graphjobs' AND query LIKE 'WITH server AS%'",
            since,
        )
        return count > 0

    await watch.until(is_looked_up, "a search for the interrupted call", DEADLINE_SECONDS)
