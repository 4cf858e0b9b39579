"""What the fault tests watch: the server's own view of our connections, and the pools' view of theirs.

Nothing here sleeps to win a race: it asks the server until what is waited for is so, and fails at a deadline.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from graphjobs.database.engine import connect
from graphjobs.settings import Settings
from graphjobs.storage import Storage

DEADLINE_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.005

_OURS: Final = (
    "FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    " AND application_name = 'graphjobs'"
)
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Watch:
    """Two connections of the test's own: one sees and ends what graphjobs has on the same database, one holds locks.

    They are two because a transaction sees pg_stat_activity as it was when it first looked.
    """

    def __init__(self, connection: Connection, holder: Connection) -> None:
        self.connection = connection
        self._holder = holder

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str, seconds: float) -> None:
        """Asks until it is so.

        Raises:
            AssertionError: it was not, within those seconds.
        """
        deadline = time.monotonic() + seconds
        while not await condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; the server has {await self.busy()}"
            await asyncio.sleep(_POLL_SECONDS)

    async def busy(self) -> list[str]:
        """Says what our backends do that are not idle: state, what is waited for, statement."""
        rows = await self.connection.fetch(
            f"SELECT concat_ws(' | ', state, wait_event_type, wait_event, left(query, 60)) {_OURS} AND state <> 'idle'"
        )
        return [row[0] for row in rows]

    async def count(self) -> int:
        """Counts our backends."""
        counted: int = await self.connection.fetchval(f"SELECT count(*) {_OURS}")
        return counted

    async def until_count(self, count: int) -> None:
        """Waits until we have so many backends."""

        async def is_count() -> bool:
            return await self.count() == count

        await self.until(is_count, f"{count} backends", DEADLINE_SECONDS)

    async def until_waiting(self, count: int = 1) -> list[int]:
        """Waits until so many of our backends wait for a lock; gives their process ids."""
        pids: list[int] = []

        async def are_waiting() -> bool:
            rows = await self.connection.fetch(f"SELECT pid {_OURS} AND wait_event_type = 'Lock'")
            pids[:] = [row[0] for row in rows]
            return len(pids) >= count

        await self.until(are_waiting, f"{count} waiting for a lock", DEADLINE_SECONDS)
        return pids

    async def until_settled(self, seconds: float = DEADLINE_SECONDS) -> None:
        """Waits until no backend of ours runs a statement or holds a transaction open."""

        async def is_settled() -> bool:
            return not await self.busy()

        await self.until(is_settled, "no busy backend", seconds)

    async def until_gone(self, pids: list[int] | None = None, *, seconds: float = DEADLINE_SECONDS) -> None:
        """Waits until these backends, or all of ours, have ended."""

        async def are_gone() -> bool:
            chosen = "true" if pids is None else "pid = ANY($1::int[])"
            given = () if pids is None else (pids,)
            count: int = await self.connection.fetchval(f"SELECT count(*) {_OURS} AND {chosen}", *given)
            return count == 0

        await self.until(are_gone, f"backends {pids} gone", seconds)

    async def end(self, pids: list[int] | None = None) -> int:
        """Ends these backends of ours, or all of them; waits for their end and gives their number."""
        if pids is None:
            pids = [row[0] for row in await self.connection.fetch(f"SELECT pid {_OURS}")]
        for pid in pids:
            await self.connection.execute("SELECT pg_terminate_backend($1)", pid)
        await self.until_gone(pids)
        return len(pids)

    @asynccontextmanager
    async def holding(self, *job_ids: UUID, table: str = "graph_jobs") -> AsyncIterator[None]:
        """Holds the row locks of these jobs, or of rows of another table, for the length of a with."""
        async with self._holder.transaction():
            await self._holder.execute(
                f"SELECT 1 FROM scheduler.{table} WHERE id = ANY($1) ORDER BY id FOR UPDATE", list(job_ids)
            )
            yield

    @asynccontextmanager
    async def holding_table(self) -> AsyncIterator[None]:
        """Holds the whole table of jobs so that not even a read passes, for the length of a with."""
        async with self._holder.transaction():
            await self._holder.execute("LOCK TABLE scheduler.graph_jobs IN ACCESS EXCLUSIVE MODE")
            yield


@asynccontextmanager
async def watching(settings: Settings) -> AsyncIterator[Watch]:
    """Opens a watch on the database of these settings."""
    url, named = url_of(settings), {"application_name": "watch"}
    connection = await connect(url, settings, server_settings=named, command_timeout=30)
    holder = await connect(url, settings, server_settings=named, command_timeout=30)
    try:
        yield Watch(connection, holder)
    finally:
        await holder.close(timeout=5)
        await connection.close(timeout=5)


def url_of(settings: Settings) -> str:
    """Gives the URL, which is no secret to its own tests."""
    assert settings.database_url is not None
    return settings.database_url.get_secret_value()


def with_settings(settings: Settings, **changes: Any) -> Settings:
    """Gives the same settings with some changed; waits in seconds."""
    waits = {name: timedelta(seconds=value) if name.endswith("timeout") else value for name, value in changes.items()}
    return Settings.load(**{"database_url": url_of(settings), **waits})


def engines(storage: Storage) -> tuple[AsyncEngine, AsyncEngine]:
    """Gives both engines: of single statements, and of sessions."""
    of_sessions: AsyncEngine = storage._sessions.kw["bind"]
    return storage.database._engine, of_sessions


def checked_out(storage: Storage) -> tuple[int, int]:
    """Counts the connections that the pools have given out and not got back."""
    alone, of_sessions = (engine.sync_engine.pool for engine in engines(storage))
    return alone.checkedout(), of_sessions.checkedout()  # type: ignore[attr-defined]


async def warmed(storage: Storage) -> list[Connection]:
    """Opens every connection that both pools can hold, gives them back, and says which they are."""
    drivers: list[Any] = []
    for engine in engines(storage):
        size = engine.sync_engine.pool.size()  # type: ignore[attr-defined]
        taken = [await engine.raw_connection() for _ in range(size)]
        drivers += [pooled.driver_connection for pooled in taken]
        for pooled in taken:
            pooled.close()
    return drivers
