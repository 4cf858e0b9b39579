"""The queues next door as competitors, each as its own documents run it: PgQueuer and Procrastinate."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import procrastinate
from pgqueuer.db import AsyncpgDriver
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from benchmarks.measure import BenchmarkError

_ENTRY: Final = "nothing"
_ENQUEUED_AT_ONCE: Final = 5_000


class PgQueuer:
    """PgQueuer in its drain mode, on one connection of asyncpg's."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._driver = AsyncpgDriver(connection)
        self._queries = Queries(self._driver)

    async def fill(self, number: int) -> None:
        """Queues so many jobs."""
        for _ in range(0, number, _ENQUEUED_AT_ONCE):
            each = min(number, _ENQUEUED_AT_ONCE)
            await self._queries.enqueue([_ENTRY] * each, [b"{}"] * each, [0] * each)

    async def drain(self, number: int, *, batch: int) -> float:
        """Does all jobs; gives jobs a second."""
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
    """Installs PgQueuer's tables beside ours."""
    connection = await asyncpg.connect(url)
    try:
        competitor = PgQueuer(connection)
        await competitor._queries.install()  # noqa: SLF001
        yield competitor
    finally:
        await connection.close()


class Procrastinate:
    """Procrastinate's worker on psycopg's pool; it is given some seconds, for its whole backlog would take minutes."""

    def __init__(self, app: procrastinate.App) -> None:
        self._app = app
        self._done = 0

        async def nothing() -> None:
            self._done += 1

        self._task = app.task(name=_ENTRY)(nothing)

    async def fill(self, number: int) -> None:
        """Queues so many jobs."""
        for _ in range(0, number, _ENQUEUED_AT_ONCE):
            await self._task.batch_defer_async(*({} for _ in range(min(number, _ENQUEUED_AT_ONCE))))

    async def work(self, *, seconds: float, concurrency: int) -> float:
        """Does jobs for so long; gives jobs a second."""
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
        done, took = self._done - before, time.perf_counter() - started
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return done / took


@asynccontextmanager
async def procrastination(url: str) -> AsyncIterator[Procrastinate]:
    """Installs Procrastinate's tables beside ours."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        yield Procrastinate(app)
