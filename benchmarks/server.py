"""The server that is measured: a throw-away one that is as durable as a real one, or the one that is named."""

import asyncio
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from graphjobs.database.embedded.server import throwaway_cluster

VARIABLE: Final = "GRAPHJOBS_BENCH_DATABASE_URL"

# A throw-away does not sync to disk; commits that cost nothing would flatter whoever commits most.
_DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_ASKED: Final = ("server_version", *_DURABLE, "shared_buffers")
_LIBRARIES: Final = ("asyncpg", "sqlalchemy", "pydantic")


@contextmanager
def server() -> Iterator[str]:
    """The URL of the server that GRAPHJOBS_BENCH_DATABASE_URL names, else of one that is removed at the end."""
    given = os.environ.get(VARIABLE)
    if given:
        yield given
        return
    with throwaway_cluster(options=_DURABLE) as cluster:
        yield cluster.url()


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    """The URL of a new, empty database, dropped at the end; nothing else on the server is touched.

    Args:
        server_url: of a role that may create databases.
    """
    name = f"graphjobs_bench_{secrets.token_hex(6)}"
    asyncio.run(_execute(server_url, f"CREATE DATABASE {name}"))
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        asyncio.run(_execute(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def conditions(url: str) -> dict[str, str]:
    """Tells what the figures were taken on, as the server itself says it."""
    connection = await asyncpg.connect(url)
    try:
        asked = {name: str(await connection.fetchval("SELECT current_setting($1)", name)) for name in _ASKED}
    finally:
        await connection.close()
    where = f"as named by {VARIABLE}" if os.environ.get(VARIABLE) else "a throw-away of its own, on a Unix socket"
    return {
        "server": f"PostgreSQL {asked.pop('server_version')}, {where}",
        "durability": ", ".join(f"{name}={value}" for name, value in asked.items()),
        "python": f"{platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, load {os.getloadavg()[0]:.1f} at the start",
    }
