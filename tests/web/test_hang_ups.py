"""Hundreds of clients that disconnect during a request: no connection stays busy or checked out."""

import asyncio
import random

import httpx
import pytest
from fastapi import Request, Response
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from graphjobs import GraphJobStatus, open_storage
from graphjobs.settings import Settings
from graphjobs.web import authenticated, create_app, use_storage
from tests.builders import AT, build_job
from tests.faults.backend_monitor import checked_out, watching, with_settings
from tests.web.requests import acme
from tests.web.server import serving

_CLIENTS = 300
_BODY = b'{"sbomId":"s","sbomVersionId":"v","sbomDigest":"sha256:' + b"a" * 64 + b'"}'


async def _pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Call the next application; the middleware class runs it in a task group of anyio, and may cancel it."""
    return await call_next(request)


def _requests(jobs: list[str]) -> list[bytes]:
    """Build requests that read, list, add and change jobs."""
    hooks = [b'{"jobId":"%s","status":"failed","error":"x"}' % job.encode() for job in jobs[:10]]
    posts = [("/graphs/build", _BODY), *(("/graphs/hooks/completed", hook) for hook in hooks)]
    posts += [(f"/graphs/jobs/{job}/cancel", b"") for job in jobs[10:]]
    gets = [
        "/graphs/jobs?limit=100",
        f"/graphs/jobs/{jobs[0]}",
        f"/graphs/jobs/{jobs[0]}/events",
        "/graphs/overlays/lag",
    ]
    requests = [_post(path, body) for path, body in posts] + [_post("/graphs/build", _BODY)] * 10
    return requests + [f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode() for path in gets] * 4


def _post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _disconnect(port: int, request: bytes, choose: random.Random) -> None:
    """Send a request or its beginning, and disconnect within 30 ms, without reading the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    del reader
    writer.write(request if choose.random() < 0.8 else request[: choose.randrange(len(request))])
    await writer.drain()
    await asyncio.sleep(choose.random() * 0.03)
    writer.transport.abort()


@pytest.mark.parametrize("cancelling", [False, True], ids=["alone", "behind a middleware that cancels"])
async def test_hundreds_of_disconnects_leave_no_connection_busy(graphjobs_settings: Settings, cancelling: bool) -> None:
    """Afterwards the service answers, each job has the events of its status, and no connection is checked out."""
    choose = random.Random(7)  # noqa: S311  # not a secret
    async with (
        watching(graphjobs_settings) as watch,
        open_storage(with_settings(graphjobs_settings, pool_size=4)) as storage,
    ):
        running = [(await storage.graph_jobs.add(build_job("acme"))).start(at=AT) for _ in range(20)]
        for job in running:
            await storage.graph_jobs.update(job, expected=GraphJobStatus.QUEUED)
        app = create_app()
        use_storage(app, storage)
        app.dependency_overrides[authenticated] = acme
        if cancelling:
            app.add_middleware(BaseHTTPMiddleware, dispatch=_pass_on)
        async with serving(app) as port:
            requests = _requests([str(job.id) for job in running])
            async with asyncio.timeout(60):
                for _ in range(_CLIENTS // 50):
                    await asyncio.gather(*(_disconnect(port, choose.choice(requests), choose) for _ in range(50)))
            await watch.until_settled()

            async def all_returned() -> bool:
                return (0, 0) == checked_out(storage)

            await watch.until(all_returned, "all connections returned", 10)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                assert 200 == (await client.get("/graphs/jobs")).status_code
        rows = await watch.connection.fetch(
            "SELECT j.status, count(e.id), max(e.status) FROM scheduler.graph_jobs j"
            " LEFT JOIN scheduler.graph_job_events e ON e.job_id = j.id GROUP BY j.id, j.status"
        )
    assert len(rows) > len(running) + 20
    expected = {0: (1, 0), 1: (2, 1), 3: (3, 3), 4: (3, 4)}
    assert [] == [tuple(row) for row in rows if expected[row[0]] != tuple(row)[1:]]
