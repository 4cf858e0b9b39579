"""The measured server: a temporary one with the durability of a real one, or a configured one."""

import asyncio
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

from benchmarks.seeding import connected
from graphjobs.database.embedded.server import throwaway_cluster
from graphjobs.database.url import with_database

VARIABLE: Final = "GRAPHJOBS_BENCH_DATABASE_URL"

# A temporary cluster does not sync to disk, and commits without cost would favor competitors with many commits.
_DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_SETTINGS: Final = ("server_version", *_DURABLE, "shared_buffers")
_LIBRARIES: Final = ("asyncpg", "sqlalchemy", "pydantic")


@contextmanager
def server() -> Iterator[str]:
    """Yield the URL in GRAPHJOBS_BENCH_DATABASE_URL, or that of a temporary server."""
    configured = os.environ.get(VARIABLE)
    if configured:
        yield configured
        return
    with throwaway_cluster(options=_DURABLE) as cluster:
        yield cluster.url()


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    """Yield the URL of a new, empty database, which is dropped at the end; change nothing else on the server.

    Args:
        server_url: a URL with a role that may create databases.
    """
    name = f"graphjobs_bench_{secrets.token_hex(6)}"
    asyncio.run(_execute(server_url, f"CREATE DATABASE {name}"))
    try:
        yield with_database(server_url, name)
    finally:
        asyncio.run(_execute(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    async with connected(url) as connection:
        await connection.execute(statement)


async def conditions(url: str) -> dict[str, str]:
    """Return the conditions of the measurement, as the server reports them."""
    async with connected(url) as connection:
        settings = {name: str(await connection.fetchval("SELECT current_setting($1)", name)) for name in _SETTINGS}
    origin = f"from {VARIABLE}" if os.environ.get(VARIABLE) else "temporary, on a Unix socket"
    return {
        "server": f"PostgreSQL {settings.pop('server_version')}, {origin}",
        "durability": ", ".join(f"{name}={value}" for name, value in settings.items()),
        "python": f"{platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, load {os.getloadavg()[0]:.1f} at the start",
    }
