"""Engines and connections with their settings: time-outs, isolation level and search path on every one."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Connection, event, exc, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import in_greenlet

from graphjobs.database.connection import DriverConnection, open_connection
from graphjobs.database.pool import FairGate, GatedNullPool, GatedQueuePool, PoolHealth, guard
from graphjobs.database.url import ServerUrl, parse_url
from graphjobs.settings import Settings

COMMAND_TIMEOUT_MARGIN: Final = timedelta(seconds=5)
"""The client waits this much longer than the server, for a network that loses the server's time-out error."""

SEARCH_PATH: Final = "pg_catalog"
"""Otherwise a role that may create functions in a schema of the path could run code in the statements of this one."""

RESERVE_SIZE: Final = 2
"""The connections for heartbeats, ends and rescues while callers hold all others."""

_SET_PER_TRANSACTION: Final = ("lock_timeout", "statement_timeout", "TimeZone")
_CLIENT_CHECK_SECONDS: Final = 5
_IDLE_IN_TRANSACTION: Final = timedelta(minutes=5)


def milliseconds(wait: timedelta) -> int:
    """Convert a wait to whole milliseconds for a PostgreSQL setting; at least 1, since 0 would disable the limit."""
    return max(1, round(wait / timedelta(milliseconds=1)))


def server_settings(settings: Settings) -> dict[str, str]:
    """Return the settings of every connection. With them the server itself ends a statement that takes too long."""
    return {
        "application_name": "graphjobs",
        "client_connection_check_interval": f"{_CLIENT_CHECK_SECONDS}s",
        # A lost compare-and-swap returns no row; under REPEATABLE READ it would raise an error.
        "default_transaction_isolation": "read committed",
        "idle_in_transaction_session_timeout": str(milliseconds(_IDLE_IN_TRANSACTION)),
        "jit": "off",
        "lock_timeout": str(milliseconds(settings.lock_timeout)),
        "search_path": SEARCH_PATH,
        "statement_timeout": str(milliseconds(settings.statement_timeout)),
        "TimeZone": "UTC",
    }


def _quoted(value: str) -> str:
    """Write a setting as a literal of SQL. PostgreSQL reads its backslashes as they are."""
    return "'" + value.replace("'", "''") + "'"


async def resolve_url(settings: Settings) -> ServerUrl:
    """Parse the configured URL, or return the URL of the embedded server, which is started if it does not run.

    Raises:
        ConfigurationError: the URL is invalid, or none is set, and the extra `embedded` is not installed.
    """
    if settings.database_url is not None:
        return parse_url(settings.database_url)
    from graphjobs.database.embedded import server  # needs Unix file locks, which a system with a URL may not have

    return parse_url(await asyncio.to_thread(server.ensure_running, settings.data_dir))


async def connect(url: ServerUrl | str, settings: Settings, **overrides: Any) -> DriverConnection:
    """Open one connection of the driver, with all time-outs.

    Args:
        url: a libpq URL, `postgresql://`, parsed or not.
        settings: the time-outs, and whether the URL names a pooler in transaction mode.
        overrides: arguments of `asyncpg.connect` that take precedence.

    Raises:
        DatabaseUnavailable: no server answers, or it accepts no connections now.
        ConfigurationError: the URL, the user, the password or the database is wrong.
    """
    server = parse_url(url) if isinstance(url, str) else url
    pooled = settings.pooler == "transaction"
    arguments: dict[str, Any] = {
        "command_timeout": (settings.statement_timeout + COMMAND_TIMEOUT_MARGIN).total_seconds(),
        # A pooler in transaction mode refuses unknown settings, and its clients share prepared statements.
        "server_settings": {} if pooled else server_settings(settings),
        "statement_cache_size": 0 if pooled else 100,
        **overrides,
    }
    libpq = server.parameters
    name = libpq.get("application_name") or libpq.get("fallback_application_name")
    arguments["server_settings"] = {
        **({"options": libpq["options"]} if "options" in libpq else {}),
        **arguments["server_settings"],
        **({"application_name": name} if name else {}),
    }
    return await open_connection(server, settings.connect_timeout.total_seconds(), arguments)


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines of a storage.

    Attributes:
        autocommit: single statements. `rollback()` on it silently does nothing, so it stays private.
        reserve: as `autocommit`, for queues while callers hold all its connections.
        transactional: the sessions of callers.
    """

    autocommit: AsyncEngine
    reserve: AsyncEngine
    transactional: AsyncEngine

    async def dispose(self) -> None:
        """Close all pools."""
        for engine in (self.autocommit, self.reserve, self.transactional):
            await engine.dispose()


def create_engines(url: ServerUrl, settings: Settings) -> Engines:
    """Create the engines of a storage; they connect when they are used, and share what they learn of lost servers."""
    health = PoolHealth(settings.pool_recycle)
    session_path = ", ".join(filter(None, (SEARCH_PATH, settings.search_path)))

    def create(size: int, search_path: str, **arguments: Any) -> AsyncEngine:
        if settings.pooler == "transaction":
            engine = _engine_behind_pooler(url, settings, search_path)
        else:
            # LIFO keeps a few callers on a few backends with warm caches.
            engine = _engine(
                url,
                settings,
                search_path,
                poolclass=GatedQueuePool,
                pool_size=size,
                max_overflow=0,
                pool_use_lifo=True,
                **arguments,
            )
        guard(engine, FairGate(size, settings.connect_timeout), health)
        return engine

    # No reset on release: such an engine never begins a transaction.
    alone = {"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None}
    return Engines(
        autocommit=create(settings.pool_size, SEARCH_PATH, **alone),
        reserve=create(RESERVE_SIZE, SEARCH_PATH, **alone),
        transactional=create(settings.pool_size, session_path, isolation_level="READ COMMITTED"),
    )


def _engine(url: ServerUrl, settings: Settings, search_path: str, **arguments: Any) -> AsyncEngine:
    overrides: dict[str, Any] = {}
    if settings.pooler == "direct":
        overrides["server_settings"] = server_settings(settings) | {"search_path": search_path}

    def creator(*_args: Any, **_kwargs: Any) -> Coroutine[Any, Any, DriverConnection]:
        if not in_greenlet():  # the executor checks out an idle connection; this one was closed and must be reopened
            raise exc.MissingGreenlet("opening a connection needs a greenlet")
        return connect(url, settings, **overrides)

    # SQLAlchemy's URL loses libpq options, and its repr shows it.
    return create_async_engine("postgresql+asyncpg://", async_creator=creator, hide_parameters=True, **arguments)


def _engine_behind_pooler(url: ServerUrl, settings: Settings, search_path: str) -> AsyncEngine:
    """Create an engine without a pool, with unique names of prepared statements, and settings per transaction."""
    engine = _engine(
        url,
        settings,
        search_path,
        poolclass=GatedNullPool,
        # In BEGIN: after the first statement a transaction cannot change it.
        isolation_level="READ COMMITTED",
        connect_args={
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"graphjobs_{uuid4().hex}",
        },
    )
    values = {name: server_settings(settings)[name] for name in _SET_PER_TRANSACTION} | {"search_path": search_path}
    statement = select(
        *(
            func.pg_catalog.set_config(
                literal_column(f"'{name}'"), literal_column(_quoted(value)), literal_column("true")
            )
            for name, value in values.items()
        )
    )

    def pin_settings(connection: Connection) -> None:
        connection.execute(statement)

    event.listen(engine.sync_engine, "begin", pin_settings)
    return engine
