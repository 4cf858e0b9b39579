"""The processes of the benchmarks: they end with the run, however it ends."""

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


def interrupt_on_sigterm() -> None:
    """Treat SIGTERM as SIGINT: what runs is cancelled, and all that was started is ended."""
    # A shell starts background processes with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@asynccontextmanager
async def started(*arguments: str, **options: Any) -> AsyncIterator[Process]:
    """Start Python with these arguments, and terminate it at the end."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, **options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
