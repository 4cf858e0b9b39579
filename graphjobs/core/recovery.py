"""Resolution of writes with a lost answer: they are believed absent only once the server cannot apply them later."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar

import sqlalchemy as sa

from graphjobs.database.executor import Executor, Row
from graphjobs.errors import UNREPLICATED, Backend, DatabaseUnavailable, OutcomeUnknown

T = TypeVar("T")

_RESOLVE_SECONDS: Final = 15.0
_PROBE_EVERY_SECONDS: Final = 0.1

HAS_STANDBYS: Final[sa.ColumnElement[bool]] = sa.func.current_setting(
    sa.literal_column("'synchronous_standby_names'")
) != sa.literal_column("''")
"""True where commits wait for standbys."""

_server: Final = (
    sa.func.pg_is_in_recovery().label("in_recovery"),
    sa.func.pg_postmaster_start_time().label("started_at"),
    HAS_STANDBYS.label("has_standbys"),
)

_FIND_BACKEND: Final[sa.Select[Any]] = sa.select(
    *_server,
    sa.exists(
        sa.select(sa.literal_column("1"))
        .select_from(sa.table("pg_stat_activity", schema="pg_catalog"))
        .where(
            sa.column("pid") == sa.bindparam("p_backend_pid", type_=sa.Integer),
            # NULL for a backend of another role, which therefore counts as running.
            sa.column("backend_start").is_(None)
            | (sa.column("backend_start") == sa.bindparam("p_backend_start", type_=sa.DateTime(timezone=True))),
        )
    ),
)
"""Reads the server, and whether a backend runs there."""

_AWAIT_STANDBY: Final[sa.Select[Any]] = sa.select(
    *_server,
    sa.case(
        (
            ~sa.func.pg_is_in_recovery() & HAS_STANDBYS,
            sa.func.pg_logical_emit_message(
                sa.true(), sa.literal_column("'graphjobs'"), sa.cast(sa.literal_column("''"), sa.Text), type_=None
            ),
        ),
        else_=sa.null(),
    ),
)
"""Waits until the synchronous standbys have all that is committed: an entry of the WAL that means nothing follows it.

It writes nothing where there are none, and changes no table.
"""


class Server(NamedTuple):
    """The server that answered: whether it is a standby, when it was started, and whether commits wait for standbys."""

    in_recovery: bool
    started_at: datetime
    has_standbys: bool

    def is_primary_of(self, backend: Backend | None) -> bool:
        """Return whether this is the server of a backend, as a primary. A primary becomes a standby by a restart."""
        return backend is not None and not self.in_recovery and self.started_at == backend.server_started_at


def on_server(find: sa.Select[Any]) -> sa.Select[Any]:
    """Build a statement that also reads on which server it looked; it has no order. Read its rows by `LookupResult.of`.

    Args:
        find: its first column is never NULL.
    """
    server, found = sa.select(*_server).cte("server"), find.cte("found")
    return sa.select(*server.c, *found.c).select_from(server.outerjoin(found, sa.literal_column("true")))


@dataclass(frozen=True, slots=True)
class LookupResult(Generic[T]):
    """The result of a look-up, and the server that was asked.

    Attributes:
        server: the server that was asked.
        value: what it has; None where it has nothing.
    """

    server: Server
    value: T | None

    @classmethod
    def of(cls, rows: Sequence[Row], read: Callable[[Iterable[Sequence[Any]]], T | None]) -> "LookupResult[T]":
        """Read the rows of a statement of `on_server`; `read` gets its own columns, and no row where it has none."""
        width = len(_server)
        return cls(Server(*tuple(rows[0])[:width]), read(tuple(row)[width:] for row in rows if row[width] is not None))


async def confirm_replicated(executor: Executor, server: Server | None = None) -> None:
    """Wait until the synchronous standbys have what is committed, if there are any.

    A write that was cancelled or timed out while it waited for a standby is committed and visible, but a failover
    could lose it. A call that finds such a write must not report it as applied before.

    Args:
        executor: runs on the server that has the write.
        server: the server where the write was found.

    Raises:
        OutcomeUnknown: no standby has confirmed the write yet.
    """
    if server is not None and not server.has_standbys:
        return
    problem = UNREPLICATED
    try:
        # The server itself never ends this wait: its time-outs do not count for a commit.
        async with asyncio.timeout(_RESOLVE_SECONDS):
            ((*columns, _),) = await executor.fetch_all(_AWAIT_STANDBY, {})
        asked = Server(*columns)
        if not asked.has_standbys or (not asked.in_recovery and server in (None, asked)):
            return
    except DatabaseUnavailable as error:
        problem = f"the write is committed, and whether a synchronous standby has it could not be read: {error}"
    except (OutcomeUnknown, TimeoutError):
        pass
    raise OutcomeUnknown(problem)


async def resolve_outcome(
    unknown: OutcomeUnknown, executor: Executor, look_up: Callable[[], Awaitable[LookupResult[T]]]
) -> T:
    """Find out whether a write with a lost answer was applied.

    While the backend of the lost connection runs, the write may still wait there for a lock or for its turn. Once that
    backend is gone, a write that is not visible on the same primary will never be. Another server may lag behind.

    Args:
        unknown: the error that the write raised.
        executor: runs on another connection.
        look_up: reads what the write would have left.

    Returns:
        What `look_up` found.

    Raises:
        DatabaseUnavailable: the write was not applied, and never will be.
        OutcomeUnknown: that could not be determined within 15 seconds, or no standby has confirmed the write.
    """
    deadline = asyncio.get_running_loop().time() + _RESOLVE_SECONDS
    failure = unknown
    while True:
        is_absent = False
        try:
            async with asyncio.timeout_at(deadline):
                # Before the look-up: a backend that ends after it could have applied the write in between.
                has_ended = await _has_ended(unknown.backend, executor)
                found = await look_up()
                if found.value is not None:
                    if found.server.has_standbys:
                        failure = OutcomeUnknown(UNREPLICATED, backend=unknown.backend)
                    await confirm_replicated(executor, found.server)
                    return found.value
                is_absent = has_ended and found.server.is_primary_of(unknown.backend)
        except (DatabaseUnavailable, OutcomeUnknown, TimeoutError):
            pass
        if is_absent:
            raise DatabaseUnavailable("the connection ended before the write was done; nothing was changed, try again")
        if asyncio.get_running_loop().time() + _PROBE_EVERY_SECONDS > deadline:
            raise failure
        await asyncio.sleep(_PROBE_EVERY_SECONDS)


async def _has_ended(backend: Backend | None, executor: Executor) -> bool:
    if backend is None:
        return False
    params = {"p_backend_pid": backend.pid, "p_backend_start": backend.started_at}
    ((*columns, is_running),) = await executor.fetch_all(_FIND_BACKEND, params)
    return Server(*columns).is_primary_of(backend) and not is_running
