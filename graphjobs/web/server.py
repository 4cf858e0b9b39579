"""Run an application on uvicorn: the socket, the limits, and the shutdown."""

import signal
import socket
from collections.abc import Callable
from typing import Final

import uvicorn
from fastapi import FastAPI

from graphjobs.errors import ConfigurationError

CONCURRENT_MAX: Final = 1_000
"""The maximum of concurrent requests; further requests are answered 503."""

_GRACE_SECONDS: Final = 20


def listen(host: str, port: int) -> socket.socket:
    """Open the socket of the service; port 0 selects a free port.

    Raises:
        ConfigurationError: the address is invalid, or in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    else:
        # asyncio sets this only for sockets that it creates: each response would wait 40 ms for an ACK.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    raise ConfigurationError(f"cannot listen on {host} port {port}: {reason}")


async def serve(
    app: FastAPI, listening: socket.socket, *, ready: Callable[[], None] = lambda: None, access_log: bool = True
) -> None:
    """Serve until SIGINT or SIGTERM, and give running requests up to 20 seconds to finish.

    The lifespan of the application is not run: the caller opens the storage before, and sets it by `use_storage`.

    Args:
        app: the application.
        listening: the socket that `listen` returned.
        ready: called when a signal leads to an orderly shutdown, and the service can be announced.
        access_log: False logs no requests.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=access_log,
        limit_concurrency=CONCURRENT_MAX,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = uvicorn.Server(config)

    def stop(*_: object) -> None:
        server.should_exit = True

    # These handlers are active before and after those of uvicorn: uvicorn raises the signal that stopped it again, and
    # the storage must close before the process ends.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    ready()
    await server.serve(sockets=[listening])
