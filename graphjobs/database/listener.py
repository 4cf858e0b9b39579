"""Listens for notices on a connection of its own; a notice is a hint that may be lost, never the truth."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from graphjobs.database.engine import connect
from graphjobs.errors import ConfigurationError, GraphJobsError
from graphjobs.settings import Settings

_ALIVE_EVERY_SECONDS: Final = 10.0
_AGAIN_AFTER_SECONDS: Final = 1.0
_AGAIN_AT_MOST_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


async def listen(url: str, settings: Settings, channel: str, on_notify: Callable[[], None]) -> None:
    """Calls `heard` at each notice on a channel, and each time it begins to listen: some may have been missed.

    Goes on until it is cancelled, and connects anew whenever the connection ends; one that has died silently is found
    out within seconds, by asking.

    Raises:
        ConfigurationError: a pooler in transaction mode is in between.
    """
    if settings.pooler == "transaction":
        raise ConfigurationError(
            "listening needs a connection of its own to the server: GRAPHJOBS_POOLER=transaction has none, so poll"
        )
    wait = _AGAIN_AFTER_SECONDS
    while True:
        try:
            connection = await connect(url, settings)
            try:
                await connection.add_listener(channel, lambda *_: on_notify())
                on_notify()
                wait = _AGAIN_AFTER_SECONDS
                while True:
                    await asyncio.sleep(_ALIVE_EVERY_SECONDS)
                    await connection.execute("", timeout=_ALIVE_EVERY_SECONDS)
            finally:
                connection.terminate()
        except Exception as error:  # noqa: BLE001  # whatever ended it, polling goes on meanwhile
            reason = str(error) if isinstance(error, GraphJobsError) else type(error).__name__
            _log.warning("the listening connection ended, again in %.0f s: %s", wait, reason)
        await asyncio.sleep(wait)
        wait = min(2 * wait, _AGAIN_AT_MOST_SECONDS)
