"""Sessions beside a migration: some hold a lock, and one watches who waits for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg

SECONDS_MAX = 20

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@asynccontextmanager
async def session(url: str) -> AsyncIterator[Session]:
    """A session of somebody else's; what it holds ends with it."""
    connection = await asyncpg.connect(url, timeout=10, command_timeout=SECONDS_MAX)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Polls a condition, and fails the test where it has not come true in time."""
    async with asyncio.timeout(SECONDS_MAX):
        while not await condition():  # what the server does sets no event of ours
            await asyncio.sleep(0.01)


async def until_waiting(watcher: Session) -> None:
    """Returns when a session of the watcher's database waits for a lock."""
    await until(lambda: _waits(watcher, expected=True))


async def until_refused_a_lock(watcher: Session) -> None:
    """Returns when nobody of the watcher's database waits for a lock any more: the wait has timed out."""
    await until(lambda: _waits(watcher, expected=False))


async def _waits(watcher: Session, *, expected: bool) -> bool:
    found: bool = await watcher.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    return found == expected
