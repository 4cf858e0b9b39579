"""Executors run one statement and return its rows: in autocommit, or in a session of the caller. They know no job.

Both executors are safe to cancel at any await. A cancelled statement that was already sent may still be applied.
"""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

import asyncpg
from sqlalchemy import Dialect, Executable, exc
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import ClauseElement

from graphjobs.database.error_translation import ends_connection, translate_error
from graphjobs.database.pool import gated_pool
from graphjobs.errors import ConfigurationError, OutcomeUnknown
from graphjobs.settings import Settings

Params: TypeAlias = Mapping[str, object]
T = TypeVar("T")

_DRAIN_SECONDS: Final = 5.0
_DIALECT: Final[Dialect] = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]


class Row(Protocol):
    """One row: its columns in order. The rows of the driver and of SQLAlchemy satisfy this protocol."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class Executor(Protocol):
    """Runs statements. Every package with SQL accepts either implementation."""

    async def fetch_all(self, statement: Executable, params: Params) -> Sequence[Row]:
        """Run one statement and return all its rows; an empty sequence for a statement that returns no rows.

        Raises:
            DatabaseUnavailable: nothing was changed; safe to try again.
            OutcomeUnknown: a write was sent in autocommit, and the connection ended before the answer.
            SchemaOutOfDate: a table or a column is missing.
        """
        ...

    def using(self, session: AsyncSession) -> "SessionExecutor":
        """Return an executor that runs in the caller's transaction and leaves commit and rollback to the caller.

        Raises:
            ConfigurationError: the session's engine is in autocommit, where a rollback has no effect.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A compiled statement: the SQL text, the bind names in order, and whether the statement writes."""

    sql: str
    binds: tuple[str, ...]
    writes: bool


@lru_cache(maxsize=256)
def compiled(statement: Executable) -> _Compiled:
    """Compile a statement. Statements are constants, so the cache compiles each one once."""
    sql = cast("ClauseElement", statement).compile(dialect=_DIALECT)
    if not isinstance(sql, SQLCompiler):
        raise TypeError("a statement must read or write rows")
    with_value = [name for name, bind in sql.binds.items() if not bind.required]
    if with_value or sql.post_compile_params or sql.literal_execute_params:
        raise ValueError(f"every bind must be named and passed with each call; these have a value: {with_value}")
    writes = any(isinstance(element, UpdateBase) for element in visitors.iterate(cast("ClauseElement", statement)))
    return _Compiled(sql.string, tuple(sql.positiontup or ()), writes)


class AutocommitExecutor:
    """Runs each statement as its own transaction: autocommit, in one round trip.

    The executor and its connections belong to the event loop in which it was created.

    Args:
        engine: an engine in autocommit.
        settings: its settings.
        reserve: the engine to use instead while all connections of the first one are in use.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings, *, reserve: AsyncEngine | None = None) -> None:
        self._engine = engine
        self._reserve = reserve
        self._loop = asyncio.get_running_loop()
        self._pooler = settings.pooler == "transaction"

    async def fetch_all(self, statement: Executable, params: Params) -> Sequence[Row]:
        """Run one statement as its own transaction; see `Executor.fetch_all`."""
        self.require_own_loop()
        query = compiled(statement)
        engine = self._engine
        if self._reserve is not None and gated_pool(engine).gate.is_full:
            engine = self._reserve
        sent, backend = False, None
        try:
            if self._pooler:
                sent = True
                return await cancel_then_wait(_fetch_all_through_pooler(engine, statement, params))
            pooled = await gated_pool(engine).check_out(engine)
            try:
                driver: asyncpg.Connection[asyncpg.Record] = pooled.driver_connection  # type: ignore[assignment]
                sent, backend = True, driver.get_server_pid()
                return await driver.fetch(query.sql, *[params[name] for name in query.binds])
            except asyncio.CancelledError:
                await run_to_completion(_drain_cancelled(driver))
                raise
            except Exception as error:
                if driver.is_closed() or ends_connection(error):
                    gated_pool(engine).health.discard(driver)
                raise
            finally:
                pooled.close()  # synchronous, so that no cancellation can interrupt it
        except Exception as error:
            failure = translate_error(error, ambiguous=sent and query.writes)
            if failure is None:
                raise
            if isinstance(failure, OutcomeUnknown):
                failure.backend = backend
        raise failure

    def require_own_loop(self) -> None:
        """Check that the executor's event loop runs; two loops on one connection can crash the interpreter.

        Raises:
            ConfigurationError: another loop runs, in this thread or another.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError("the storage belongs to another event loop: open one in each loop")

    def using(self, session: AsyncSession) -> "SessionExecutor":
        """Return the executor of a session; see `Executor.using`."""
        return _session_executor(session)


