"""Processes that work until they are killed, and the histories they leave."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from graphjobs.settings import Settings

_CLIENT = Path(__file__).with_name("worker_client.py")


async def client(settings: Settings, how: str) -> asyncio.subprocess.Process:
    """Starts `worker_client.py`."""
    assert settings.database_url is not None
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(_CLIENT),
        settings.database_url.get_secret_value(),
        how,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def clients(settings: Settings, how: str, number: int) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Processes of ours, all of which are gone at the end."""
    processes = [await client(settings, how) for _ in range(number)]
    try:
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


def require_legal(told: list[str], *, first: str) -> None:
    """Each move begins where the one before ended: nothing is missing, and nothing is there twice."""
    now = first
    assert now == told[0]
    for move in told[1:]:
        source, target = move.split(">")
        assert now == source
        now = target
