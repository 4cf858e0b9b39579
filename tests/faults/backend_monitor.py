"""Monitor the backends of graphjobs at the server, and the connections of the pools.

No test sleeps to win a race: the monitor polls the server until a condition holds, and fails at a deadline.
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
    """Two connections of the test: one reads and ends the backends of graphjobs on the database, one holds locks.

    One connection is not enough, because a transaction reads pg_stat_activity only once.
    """

    def __init__(self, connection: Connection, holder: Connection) -> None:
        self.connection = connection
        self._holder = holder

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str, seconds: float) -> None:
        """Poll until a condition holds.

        Raises:
            AssertionError: the condition did not hold within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not await condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; the server has {await self.busy()}"
            await asyncio.sleep(_POLL_SECONDS)

    async def busy(self) -> list[str]:
        """List the backends of graphjobs that are not idle: state, wait event, statement."""
        rows = await self.connection.fetch(
            f"SELECT concat_ws(' | ', state, wait_event_type, wait_event, left(query, 60)) {_OURS} AND state <> 'idle'"
        )
        return [row[0] for row in rows]

    async def count(self) -> int:
        """Count the backends of graphjobs."""
        count: int = await self.connection.fetchval(f"SELECT count(*) {_OURS}")
        return count

    async def until_count(self, count: int) -> None:
        """Wait until graphjobs has `count` backends."""

        async def is_count() -> bool:
            return await self.count() == count

        await self.until(is_count, f"{count} backends", DEADLINE_SECONDS)

    async def until_waiting(self, count: int = 1) -> list[int]:
        """Wait until `count` backends of graphjobs wait for a lock; return their process ids."""
        pids: list[int] = []

        async def are_waiting() -> bool:
            rows = await self.connection.fetch(f"SELECT pid {_OURS} AND wait_event_type = 'Lock'")
            pids[:] = [row[0] for row in rows]
            return len(pids) >= count

        await self.until(are_waiting, f"{count} waiting for a lock", DEADLINE_SECONDS)
        return pids

    async def until_settled(self, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until no backend of graphjobs runs a statement or holds a transaction open."""

        async def is_settled() -> bool:
            return not await self.busy()

        await self.until(is_settled, "no busy backend", seconds)

    async def until_gone(self, pids: list[int] | None = None, *, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until these backends, or all of graphjobs, have ended."""

        async def are_gone() -> bool:
            condition = "true" if pids is None else "pid = ANY($1::int[])"
            binds = () if pids is None else (pids,)
            count: int = await self.connection.fetchval(f"SELECT count(*) {_OURS} AND {condition}", *binds)
            return count == 0

        await self.until(are_gone, f"backends {pids} gone", seconds)

    async def end(self, pids: list[int] | None = None) -> int:
        """End these backends, or all of graphjobs; wait until they have ended and return their number."""
        if pids is None:
            pids = [row[0] for row in await self.connection.fetch(f"SELECT pid {_OURS}")]
        for pid in pids:
            await self.connection.execute("SELECT pg_terminate_backend($1)", pid)
        await self.until_gone(pids)
        return len(pids)

    @asynccontextmanager
    async def ending_some(self, condition: str, every: float) -> AsyncIterator[None]:
        """End a random backend that meets an SQL condition, again and again; wait at the end until none is busy."""

        async def end_one_after_another() -> None:
            while True:
                await asyncio.sleep(every)
                await self.connection.execute(
                    f"SELECT pg_terminate_backend(pid) {_OURS} AND {condition} ORDER BY random() LIMIT 1"
                )

        ending = asyncio.create_task(end_one_after_another())
        try:
            yield
        finally:
            ending.cancel()
            await asyncio.wait([ending])
        await self.until_settled()

    @asynccontextmanager
    async def holding(self, *job_ids: UUID, table: str = "graph_jobs") -> AsyncIterator[None]:
        """Hold the row locks of these jobs, or of rows of another table."""
        async with self._holder.transaction():
            await self._holder.execute(
                f"SELECT 1 FROM scheduler.{table} WHERE id = ANY($1) ORDER BY id FOR UPDATE", list(job_ids)
            )
            yield

    @asynccontextmanager
    async def holding_table(self) -> AsyncIterator[None]:
        """Hold an exclusive lock of the table of jobs, which also blocks reads."""
        async with self._holder.transaction():
            await self._holder.execute("LOCK TABLE scheduler.graph_jobs IN ACCESS EXCLUSIVE MODE")
            yield


@asynccontextmanager
async def watching(settings: Settings) -> AsyncIterator[Watch]:
    """Open a monitor of the database of these settings."""
    url, name = url_of(settings), {"application_name": "watch"}
    connection = await connect(url, settings, server_settings=name, command_timeout=30)
    holder = await connect(url, settings, server_settings=name, command_timeout=30)
    try:
        yield Watch(connection, holder)
    finally:
        await holder.close(timeout=5)
        await connection.close(timeout=5)


def url_of(settings: Settings) -> str:
    """Return the URL, which is a secret only outside of tests."""
    assert settings.database_url is not None
    return settings.database_url.get_secret_value()


def with_settings(settings: Settings, **changes: Any) -> Settings:
    """Return a copy of the settings with changes; time-outs in seconds."""
    waits = {name: timedelta(seconds=value) if name.endswith("timeout") else value for name, value in changes.items()}
    return Settings.load(**{"database_url": url_of(settings), **waits})


def engines(storage: Storage) -> tuple[AsyncEngine, AsyncEngine]:
    """Return both engines: the autocommit engine and the transactional engine."""
    transactional: AsyncEngine = storage._sessions.kw["bind"]
    return storage.database._engine, transactional


def checked_out(storage: Storage) -> tuple[int, int]:
    """Count the connections that are checked out of each pool."""
    autocommit, transactional = (engine.sync_engine.pool for engine in engines(storage))
    return autocommit.checkedout(), transactional.checkedout()  # type: ignore[attr-defined]


async def warmed(storage: Storage) -> list[Connection]:
    """Open every connection that both pools can hold, return them to the pools, and list them."""
    drivers: list[Any] = []
    for engine in engines(storage):
        size = engine.sync_engine.pool.size()  # type: ignore[attr-defined]
        checked_out_now = [await engine.raw_connection() for _ in range(size)]
        drivers += [pooled.driver_connection for pooled in checked_out_now]
        for pooled in checked_out_now:
            pooled.close()
    return drivers
