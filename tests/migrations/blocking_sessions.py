"""Sessions beside a migration: some hold a lock, and one watches for sessions that wait."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg

SECONDS_MAX = 20

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@asynccontextmanager
async def session(url: str) -> AsyncIterator[Session]:
    """Open a session that is not part of the migration; its locks end with it."""
    connection = await asyncpg.connect(url, timeout=10, command_timeout=SECONDS_MAX)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll a condition, and fail the test if it does not hold in time."""
    async with asyncio.timeout(SECONDS_MAX):
        while not await condition():  # the server sets no asyncio event
            await asyncio.sleep(0.01)


async def until_waiting(watcher: Session) -> None:
    """Return when a session of the watcher's database waits for a lock."""
    await until(lambda: _waits(watcher, expected=True))


async def until_refused_a_lock(watcher: Session) -> None:
    """Return when no session of the watcher's database waits for a lock: the wait has timed out."""
    await until(lambda: _waits(watcher, expected=False))


async def _waits(watcher: Session, *, expected: bool) -> bool:
    is_waiting: bool = await watcher.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    return is_waiting == expected
