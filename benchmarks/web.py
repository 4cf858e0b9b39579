"""The suite of the web: what a request costs beside a bare route of the same server, which only answers."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.measure import BenchmarkError, Call, Entry, Figure, paired, ratio
from benchmarks.seeding import mixed_jobs, store
from benchmarks.suite import Bench
from graphjobs.web.tokens import add_token

CALLERS: Final = 16
LEGEND: Final = {
    "graphjobs over HTTP": "the route of `graphjobs serve`: token, request id, store, JSON; a process of its own",
    "bare FastAPI": "a route of the same server that only answers, with as many bytes",
}
_OURS, _BARE = LEGEND
_TENANT: Final = "web"
_SECONDS: Final = 30
_BODY: Final = b'{"sbomId":"s","sbomVersionId":"v","sbomDigest":"sha256:' + b"a" * 64 + b'"}'


async def web(bench: Bench) -> list[Figure]:
    """Times `GET /graphs/jobs/{id}` and `POST /graphs/build` at 16 clients, each on a connection that it keeps."""
    jobs = mixed_jobs(_TENANT, 1_000)
    await store(bench.url, jobs)
    figures: list[Figure] = []
    async with _serving(bench.url, jobs[0].to_json()) as (port, token):
        wires = [await _Wire.open(port) for _ in range(CALLERS)]
        heads = {"Authorization": f"Bearer {token}"}
        gets = [_request("GET", f"/graphs/jobs/{job.id}", heads) for job in jobs]
        operations = {
            "GET /graphs/jobs/{id}": (gets, [_request("GET", "/bare", heads)]),
            "POST /graphs/build": (
                [_request("POST", "/graphs/build", heads, _BODY)],
                [_request("POST", "/bare", heads, _BODY)],
            ),
        }
        for operation, (ours, bare) in operations.items():
            bench.say(f"{operation}, {CALLERS} clients")
            entries = [Entry(_OURS, _prepared(wires, ours)), Entry(_BARE, _prepared(wires, bare))]
            times = await paired(entries, bench.pace, bench.order)
            ratios = (ratio(times, _OURS, _BARE),)
            figures += [
                Figure.of(times, name, operation=operation, callers=CALLERS, ratios=ratios if name == _OURS else ())
                for name in (_OURS, _BARE)
            ]
        for wire in wires:
            wire.close()
    return figures


class _Wire:
    """One connection that is kept: an HTTP client of a few lines, so that the client is not what is measured."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "_Wire":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def call(self, request: bytes) -> bool:
        """Sends a request, reads the whole answer, and tells whether it is a good one."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await self._reader.readexactly(length)
        return head.startswith(b"HTTP/1.1 20")

    def close(self) -> None:
        self._writer.close()


def _prepared(wires: list[_Wire], requests: list[bytes]) -> Callable[[int], list[list[Call]]]:
    def calls(each: int) -> list[list[Call]]:
        return [
            [partial(wire.call, requests[(each * n + turn) % len(requests)]) for turn in range(each)]
            for n, wire in enumerate(wires)
        ]

    return calls


def _request(method: str, path: str, heads: dict[str, str], body: bytes = b"") -> bytes:
    told = {"Host": "bench", **heads}
    if body:
        told |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def _serving(url: str, answer: str) -> AsyncIterator[tuple[int, str]]:
    """Runs the server as a process of its own; gives its port and a token."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        token = add_token(tokens, tenant_id=_TENANT, scopes=("graph:read", "graph:write"), name="bench")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.web_server", str(tokens)),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "GRAPHJOBS_DATABASE_URL": url, "BARE_ANSWER": answer},
        )
        try:
            if process.stdout is None:
                raise BenchmarkError("the server has no output")
            async with asyncio.timeout(_SECONDS):
                port = int(await process.stdout.readline())
            yield port, token
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(_SECONDS):
                await process.wait()
