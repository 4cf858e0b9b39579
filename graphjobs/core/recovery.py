"""Resolution of writes with a lost answer: they are believed absent only once the server cannot apply them later."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from sqlalchemy import Integer, Select, bindparam, column, literal_column, select, table

from graphjobs.database.executor import Executor
from graphjobs.errors import DatabaseUnavailable, OutcomeUnknown

T = TypeVar("T")

_RESOLVE_SECONDS: Final = 15.0
_PROBE_EVERY_SECONDS: Final = 0.1

_FIND_BACKEND: Final[Select[Any]] = (
    select(literal_column("1"))
    .select_from(table("pg_stat_activity", schema="pg_catalog"))
    .where(column("pid") == bindparam("p_backend_pid", type_=Integer))
)


async def resolve_outcome(unknown: OutcomeUnknown, executor: Executor, probe: Callable[[], Awaitable[T | None]]) -> T:
    """Find out whether a write with a lost answer was applied.

    While the backend of the lost connection runs, the write may still wait there for a lock or for its turn. Once that
    backend is gone, a write that is not visible will never be.

    Args:
        unknown: the error that the write raised.
        executor: runs on another connection.
        probe: reads what the write would have left; returns None where it is not there.

    Returns:
        What `probe` returned.

    Raises:
        DatabaseUnavailable: the write was not applied, and never will be.
        OutcomeUnknown: that could not be determined within 15 seconds.
    """
    deadline = asyncio.get_running_loop().time() + _RESOLVE_SECONDS
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                # Before the probe: a backend that ends after it could have applied the write in between.
                gone = unknown.backend is not None and not await executor.fetch_all(
                    _FIND_BACKEND, {"p_backend_pid": unknown.backend}
                )
                found = await probe()
        except (DatabaseUnavailable, TimeoutError):
            found, gone = None, False
        if found is not None:
            return found
        if gone:
            raise DatabaseUnavailable("the connection ended before the write was done; nothing was changed, try again")
        if asyncio.get_running_loop().time() + _PROBE_EVERY_SECONDS > deadline:
            raise unknown
        await asyncio.sleep(_PROBE_EVERY_SECONDS)
