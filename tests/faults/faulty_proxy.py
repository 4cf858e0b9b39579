"""A wire that can be cut: it passes bytes between clients and the server, until a fault is turned on.

It knows no protocol. Faults are turned on when the connections to be hit are idle, so that the next bytes of a client
are one statement (the driver sends a prepared one in one piece).
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
    """What befalls the next bytes."""

    NONE = auto()
    DROP_REQUEST = auto()
    """The client's bytes are not passed on, and the connection ends."""
    DROP_REPLY = auto()
    """The client's bytes are passed on; when the server answers, the answer is lost and the connection ends."""
    BLACKHOLE = auto()
    """Bytes vanish both ways and nothing ends; so do those of new connections, and of cancel requests."""
    SWALLOW_REPLY = auto()
    """The client's bytes are passed on, and the answers vanish; nothing ends."""


class FaultProxy:
    """Listens on a Unix socket in `folder`, in front of the server at `server_url`.

    Attributes:
        fault: what befalls bytes from now on.
        latency: seconds by which each piece of the client's bytes is late.
        hit: how often a fault struck.
    """

    def __init__(self, server_url: str, folder: Path) -> None:
        self._server_url, self._folder = server_url, folder
        self._pumps: set[asyncio.Task[None]] = set()
        self.fault = Fault.NONE
        self.latency = 0.0
        self.hit = 0

    @property
    def url(self) -> str:
        """The server's URL, through this proxy."""
        parts = urlsplit(self._server_url)
        query = {**dict(parse_qsl(parts.query)), "host": str(self._folder), "port": str(_PORT)}
        user = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{user}@" if user else "", query=urlencode(query)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FaultProxy"]:
        """Listens, for the length of a with."""
        listener = await asyncio.start_unix_server(self._accept, self._folder / f".s.PGSQL.{_PORT}")
        try:
            yield self
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
            from_server, to_server = await self._to_server()
            pumps = [
                asyncio.ensure_future(self._pump(from_client, to_server, to_client, is_request=True)),
                asyncio.ensure_future(self._pump(from_server, to_client, to_server, is_request=False)),
            ]
            self._pumps.update(pumps)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(pumps)
        finally:
            self._pumps.discard(task)

    async def _to_server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._server_url)
        query = dict(parse_qsl(parts.query))
        host = query.get("host", parts.hostname or "localhost")
        port = int(query.get("port", parts.port or _PORT))
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter, *, is_request: bool
    ) -> None:
        """Passes bytes one way until an end or a fault; when one way ends, both do."""
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
    """A wire whose faults strike once, unless they last; and that can be cut while it is silent."""

    lasts = False

    @override
    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "hit" and value and not self.lasts:
            self.fault = Fault.NONE

    def cut(self) -> None:
        """Ends every connection; the server learns of it when it next reads or writes."""
        for pump in tuple(self._pumps):
            pump.cancel()
