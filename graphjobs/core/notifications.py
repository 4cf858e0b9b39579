"""Notices to listeners that something was queued. A notice is a hint sent after the write, and not part of it.

It is a statement of its own because it is volatile, and because commits with a notice take turns on one server lock.
"""

from typing import Any, Final

import sqlalchemy as sa

from graphjobs.database.executor import Executor, SessionExecutor
from graphjobs.errors import GraphJobsError

CHANNEL: Final = "graphjobs_queued"

NOTIFY_QUEUED: Final[sa.Select[Any]] = sa.select(
    sa.func.pg_notify(sa.literal_column(f"'{CHANNEL}'"), sa.literal_column("''"))
)
"""Sends a notice, which is delivered when the transaction commits. It carries nothing: listeners look for work."""


async def notify_queued(executor: Executor, *, enabled: bool) -> None:
    """Send a notice if enabled. A failure is not an error: polling finds what is queued."""
    if not enabled:
        return
    try:
        await executor.fetch_all(NOTIFY_QUEUED, {})
    except GraphJobsError:
        if isinstance(executor, SessionExecutor):  # the caller's transaction has failed with it
            raise
