"""Tells listeners that something is queued, where that is asked for: a hint after the write, and no part of it.

A statement of its own, for it is volatile; and commits with a notice in them take turns on one lock of the server.
"""

from typing import Any, Final

from sqlalchemy import Select, func, literal_column, select

from graphjobs.database.executor import Executor, SessionExecutor
from graphjobs.errors import GraphJobsError

CHANNEL: Final = "graphjobs_queued"

NOTIFY_QUEUED: Final[Select[Any]] = select(func.pg_notify(literal_column(f"'{CHANNEL}'"), literal_column("''")))
"""Sends a notice, delivered when the transaction commits. It carries nothing: who hears it looks."""


async def notify_queued(executor: Executor, *, enabled: bool) -> None:
    """Sends a notice, if it is wanted. One that cannot be sent is no error: polling finds what is queued."""
    if not enabled:
        return
    try:
        await executor.fetch_all(NOTIFY_QUEUED, {})
    except GraphJobsError:
        if isinstance(executor, SessionExecutor):  # the caller's transaction has failed with it
            raise
