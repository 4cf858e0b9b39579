"""Engines and connections: the only module that connects to PostgreSQL, with time-outs on every connection."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
from sqlalchemy import Connection, event, exc, func, literal_column, select
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util.concurrency import in_greenlet

from graphjobs.database.error_translation import translate_error
from graphjobs.errors import ConfigurationError, DatabaseUnavailable, GraphJobsError
from graphjobs.settings import Settings

COMMAND_TIMEOUT_MARGIN: Final = timedelta(seconds=5)
"""The client waits this much longer than the server, for a network that loses the server's time-out error."""

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
        "statement_timeout": str(milliseconds(settings.statement_timeout)),
        "TimeZone": "UTC",
    }


async def resolve_url(settings: Settings) -> str:
    """Return the configured URL, or the URL of the embedded server, which is started if it does not run.

    Raises:
        ConfigurationError: no URL is set, and the extra `embedded` is not installed.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    from graphjobs.database.embedded import server  # needs Unix file locks, which a system with a URL may not have

    return await asyncio.to_thread(server.ensure_running, settings.data_dir)


class _GracefulConnection(asyncpg.Connection):
    """A connection of the driver that finishes a close in progress.

    A close first cancels the running statement at the server. SQLAlchemy, cancelled a second time while it waits for
    the close, terminates the connection; the statement would then continue at the server and hold its locks.
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
    """Open one connection of the driver, with all time-outs.

    Args:
        url: a libpq URL, `postgresql://`; the driver parses it, so its whole query works.
        settings: the time-outs, and whether the URL names a pooler in transaction mode.
        overrides: arguments of `asyncpg.connect` that take precedence.

    Raises:
        DatabaseUnavailable: no server answers, or it accepts no connections now.
        ConfigurationError: the URL, the user, the password or the database is wrong.
    """
    pooled = settings.pooler == "transaction"
    arguments: dict[str, Any] = {
        "timeout": settings.connect_timeout.total_seconds(),
        "command_timeout": (settings.statement_timeout + COMMAND_TIMEOUT_MARGIN).total_seconds(),
        # A pooler in transaction mode refuses unknown settings, and its clients share prepared statements.
        "server_settings": {} if pooled else server_settings(settings),
        "statement_cache_size": 0 if pooled else 100,
        "connection_class": _GracefulConnection,
    }
    try:
        return await asyncpg.connect(url, **{**arguments, **overrides})
    except Exception as error:  # translated or raised again
        failure = _connect_failure(error, url)
        if failure is None:
            raise
    raise failure


def _connect_failure(error: Exception, url: str) -> GraphJobsError | None:
    match error:
        case OSError() | TimeoutError() | asyncpg.PostgresConnectionError():
            return DatabaseUnavailable(f"no PostgreSQL answers at {safe_location(url)}: start it, or check the URL")
        case asyncpg.InterfaceError() | ValueError() | OverflowError():
            return ConfigurationError("GRAPHJOBS_DATABASE_URL is invalid: it must be a URL that libpq accepts")
    return translate_error(error, ambiguous=False)


def safe_location(url: str) -> str:
    """Return host, port and database of a URL for an error text, never the user or the password."""
    try:
        parts = urlsplit(url)
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":
            # A password with an unescaped slash: urlsplit ends the host there, and the rest holds the password.
            return "the configured address"
        host = parts.netloc.rpartition("@")[2] or "a local socket"
        return f"{host}{parts.path}"
    except ValueError:
        return "the configured address"


def _engine(url: str, settings: Settings, **arguments: Any) -> AsyncEngine:
    def creator(*_args: Any, **_kwargs: Any) -> "Coroutine[Any, Any, asyncpg.Connection[asyncpg.Record]]":
        if not in_greenlet():  # the executor checks out an idle connection; this one was closed and must be reopened
            raise exc.MissingGreenlet("opening a connection needs a greenlet")
        return connect(url, settings)

    # The URL goes to the driver unchanged: SQLAlchemy's URL loses libpq options, and its repr shows it.
    return create_async_engine("postgresql+asyncpg://", async_creator=creator, hide_parameters=True, **arguments)


def _pooled_engine(url: str, settings: Settings, **arguments: Any) -> AsyncEngine:
    engine = _engine(
        url,
        settings,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.connect_timeout.total_seconds(),
        # LIFO keeps a few callers on a few backends with warm caches.
        pool_use_lifo=True,
        **arguments,
    )
    event.listen(engine.sync_engine, "checkout", _reject_closed)
    return engine


def _reject_closed(dbapi_connection: Any, _record: object, _proxy: object) -> None:
    """Make the pool replace a connection that the server has closed; unlike a ping this costs no round trip."""
    if dbapi_connection.driver_connection.is_closed():
        raise exc.DisconnectionError


def autocommit_engine(url: str, settings: Settings) -> AsyncEngine:
    """Create the engine for single statements in autocommit. Private: `rollback()` on it silently does nothing."""
    if settings.pooler == "transaction":
        return _engine_behind_pooler(url, settings)
    # No reset on release: this engine never begins a transaction.
    return _pooled_engine(url, settings, isolation_level="AUTOCOMMIT", pool_reset_on_return=None)


def transactional_engine(url: str, settings: Settings) -> AsyncEngine:
    """Create the engine for the sessions of callers. Its errors are those of SQLAlchemy."""
    is_pooled = settings.pooler == "transaction"
    engine = _engine_behind_pooler(url, settings) if is_pooled else _pooled_engine(url, settings)
    event.listen(engine.sync_engine, "handle_error", _as_sqlalchemy_error)
    return engine


def _as_sqlalchemy_error(context: ExceptionContext) -> Exception | None:
    """Wrap an error of a lost connection that the adapter of the driver passes on as it is, such as `TimeoutError`."""
    error = context.original_exception
    if isinstance(error, exc.SQLAlchemyError) or context.sqlalchemy_exception is not None:
        return None
    if not isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return None
    context.is_disconnect = True  # it must not return to the pool
    return exc.OperationalError(context.statement, None, error, hide_parameters=True, connection_invalidated=True)


def _engine_behind_pooler(url: str, settings: Settings) -> AsyncEngine:
    """Create an engine without a pool, with unique names of prepared statements, and time-outs per transaction."""
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
