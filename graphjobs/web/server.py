"""Run an application on uvicorn: the socket, the limits, and the shutdown."""

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from graphjobs.errors import ConfigurationError
from graphjobs.web.connections import RECEIVE_SECONDS, bounded_protocol, close_late_connections, connection_limit
from graphjobs.web.request_limit import RequestLimit

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


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop of the service: uvloop's, or asyncio's own where uvloop does not run."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


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
    server = build_server(app, access_log=access_log)

    def stop(*_: object) -> None:
        server.should_exit = True

    # These handlers are active before and after those of uvicorn: uvicorn raises the signal that stopped it again, and
    # the storage must close before the process ends.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    ready()
    await run(server, listening)


def build_server(app: FastAPI, *, access_log: bool = True) -> uvicorn.Server:
    """Return the server of an application, with its limits."""
    config = uvicorn.Config(
        RequestLimit(app),
        http=bounded_protocol(connection_limit()),
        ws="none",
        lifespan="off",
        proxy_headers=False,  # `X-Forwarded-For` would be written to the log as its client sent it
        access_log=access_log,
        timeout_keep_alive=round(RECEIVE_SECONDS),
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return uvicorn.Server(config)


async def run(server: uvicorn.Server, listening: socket.socket) -> None:
    """Run a server of `build_server` until it is stopped."""
    connections: Any = server.server_state.connections  # of the class that the configuration names
    closing = asyncio.create_task(close_late_connections(connections))
    try:
        await server.serve(sockets=[listening])
    finally:
        closing.cancel()
