"""Whom a migration waits for: sessions that hold a lock, or a transaction that is older than an index build."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from graphjobs.database.engine import connect
from graphjobs.database.url import ServerUrl
from graphjobs.errors import DatabaseUnavailable
from graphjobs.settings import Settings

_EVERY_SECONDS: Final = 2.0
_LOG_EVERY: Final = 15

_BLOCKERS: Final = """
SELECT format(
    'process %s%s%s%s', a.pid, ' of ' || a.usename, ' (' || nullif(a.application_name, '') || ')',
    ', in a transaction since ' || date_trunc('second', a.xact_start)
)
FROM unnest(pg_blocking_pids($1)) AS blocking (pid) JOIN pg_stat_activity AS a USING (pid)
ORDER BY a.xact_start, a.pid
LIMIT 3
"""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def named_blockers(url: ServerUrl, settings: Settings, backend: int) -> AsyncIterator[None]:
    """Log whom a backend waits for, every half minute, and name them in the error where its wait ends without a lock.

    Args:
        url: the database.
        settings: the time-outs.
        backend: the process id of the backend that migrates.
    """
    seen: list[str] = []
    watch = asyncio.create_task(_watch(url, settings, backend, seen))
    failure = None
    try:
        yield
    except DatabaseUnavailable as error:
        if error.sqlstate != "55P03" or not seen:
            raise
        failure = DatabaseUnavailable(f"{error}; it waited for {' and '.join(seen)}", sqlstate=error.sqlstate)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    if failure is not None:
        raise failure


async def _watch(url: ServerUrl, settings: Settings, backend: int, seen: list[str]) -> None:
    await asyncio.sleep(_EVERY_SECONDS)  # most migrations end before
    connection = await connect(url, settings)
    try:
        number = 0
        while True:
            blockers = [row[0] for row in await connection.fetch(_BLOCKERS, backend)]
            if blockers:
                seen[:] = blockers
                if number % _LOG_EVERY == 0:
                    _log.warning("the migration waits for %s", " and ".join(blockers))
                number += 1
            await asyncio.sleep(_EVERY_SECONDS)
    finally:
        connection.terminate()
