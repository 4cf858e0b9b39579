"""Engines and connections: the only room that connects to PostgreSQL, with the time-outs every connection carries."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
from sqlalchemy import Connection, event, exc, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util.concurrency import in_greenlet

from graphjobs.database.error_translation import translate_error
from graphjobs.errors import ConfigurationError, DatabaseUnavailable, GraphJobsError
from graphjobs.settings import Settings

COMMAND_TIMEOUT_MARGIN: Final = timedelta(seconds=5)
"""How much longer than the server we wait ourselves: for a network that swallows the server's own time-out."""

_SET_PER_TRANSACTION: Final = ("lock_timeout", "statement_timeout", "TimeZone")
_GONE_CLIENT_CHECK_SECONDS: Final = 5
_IDLE_IN_TRANSACTION: Final = timedelta(minutes=5)


def milliseconds(wait: timedelta) -> int:
    """Gives a wait as PostgreSQL's settings take it, in whole milliseconds and never 0, which would be for ever."""
    return max(1, round(wait / timedelta(milliseconds=1)))


def server_settings(settings: Settings) -> dict[str, str]:
    """What every connection sets at its start; the server itself then ends what takes too long."""
    return {
        "application_name": "graphjobs",
        "client_connection_check_interval": f"{_GONE_CLIENT_CHECK_SECONDS}s",
        # A lost swap is an answer; under REPEATABLE READ it would be an error.
        "default_transaction_isolation": "read committed",
        "idle_in_transaction_session_timeout": str(milliseconds(_IDLE_IN_TRANSACTION)),
        "jit": "off",
        "lock_timeout": str(milliseconds(settings.lock_timeout)),
        "statement_timeout": str(milliseconds(settings.statement_timeout)),
        "TimeZone": "UTC",
    }


async def resolve_url(settings: Settings) -> str:
    """Gives the URL to connect to: the one that is set, or the embedded server's, which is started if need be.

    Raises:
        ConfigurationError: no URL is set, and the extra `embedded` is not installed.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    from graphjobs.database.embedded import server  # locks files as Unix does; elsewhere a URL needs none of it

    return await asyncio.to_thread(server.ensure_running, settings.data_dir)


class _GracefulConnection(asyncpg.Connection):
    """The driver's connection, which lets a close that is under way come to its end.

    A close first asks the server to end what runs. SQLAlchemy, cancelled a second time while it waits for that, drops
    the connection at once; the statement would go on at the server, and hold its locks.
    """

    _closing = False

    async def close(self, *, timeout: float | None = None) -> None:
        self._closing = True
        try:
            await super().close(timeout=timeout)
        finally:
            self._closing = False

    def terminate(self) -> None:
        if not self._closing:
            super().terminate()


async def connect(url: str, settings: Settings, **overrides: Any) -> "asyncpg.Connection[asyncpg.Record]":
    """Opens one connection of the driver's, with every time-out set.

    Args:
        url: `postgresql://`, as libpq takes it; the driver itself reads it, so its whole query works.
        settings: the time-outs, and whether a pooler in transaction mode is in between.
        overrides: arguments of `asyncpg.connect` that win.

    Raises:
        DatabaseUnavailable: nobody answers there, or not now.
        ConfigurationError: the URL, the user, the password or the database is wrong.
    """
    pooled = settings.pooler == "transaction"
    arguments: dict[str, Any] = {
        "timeout": settings.connect_timeout.total_seconds(),
        "command_timeout": (settings.statement_timeout + COMMAND_TIMEOUT_MARGIN).total_seconds(),
        # A pooler in transaction mode refuses unknown settings, and shares its connections' prepared statements.
        "server_settings": {} if pooled else server_settings(settings),
        "statement_cache_size": 0 if pooled else 100,
        "connection_class": _GracefulConnection,
    }
    try:
        return await asyncpg.connect(url, **{**arguments, **overrides})
    except Exception as error:  # whatever it is, it is translated or raised again
        failure = _connect_failure(error, url)
        if failure is None:
            raise
    raise failure


def _connect_failure(error: Exception, url: str) -> GraphJobsError | None:
    match error:
        case OSError() | TimeoutError() | asyncpg.PostgresConnectionError():
            return DatabaseUnavailable(f"no PostgreSQL answers at {safe_location(url)}: start it, or check the URL")
        case asyncpg.InterfaceError() | ValueError() | OverflowError():
            return ConfigurationError("GRAPHJOBS_DATABASE_URL cannot be used: it is no URL that libpq would take")
    return translate_error(error, ambiguous=False)


def safe_location(url: str) -> str:
    """Says where a URL points to, for people: host, port and database, never the user or the password."""
    try:
        parts = urlsplit(url)
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":
            # A password that holds a slash, and was not escaped, has ended the host too early.
            return "the configured address"
        host = parts.netloc.rpartition("@")[2] or "a local socket"
        return f"{host}{parts.path}"
    except ValueError:
        return "the configured address"


def _engine(url: str, settings: Settings, **arguments: Any) -> AsyncEngine:
    def creator(*_args: Any, **_kwargs: Any) -> "Coroutine[Any, Any, asyncpg.Connection[asyncpg.Record]]":
        if not in_greenlet():  # the executor asked for an idle connection, and this one has to be opened anew
            raise exc.MissingGreenlet("a connection is opened within a greenlet")
        return connect(url, settings)

    # The URL goes to the driver as it is; SQLAlchemy's own would lose what libpq knows, and shows in its repr.
    return create_async_engine("postgresql+asyncpg://", async_creator=creator, hide_parameters=True, **arguments)


def _pooled_engine(url: str, settings: Settings, **arguments: Any) -> AsyncEngine:
    engine = _engine(
        url,
        settings,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.connect_timeout.total_seconds(),
        # Few callers stay with few server processes, whose caches are warm, instead of going round all of them.
        pool_use_lifo=True,
        **arguments,
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _refuse_closed(dbapi_connection: Any, _record: object, _proxy: object) -> None:
    """Lets the pool replace a connection whose server went away; unlike a ping it costs no round trip."""
    if dbapi_connection.driver_connection.is_closed():
        raise exc.DisconnectionError


def autocommit_engine(url: str, settings: Settings) -> AsyncEngine:
    """The engine for single statements, each its own transaction. Private: `rollback()` on it silently does nothing."""
    if settings.pooler == "transaction":
        return _engine_behind_pooler(url, settings)
    # Nothing to reset on release: this engine never begins, and so never leaves a transaction open.
    return _pooled_engine(url, settings, isolation_level="AUTOCOMMIT", pool_reset_on_return=None)


def transactional_engine(url: str, settings: Settings) -> AsyncEngine:
    """The engine for the sessions handed to callers."""
    if settings.pooler == "transaction":
        return _engine_behind_pooler(url, settings)
    return _pooled_engine(url, settings)


def _engine_behind_pooler(url: str, settings: Settings) -> AsyncEngine:
    """An engine that pools nothing itself, prepares under names nobody shares, and sets its time-outs as it begins."""
    engine = _engine(
        url,
        settings,
        poolclass=NullPool,
        connect_args={
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"graphjobs_{uuid4().hex}",
        },
    )
    limits = {name: value for name, value in server_settings(settings).items() if name in _SET_PER_TRANSACTION}
    statement = select(*(func.set_config(literal_column(f"'{name}'"), value, True) for name, value in limits.items()))

    def set_limits(connection: Connection) -> None:
        connection.execute(statement)

    event.listen(engine.sync_engine, "begin", set_limits)
    return engine
