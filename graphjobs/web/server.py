"""Runs an application on uvicorn: the socket, the limits, and an orderly end."""

import signal
import socket
from collections.abc import Callable
from typing import Final

import uvicorn
from fastapi import FastAPI

from graphjobs.errors import ConfigurationError

CONCURRENT_MAX: Final = 1_000
"""The most requests at once; more are answered 503."""

_GRACE_SECONDS: Final = 20


def listen(host: str, port: int) -> socket.socket:
    """Opens the socket to serve on; port 0 takes a free one.

    Raises:
        ConfigurationError: the address is none, or taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    else:
        # asyncio does not do so for a socket that it has not made itself: each answer would wait 40 ms for an ACK.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    raise ConfigurationError(f"cannot listen on {host} port {port}: {reason}")


async def serve(
    app: FastAPI, listening: socket.socket, *, ready: Callable[[], None] = lambda: None, access_log: bool = True
) -> None:
    """Serves until SIGINT or SIGTERM, lets requests under way end for up to 20 seconds, and returns.

    The application's storage is opened before, by `use_storage`: its lifespan is not run.

    Args:
        app: the application.
        listening: what `listen` gave.
        ready: called once it may be told that it serves; from then on a signal ends it in order.
        access_log: False logs no request.
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

    # Before uvicorn has its own handlers, and after: it raises the signal that stopped it once more, and the storage
    # shall close before the process ends.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, stop)
    ready()
    await server.serve(sockets=[listening])
