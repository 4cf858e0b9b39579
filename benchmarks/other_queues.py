"""PgQueuer and Procrastinate as competitors, each run as its documentation does."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import procrastinate
from pgqueuer.db import AsyncpgDriver
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from benchmarks.measure import BenchmarkError
from benchmarks.seeding import Connection, connected

_ENTRY: Final = "nothing"
_ENQUEUED_AT_ONCE: Final = 5_000


class PgQueuer:
    """PgQueuer in its drain mode, on one connection of asyncpg."""

    def __init__(self, connection: Connection) -> None:
        self._driver = AsyncpgDriver(connection)
        self._queries = Queries(self._driver)

    async def fill(self, number: int) -> None:
        """Queue `number` jobs."""
        for _ in range(0, number, _ENQUEUED_AT_ONCE):
            size = min(number, _ENQUEUED_AT_ONCE)
            await self._queries.enqueue([_ENTRY] * size, [b"{}"] * size, [0] * size)

    async def drain(self, number: int, *, batch: int) -> float:
        """Run all jobs; return jobs per second."""
        manager, done = QueueManager(self._queries), 0

        async def nothing(_job: object) -> None:
            nonlocal done
            done += 1

        manager.entrypoint(_ENTRY)(nothing)
        started = time.perf_counter()
        await manager.run(batch_size=batch, mode=QueueExecutionMode.drain)
        seconds = time.perf_counter() - started
        if done != number:
            raise BenchmarkError(f"PgQueuer did {done} of {number} jobs")
        return done / seconds


@asynccontextmanager
async def pgqueuer(url: str) -> AsyncIterator[PgQueuer]:
    """Install the tables of PgQueuer beside those of graphjobs."""
    async with connected(url) as connection:
        competitor = PgQueuer(connection)
        await competitor._queries.install()  # noqa: SLF001
        yield competitor


class Procrastinate:
    """The worker of Procrastinate on psycopg's pool; it runs for some seconds, since its backlog would take minutes."""

    def __init__(self, app: procrastinate.App) -> None:
        self._app = app
        self._done = 0

        async def nothing() -> None:
            self._done += 1

        self._task = app.task(name=_ENTRY)(nothing)

    async def fill(self, number: int) -> None:
        """Queue `number` jobs."""
        for _ in range(0, number, _ENQUEUED_AT_ONCE):
            await self._task.batch_defer_async(*({} for _ in range(min(number, _ENQUEUED_AT_ONCE))))

    async def work(self, *, seconds: float, concurrency: int) -> float:
        """Run jobs for a time; return jobs per second."""
        before, started = self._done, time.perf_counter()
        working = asyncio.ensure_future(
            self._app.run_worker_async(
                concurrency=concurrency,
                install_signal_handlers=False,
                listen_notify=False,
                shutdown_graceful_timeout=10,
            )
        )
        await asyncio.sleep(seconds)
        done, elapsed = self._done - before, time.perf_counter() - started
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return done / elapsed


@asynccontextmanager
async def open_procrastinate(url: str) -> AsyncIterator[Procrastinate]:
    """Install the tables of Procrastinate beside those of graphjobs."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        yield Procrastinate(app)
