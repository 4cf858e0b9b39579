"""Workers that run beside a test: handlers that wait, the end of a worker, and conditions to wait for."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from graphjobs.worker import BuildResult, GraphJobWorker, PolicyRunDispatcher

Worker: TypeAlias = GraphJobWorker | PolicyRunDispatcher
Handler: TypeAlias = Callable[[Any, Any], Awaitable[BuildResult]]


async def return_result(_job: object, _context: object) -> BuildResult:
    """Return at once; a dispatcher ignores the result."""
    return BuildResult("graph")


async def wait_forever(_job: object, _context: object) -> BuildResult:
    """Wait until cancelled."""
    await asyncio.Event().wait()
    raise AssertionError


async def wait_until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait until a condition is true, and fail after a time limit."""
    deadline = time.monotonic() + seconds
    while True:
        is_true = condition()
        if is_true if isinstance(is_true, bool) else await is_true:
            return
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


def return_after(event: asyncio.Event) -> Handler:
    """Build a handler that returns after an event."""

    async def handler(job: object, context: object) -> BuildResult:
        await event.wait()
        return await return_result(job, context)

    return handler


@asynccontextmanager
async def working(worker: Worker, **stop: Any) -> AsyncIterator[None]:
    """Run a worker, and stop it at the end."""
    running = asyncio.ensure_future(worker.run())
    yield
    worker.stop(**stop)
    await asyncio.wait_for(running, 30)


async def run_until(worker: Worker, condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Run a worker until a condition is true, then stop it."""
    async with working(worker):
        await wait_until(condition)
