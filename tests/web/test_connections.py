"""Slow, silent and greedy clients on real connections: each is closed in time, and none keeps out others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, Request, Response

from graphjobs.web import connections, create_app, request_limit
from graphjobs.web.server import build_server, listen, run

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Connection]]

_GET = b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n"
_HALF = _GET[:20]
_POST = b"POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n"


@asynccontextmanager
async def _serving(app: FastAPI) -> AsyncIterator[Connect]:
    """Run an application as `graphjobs serve` does; return what connects to it."""
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server = build_server(app, access_log=False)
    task = asyncio.create_task(run(server, listening))
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65_536)
        writers.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        for writer in writers:
            writer.transport.abort()
        server.should_exit = True
        async with asyncio.timeout(30):
            await task


def _app() -> FastAPI:
    """The application of `graphjobs serve`, with routes that wait and that answer 32 MiB."""
    app = create_app()

    @app.get("/wait")
    async def wait(request: Request) -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.05)

    @app.get("/large")
    async def large() -> Response:
        return Response(b"x" * 2**25)

    return app


async def _ask(connect: Connect, request: bytes = _GET) -> bytes:
    reader, writer = await connect()
    writer.write(request)
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return head


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all deadlines of connections."""
    for name in ("RECEIVE_SECONDS", "_BODY_SECONDS", "SEND_SECONDS"):
        monkeypatch.setattr(connections, name, 0.5)
    monkeypatch.setattr(connections, "_SWEEP_SECONDS", 0.05)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "parts",
    [[], [_HALF], [_GET, b""], [_GET, _HALF], [_POST, b"x"], [_GET + _HALF]],
    ids=["silent", "half a header", "idle", "half a second header", "half a body", "half a pipelined header"],
)
async def test_a_client_that_does_not_finish_its_request_is_closed(parts: list[bytes]) -> None:
    """Also one that sends a byte now and then."""
    async with _serving(_app()) as connect:
        reader, writer = await connect()
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.1)
        async with asyncio.timeout(20):
            while not reader.at_eof():
                if parts[-1:] == [_HALF]:
                    writer.write(b"x")
                try:
                    async with asyncio.timeout(0.2):
                        await reader.read(65_536)
                except TimeoutError:
                    continue
                except ConnectionError:
                    break


@pytest.mark.usefixtures("short")
async def test_a_client_that_does_not_read_is_closed() -> None:
    """A client that reads slowly gets the whole response."""
    async with _serving(_app()) as connect:
        (idle, idle_writer), (slow, slow_writer) = await connect(), await connect()
        for writer in (idle_writer, slow_writer):
            writer.write(b"GET /large HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        received = 0
        async with asyncio.timeout(30):
            while chunk := await slow.read(2**20):
                received += len(chunk)
                await asyncio.sleep(0.005)
        assert received > 2**25
        cut = 0
        async with asyncio.timeout(30):
            while chunk := await idle.read(2**20):
                cut += len(chunk)
        assert cut < 2**25


async def test_half_requests_do_not_keep_out_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than connections are allowed: the oldest is closed. A request that runs is not."""
    monkeypatch.setattr("graphjobs.web.server.connection_limit", lambda: 50)
    async with _serving(_app()) as connect:
        running = await connect()
        running[1].write(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
        for _ in range(150):
            _, writer = await connect()
            writer.write(_HALF)
        assert (await _ask(connect)).startswith(b"HTTP/1.1 200")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await running[0].read(1)


async def test_the_limit_counts_requests_and_spares_health(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 503 is a problem document with the id of the request."""
    monkeypatch.setattr(request_limit, "REQUESTS_MAX", 3)
    async with _serving(_app()) as connect:
        for _ in range(20):
            await connect()
        for _ in range(3):
            _, writer = await connect()
            writer.write(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
        async with asyncio.timeout(30):
            while not (refused := await _ask(connect, b"GET /x HTTP/1.1\r\nHost: t\r\nX-Request-ID: r-1\r\n\r\n"))[
                9:
            ].startswith(b"503"):
                await asyncio.sleep(0.05)
        assert b"x-request-id: r-1" in refused
        assert b"retry-after: 1" in refused
        assert b"application/problem+json" in refused
        assert (await _ask(connect)).startswith(b"HTTP/1.1 200")


async def test_a_forwarded_address_is_not_believed() -> None:
    """It would be in the access log, with all that its client sent."""
    app = _app()

    @app.get("/address")
    async def address(request: Request) -> Response:
        return Response(headers={"x-address": request.client.host if request.client else ""})

    async with _serving(app) as connect:
        request = b"GET /address HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
        assert b"x-address: 127.0.0.1" in await _ask(connect, request)


async def test_an_endless_header_is_closed() -> None:
    """The process does not hold more than 64 KiB of it."""
    async with _serving(_app()) as connect:
        reader, writer = await connect()
        writer.write(_HALF[:-1])
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while not reader.at_eof():
                    writer.write(b"x" * 10_000)
                    await writer.drain()
                    await asyncio.sleep(0)
        assert writer.is_closing() or reader.at_eof()
