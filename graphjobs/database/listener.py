"""Listen for notifications on a separate connection. A notification is a hint and may be lost."""

import asyncio
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
_IS_STANDBY: Final = "SELECT pg_catalog.pg_is_in_recovery()"

_log = logging.getLogger(__name__)


async def listen(url: ServerUrl, settings: Settings, channel: str, on_notify: Callable[[], None]) -> None:
    """Call `on_notify` at each notification on a channel, and after each connect, when some may have been missed.

    Runs until it is cancelled, and reconnects whenever the connection ends. A probe every 10 seconds detects a
    connection that has ended silently, or leads to a server that has become a standby.

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
                await connection.add_listener(channel, lambda *_: on_notify())
                on_notify()
                wait = _RECONNECT_SECONDS
                while True:
                    await asyncio.sleep(_PROBE_EVERY_SECONDS)
                    # A demoted primary keeps its connections, and sends no more notifications.
                    if await connection.fetchval(_IS_STANDBY, timeout=_PROBE_EVERY_SECONDS):
                        raise DatabaseUnavailable("the server has become a standby")
            finally:
                connection.terminate()
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001  # reconnect after any error; workers poll meanwhile
            reason = str(error) if isinstance(error, GraphJobsError) else type(error).__name__
            _log.warning("the listening connection ended; reconnecting in %.0f s: %s", wait, reason)
        await asyncio.sleep(wait)
        wait = min(2 * wait, _RECONNECT_SECONDS_MAX)
