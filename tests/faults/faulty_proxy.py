"""A proxy that forwards bytes between clients and the server until a test injects a fault.

It knows no protocol. A test injects a fault while the connections are idle, so that the next bytes of a client are one
statement (the driver sends a prepared one in one piece).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from typing_extensions import override

_PORT = 5432


class Fault(Enum):
    """The faults that the proxy can inject into the next bytes."""

    NONE = auto()
    DROP_REQUEST = auto()
    """The client's bytes are not forwarded, and the connection ends."""
    DROP_REPLY = auto()
    """The client's bytes are forwarded; when the server answers, the answer is lost and the connection ends."""
    BLACKHOLE = auto()
    """Bytes are lost in both directions and no connection ends; also those of new connections and cancel requests."""
    SWALLOW_REPLY = auto()
    """The client's bytes are forwarded, and the answers are lost; no connection ends."""


class FaultProxy:
    """Listens on a Unix socket in `folder`, in front of the server at `server_url`.

    Attributes:
        server_url: the server of new connections; a test may move it.
        fault: the fault that is injected now.
        latency: the delay of each piece of the client's bytes, in seconds.
        hit: the number of injected faults.
    """

    def __init__(self, server_url: str, folder: Path) -> None:
        self.server_url, self._folder = server_url, folder
        self._pumps: set[asyncio.Task[None]] = set()
        self.fault = Fault.NONE
        self.latency = 0.0
        self.hit = 0

    @property
    def url(self) -> str:
        """The URL of the server through this proxy."""
        parts = urlsplit(self.server_url)
        query = {**dict(parse_qsl(parts.query)), "host": str(self._folder), "port": str(_PORT)}
        user = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{user}@" if user else "", query=urlencode(query)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FaultProxy"]:
        """Listen until the context ends."""
        listener = await asyncio.start_unix_server(self._accept, self._folder / f".s.PGSQL.{_PORT}")
        async with self._until_closed(listener):
            yield self

    @asynccontextmanager
    async def running_on_tcp(self) -> AsyncIterator[int]:
        """Listen on a port of the loopback interface, and yield it."""
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        async with self._until_closed(listener):
            yield listener.sockets[0].getsockname()[1]

    @asynccontextmanager
    async def _until_closed(self, listener: asyncio.Server) -> AsyncIterator[None]:
        try:
            yield
        finally:
            listener.close()
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            await listener.wait_closed()

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        try:
            from_server, to_server = await self._connect_to_server()
            pumps = [
                asyncio.ensure_future(self._pump(from_client, to_server, to_client, is_request=True)),
                asyncio.ensure_future(self._pump(from_server, to_client, to_server, is_request=False)),
            ]
            self._pumps.update(pumps)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(pumps)
        finally:
            self._pumps.discard(task)

    async def _connect_to_server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.server_url)
        query = dict(parse_qsl(parts.query))
        host = query.get("host", parts.hostname or "localhost")
        port = int(query.get("port", parts.port or _PORT))
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter, *, is_request: bool
    ) -> None:
        """Forward bytes in one direction until an end or a fault; then close both directions."""
        try:
            while data := await source.read(1 << 16):
                if self.latency and is_request:
                    await asyncio.sleep(self.latency)
                match self.fault:
                    case Fault.NONE:
                        pass
                    case Fault.DROP_REQUEST if is_request:
                        self.hit += 1
                        return
                    case Fault.DROP_REPLY if not is_request:
                        self.hit += 1
                        return
                    case Fault.BLACKHOLE:
                        self.hit += 1
                        continue
                    case Fault.SWALLOW_REPLY if not is_request:
                        self.hit += 1
                        continue
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()
            back.close()


class Wire(FaultProxy):
    """A proxy that injects a fault only once unless `lasts`, and that can end all connections."""

    lasts = False

    @override
    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "hit" and value and not self.lasts:
            self.fault = Fault.NONE

    def cut(self) -> None:
        """End every connection; the server notices at its next read or write."""
        for pump in tuple(self._pumps):
            pump.cancel()
