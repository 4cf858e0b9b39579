"""Storages behind a proxy, and their calls with a lost answer or a lost connection."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from graphjobs import DatabaseUnavailable, open_storage
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.faults.backend_monitor import DEADLINE_SECONDS, Watch, checked_out, url_of, with_settings
from tests.faults.faulty_proxy import Fault, FaultProxy, Wire


@asynccontextmanager
async def open_wire(settings: Settings, folder: Path) -> AsyncIterator[Wire]:
    """Open an intact wire to the database of these settings."""
    wire = Wire(url_of(settings), folder)
    async with wire.running():
        yield wire


@asynccontextmanager
async def open_wired(proxy: FaultProxy, settings: Settings, **changes: Any) -> AsyncIterator[Storage]:
    """Open a storage behind the proxy; assert at the end that it has returned its connections to the pools."""
    wired = {"pool_size": 1, "statement_timeout": 20.0, "lock_timeout": 20.0, "connect_timeout": 2.0, **changes}
    async with open_storage(with_settings(settings, database_url=proxy.url, **wired)) as storage:
        yield storage
        assert (0, 0) == checked_out(storage)


@contextmanager
def injected(wire: Wire, fault: Fault = Fault.DROP_REPLY) -> Iterator[None]:
    """Inject a fault, and assert that one statement met it."""
    wire.fault = fault
    yield
    assert 1 == wire.hit


@contextmanager
def changes_nothing(wire: Wire, fault: Fault = Fault.DROP_REPLY) -> Iterator[None]:
    """Inject a fault, and assert that the call raises an error that says that nothing was changed."""
    with injected(wire, fault), pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        yield


async def cut_while_it_waits(call: Coroutine[Any, Any, Any], wire: Wire, watch: Watch) -> "asyncio.Task[Any]":
    """Start a call that waits for a lock, and cut its connection; return when a statement looks for its result."""
    task = asyncio.create_task(call)
    await watch.until_waiting()
    await _cut_until_looked_up(wire, watch)
    assert not task.done()
    return task


async def _cut_until_looked_up(wire: Wire, watch: Watch) -> None:
    since = await watch.connection.fetchval("SELECT clock_timestamp()")
    wire.cut()

    async def is_looked_up() -> bool:
        count: int = await watch.connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query_start > $1"
            " AND application_name = 'graphjobs' AND query NOT LIKE '%INSERT%'"
            " AND (query LIKE '%transitionId%' OR query LIKE '%policy_runs.run_id = %')",
            since,
        )
        return count > 0

    await watch.until(is_looked_up, "a search for the interrupted call", DEADLINE_SECONDS)