async def _fetch_all_through_pooler(engine: AsyncEngine, statement: Executable, params: Params) -> Sequence[Row]:
    """Run one statement in an explicit transaction, the unit for which a pooler assigns a server connection."""
    async with engine.begin() as connection:
        return (await connection.execute(statement, params)).all()


class SessionExecutor:
    """Runs statements in the transaction of a session. The owner of the session commits or rolls back."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def fetch_all(self, statement: Executable, params: Params) -> Sequence[Row]:
        """Run one statement in the transaction; see `Executor.fetch_all`."""
        try:
            return await cancel_then_wait(self._fetch_all(statement, params))
        except Exception as error:
            failure = translate_error(error, ambiguous=False)
            if failure is None:
                raise
        raise failure

    async def _fetch_all(self, statement: Executable, params: Params) -> Sequence[Row]:
        connection = await self._session.connection()
        raw = connection.sync_connection.connection.dbapi_connection  # type: ignore[union-attr]
        # using() detects an autocommit engine; an autocommit option of one connection is detectable only here.
        if connection.dialect.detect_autocommit_setting(raw):  # type: ignore[arg-type]
            raise ConfigurationError(_AUTOCOMMIT)
        result = await connection.execute(statement, params)
        return result.all() if result.returns_rows else ()

    def using(self, session: AsyncSession) -> "SessionExecutor":
        """Return the executor of another session; see `Executor.using`."""
        return _session_executor(session)


_AUTOCOMMIT: Final = (
    "the session is in autocommit, where a rollback has no effect: use a session of a transactional engine, such as "
    "storage.session()"
)


def _session_executor(session: AsyncSession) -> SessionExecutor:
    if _is_autocommit_session(session):
        raise ConfigurationError(_AUTOCOMMIT)
    return SessionExecutor(session)


def _is_autocommit_session(session: AsyncSession) -> bool:
    try:
        bind = session.get_bind()
    except exc.UnboundExecutionError:  # bound by mapper: the engine is known after the connection
        return False
    engine_level = getattr(bind.dialect, "_on_connect_isolation_level", None)
    return bind.get_execution_options().get("isolation_level", engine_level) == "AUTOCOMMIT"


async def _drain_cancelled(driver: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Wait until the server has ended a cancelled statement, so that the connection returns to the pool idle.

    The driver sends a cancel request and awaits it before its next statement. If it was cancelled between the answer
    to a prepare and its use, it has sent no Sync, and the server holds the lock of the table until the next statement.
    """
    try:
        await driver.execute("", timeout=_DRAIN_SECONDS)
    except Exception:  # noqa: BLE001  # a connection in an unknown state must not be reused
        driver.terminate()


async def run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Await work that a cancellation must not end; cancel afterwards. Only for short work with its own time-out."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await wait_ignoring_cancel(task)
        raise


async def wait_ignoring_cancel(task: "asyncio.Future[Any]") -> None:
    """Wait for a task and ignore cancellations, which anyio repeats at each iteration of the event loop."""
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            continue
    if not task.cancelled():
        task.exception()  # retrieved, so that the event loop does not log it


async def cancel_then_wait(work: Coroutine[Any, Any, T]) -> T:
    """Await work in a task of its own; on a cancellation, cancel the task once and wait until it has ended.

    The statement time-out bounds that wait.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        await wait_ignoring_cancel(task)
        raise
