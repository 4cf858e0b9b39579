"""Runs one statement and gives its rows: alone, or inside a session of the caller's; knows no job.

Both ways are safe to cancel at any await. Cancelled does not mean not applied: a statement that was sent may land.
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
from sqlalchemy.pool import PoolProxiedConnection, QueuePool
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import ClauseElement

from graphjobs.database.error_translation import translate_error
from graphjobs.errors import ConfigurationError, OutcomeUnknown
from graphjobs.settings import Settings

Params: TypeAlias = Mapping[str, object]
T = TypeVar("T")

_DRAIN_SECONDS: Final = 5.0
_DIALECT: Final[Dialect] = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]


class Row(Protocol):
    """One row: its columns in order. The driver's and SQLAlchemy's rows both are such."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class Executor(Protocol):
    """Runs statements; each room that has SQL is given one, and cares not which."""

    async def fetch_all(self, statement: Executable, params: Params) -> Sequence[Row]:
        """Runs one statement and gives all its rows, each as its columns in order; none where it gives none.

        Raises:
            DatabaseUnavailable: nothing was done; safe to try again.
            OutcomeUnknown: a write was sent on its own, and the connection ended before the answer.
            SchemaOutOfDate: a table or a column is not there.
        """
        ...

    def using(self, session: AsyncSession) -> "SessionExecutor":
        """Gives the executor that runs inside the caller's transaction, which commits or vanishes with the rest.

        Raises:
            ConfigurationError: the session's engine is in autocommit, where nothing can vanish.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A statement as the driver takes it: text, the binds in order, and whether it writes."""

    sql: str
    binds: tuple[str, ...]
    writes: bool


@lru_cache(maxsize=256)
def compiled(statement: Executable) -> _Compiled:
    """Compiles a statement once; the statements are constants, so each is met again."""
    form = cast("ClauseElement", statement).compile(dialect=_DIALECT)
    if not isinstance(form, SQLCompiler):
        raise TypeError("a statement should read or write rows")
    unready = [name for name, bind in form.binds.items() if not bind.required]
    if unready or form.post_compile_params or form.literal_execute_params:
        raise ValueError(f"a statement's binds are named and given with each call; these are not: {unready}")
    writes = any(isinstance(element, UpdateBase) for element in visitors.iterate(cast("ClauseElement", statement)))
    return _Compiled(form.string, tuple(form.positiontup or ()), writes)


class AutocommitExecutor:
    """The executor that runs each statement alone, as its own transaction: autocommit, in one round trip.

    It serves the event loop it was made in, as its connections do.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._pooler = settings.pooler == "transaction"

    async def fetch_all(self, statement: Executable, params: Params) -> Sequence[Row]:
        """Runs one statement as its own transaction; see `Executor.rows`."""
        self.require_own_loop()
        form = compiled(statement)
        sent, backend = False, None
        try:
            if self._pooler:
                sent = True
                return await cancel_then_wait(self._fetch_all_through_pooler(statement, params))
            pooled = self._idle_connection() or await self._engine.raw_connection()
            try:
                driver: asyncpg.Connection[asyncpg.Record] = pooled.driver_connection  # type: ignore[assignment]
                sent, backend = True, driver.get_server_pid()
                return await driver.fetch(form.sql, *[params[name] for name in form.binds])
            except asyncio.CancelledError:
                await run_to_completion(_drain_cancelled(driver))
                raise
            except TimeoutError:
                # Our own time-out, later than the server's: nobody answers there, and the next caller shall not wait.
                driver.terminate()
                raise
            finally:
                pooled.close()  # synchronous, so that no cancel can come between
        except Exception as error:
            failure = translate_error(error, ambiguous=sent and form.writes)
            if failure is None:
                raise
            if isinstance(failure, OutcomeUnknown):
                failure.backend = backend
        raise failure

    def _idle_connection(self) -> PoolProxiedConnection | None:
        """Takes a connection that lies idle in the pool without the greenlet that opening one needs: 20 us, not 60."""
        pool = self._engine.pool
        if not (isinstance(pool, QueuePool) and pool.checkedin()):
            return None
        try:
            return pool.connect()
        except exc.MissingGreenlet:  # it was closed, and has to be opened anew; the pool has it back
            return None

    def require_own_loop(self) -> None:
        """Lets calls of its own event loop pass; two loops on one connection can bring the interpreter down.

        Raises:
            ConfigurationError: another loop runs, in this thread or another.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError("the storage belongs to another event loop: open one in each loop")

    async def _fetch_all_through_pooler(self, statement: Executable, params: Params) -> Sequence[Row]:
        """An explicit transaction: the pooler gives its server's connection for the length of one, and no longer."""
        async with self._engine.begin() as connection:
            return (await connection.execute(statement, params)).all()

    def using(self, session: AsyncSession) -> "SessionExecutor":
        """Gives the executor of a session; see `Executor.using`."""
        return _session_executor(session)


class SessionExecutor:
    """The executor that runs inside a session's transaction, and leaves its end to the session's owner."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def fetch_all(self, statement: Executable, params: Params) -> Sequence[Row]:
        """Runs one statement within the transaction; see `Executor.rows`."""
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
        # An engine can be told apart early, in using(); a connection with an option of its own only here.
        if connection.dialect.detect_autocommit_setting(raw):  # type: ignore[arg-type]
            raise ConfigurationError(_AUTOCOMMIT)
        result = await connection.execute(statement, params)
        return result.all() if result.returns_rows else ()

    def using(self, session: AsyncSession) -> "SessionExecutor":
        """Gives the executor of another session; see `Executor.using`."""
        return _session_executor(session)


_AUTOCOMMIT: Final = (
    "the session is in autocommit, so nothing in it could be rolled back: give one of a transactional engine, as "
    "storage.session() does"
)


def _session_executor(session: AsyncSession) -> SessionExecutor:
    if _is_autocommit_session(session):
        raise ConfigurationError(_AUTOCOMMIT)
    return SessionExecutor(session)


def _is_autocommit_session(session: AsyncSession) -> bool:
    try:
        bind = session.get_bind()
    except exc.UnboundExecutionError:  # bound by mapper: known once it is connected
        return False
    of_engine = getattr(bind.dialect, "_on_connect_isolation_level", None)
    return bind.get_execution_options().get("isolation_level", of_engine) == "AUTOCOMMIT"


async def _drain_cancelled(driver: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Waits for the server to be done with a cancelled statement, so that the connection goes back idle.

    The driver asks the server to end what runs, and waits for that before its next statement. Cancelled between the
    answer to a prepare and its use it has sent no Sync, and the server would hold the table's lock until the next one.
    """
    try:
        await driver.execute("", timeout=_DRAIN_SECONDS)
    except Exception:  # noqa: BLE001  # whatever keeps it from settling, it is not given to anybody again
        driver.terminate()


async def run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Awaits work that no cancel may end; the cancel goes on afterwards. For short work that bounds itself."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await wait_ignoring_cancel(task)
        raise


async def wait_ignoring_cancel(task: "asyncio.Future[Any]") -> None:
    """Waits for a task, however often that is cancelled: anyio repeats a cancel at each turn of the loop."""
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            continue
    if not task.cancelled():
        task.exception()  # looked at, so that the loop does not complain of it


async def cancel_then_wait(work: Coroutine[Any, Any, T]) -> T:
    """Awaits work that a cancel may end, but not leave half done.

    The work runs as a task of its own. A cancel is handed to it once, its end is waited for, and the cancel goes on.
    How long that takes is bounded by the statement's time-out.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        await wait_ignoring_cancel(task)
        raise
