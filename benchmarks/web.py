"""The suite of the web: the time of a request, compared with a route of the same server without any work."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.measure import BenchmarkError, Call, Entry, Figure, paired, ratio
from benchmarks.processes import started
from benchmarks.seeding import mixed_jobs, store
from benchmarks.suite import Bench
from graphjobs.web.tokens import add_token

CALLERS: Final = 16
LEGEND: Final = {
    "graphjobs over HTTP": "the route of `graphjobs serve`, in its own process: token, request id, store, JSON",
    "bare FastAPI": "a route of the same server that returns the same number of bytes without any work",
}
_OURS, _BARE = LEGEND
_TENANT: Final = "web"
_SECONDS: Final = 30
_BODY: Final = b'{"sbomId":"s","sbomVersionId":"v","sbomDigest":"sha256:' + b"a" * 64 + b'"}'


async def web(bench: Bench) -> list[Figure]:
    """Time `GET /graphs/jobs/{id}` and `POST /graphs/build` with 16 clients, each on a persistent connection."""
    jobs = mixed_jobs(_TENANT, 1_000)
    await store(bench.url, jobs)
    figures: list[Figure] = []
    async with _serving(bench.url, jobs[0].to_json()) as (port, token):
        connections = [await _Connection.open(port) for _ in range(CALLERS)]
        headers = {"Authorization": f"Bearer {token}"}
        gets = [_request("GET", f"/graphs/jobs/{job.id}", headers) for job in jobs]
        operations = {
            "GET /graphs/jobs/{id}": (gets, [_request("GET", "/bare", headers)]),
            "POST /graphs/build": (
                [_request("POST", "/graphs/build", headers, _BODY)],
                [_request("POST", "/bare", headers, _BODY)],
            ),
        }
        for operation, (ours, bare) in operations.items():
            bench.say(f"{operation}, {CALLERS} clients")
            entries = [Entry(_OURS, _calls(connections, ours)), Entry(_BARE, _calls(connections, bare))]
            times = await paired(entries, bench.pace, bench.order)
            ratios = (ratio(times, _OURS, _BARE),)
            figures += [
                Figure.of(times, name, operation=operation, callers=CALLERS, ratios=ratios if name == _OURS else ())
                for name in (_OURS, _BARE)
            ]
        for connection in connections:
            connection.close()
    return figures


class _Connection:
    """A persistent connection with a minimal HTTP client, so that the client takes little of the measured time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "_Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def call(self, request: bytes) -> bool:
        """Send a request, read the response, and return whether its status is 20x."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await self._reader.readexactly(length)
        return head.startswith(b"HTTP/1.1 20")

    def close(self) -> None:
        self._writer.close()


def _calls(connections: list[_Connection], requests: list[bytes]) -> Callable[[int], list[list[Call]]]:
    def calls(count: int) -> list[list[Call]]:
        return [
            [partial(connection.call, requests[(count * n + turn) % len(requests)]) for turn in range(count)]
            for n, connection in enumerate(connections)
        ]

    return calls


def _request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    all_headers = {"Host": "bench", **headers}
    if body:
        all_headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in all_headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def _serving(url: str, bare_response: str) -> AsyncIterator[tuple[int, str]]:
    """Run the server in its own process; return its port and a token."""
    with tempfile.TemporaryDirectory() as directory:
        tokens = Path(directory) / "tokens"
        token = add_token(tokens, tenant_id=_TENANT, scopes=("graph:read", "graph:write"), name="bench")
        arguments = ("-m", "benchmarks.web_server", str(tokens))
        environment = {**os.environ, "GRAPHJOBS_DATABASE_URL": url, "BARE_RESPONSE": bare_response}
        async with started(*arguments, stdout=asyncio.subprocess.PIPE, env=environment) as process:
            if process.stdout is None:
                raise BenchmarkError("the server has no output")
            async with asyncio.timeout(_SECONDS):
                port = int(await process.stdout.readline())
            yield port, token
