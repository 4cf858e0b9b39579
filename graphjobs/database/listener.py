"""Listen for notifications on a separate connection. A notification is a hint and may be lost."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from graphjobs.database.engine import connect
from graphjobs.database.url import ServerUrl
from graphjobs.errors import ConfigurationError, DatabaseUnavailable, GraphJobsError
from graphjobs.settings import Settings

_PROBE_EVERY_SECONDS: Final = 10.0
_RECONNECT_SECONDS: Final = 1.0
_RECONNECT_SECONDS_MAX: Final = 5.0
_IS_READ_ONLY: Final = "SELECT pg_catalog.current_setting('transaction_read_only')"

_log = logging.getLogger(__name__)


async def listen(url: ServerUrl, settings: Settings, channel: str, on_notify: Callable[[], None]) -> None:
    """Call `on_notify` at each notification on a channel, and after each connect, when some may have been missed.

    Runs until it is cancelled, and reconnects whenever the connection ends. A probe every 10 seconds detects a
    connection that has ended silently, or leads to a server that has become read-only.

    Raises:
        ConfigurationError: `settings.pooler` is "transaction", or a reconnect was refused for the URL or the role.
    """
    if settings.pooler == "transaction":
        raise ConfigurationError(
            "listening needs a direct connection to the server: poll, or set GRAPHJOBS_POOLER=direct"
        )
    wait = _RECONNECT_SECONDS
    while True:
        try:
            connection = await connect(url, settings)
            try:
                ended = asyncio.Event()
                connection.add_termination_listener(lambda _, ended=ended: ended.set())
                await connection.add_listener(channel, lambda *_: on_notify())
                on_notify()
                wait = _RECONNECT_SECONDS
                while True:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), _PROBE_EVERY_SECONDS)
                    # A server that is fenced off keeps its connections, and the notifications come from another one.
                    if await connection.fetchval(_IS_READ_ONLY, timeout=_PROBE_EVERY_SECONDS) == "on":
                        raise DatabaseUnavailable("the server has become read-only")
            finally:
                connection.terminate()
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001  # reconnect after any error; workers poll meanwhile
            reason = str(error) if isinstance(error, GraphJobsError) else type(error).__name__
            _log.warning("the listening connection ended; reconnecting in %.0f s: %s", wait, reason)
        await asyncio.sleep(wait)
        wait = min(2 * wait, _RECONNECT_SECONDS_MAX)
