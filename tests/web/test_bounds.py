"""What one request may cost the others: invalid, large and many bodies, and large responses."""

import asyncio
import gc
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from graphjobs.storage import Storage
from graphjobs.web import request_bodies, request_limit
from tests.builders import policy_run
from tests.web.conftest import Client
from tests.web.problem_assertions import problem
from tests.web.requests import JSON, build_request, overlay_request, policy_request

_MANY = 60_000


def _compact(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/policy/runs", policy_request(inputs={"sbomSet": [0] * 500_000}), "inputs.sbomSet"),
        ("/policy/runs", policy_request(inputs={"environment": {"a": [[]] * 300_000}}), ""),
        ("/policy/runs", policy_request(inputs={"environment": {"a": [[[]] * 30_000] * 8}}), ""),
        ("/policy/runs", policy_request(inputs={f"{n}": 0 for n in range(_MANY)}), ""),
        ("/policy/runs", policy_request(metadata={f"{n}": 0 for n in range(_MANY)}), "metadata"),
        ("/policy/runs", policy_request(inputs={"environment": {"a": [[]] * 38_000}}), "inputs.environment"),
        ("/graphs/build", build_request(x=[{}] * 300_000), ""),
        ("/graphs/build", build_request(x="[" * 900_000), "x"),
        ("/graphs/overlays", overlay_request(subjects=[0] * 500_000), "subjects"),
        ("/graphs/build", build_request(metadata={f"{n}": "" for n in range(_MANY)}), "metadata"),
        ("/graphs/build", build_request(**{f"{n}": 0 for n in range(_MANY)}), ""),
        ("/graphs/build", build_request(**{f"{n}": 0 for n in range(900)}), "0"),
    ],
)
async def test_a_large_invalid_body_gets_a_small_answer(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], field: str
) -> None:
    """The collection is refused by its size, and at most 100 problems are listed."""
    content = _compact(body)
    assert len(content) <= request_bodies.BODY_BYTES_MAX
    response = await client.post(path, content=content, headers=JSON)
    errors = problem(response, 422)["errors"]
    assert field == errors[0]["field"]
    assert (len(errors) <= 100, len(response.content) < 20_000) == (True, True)


async def test_many_invalid_parameters_get_a_small_answer(client: httpx.AsyncClient) -> None:
    document = problem(await client.get("/graphs/jobs", params={f"{n}": "0" for n in range(500)}), 422)
    assert (100, "the request is invalid: see errors (and 400 more)") == (len(document["errors"]), document["detail"])


async def test_large_bodies_are_validated_off_the_event_loop(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small requests are answered meanwhile. Large ones wait for a thread; one that is cancelled takes none."""
    threads = ThreadPoolExecutor(1)
    monkeypatch.setattr(request_bodies, "_threads", threads)
    free = threading.Event()
    threads.submit(free.wait)
    content = _compact(build_request()) + b" " * 100_000
    try:
        large, cancelled = (
            asyncio.create_task(client.post("/graphs/build", content=content, headers=JSON)) for _ in range(2)
        )
        async with asyncio.timeout(30):
            while threads._work_queue.qsize() < 2:
                await asyncio.sleep(0.01)
        assert 200 == (await client.get("/healthz")).status_code
        assert 202 == (await client.post("/graphs/build", json=build_request())).status_code
        cancelled.cancel()
        await asyncio.wait([cancelled], timeout=30)
        assert (True, False) == (cancelled.cancelled(), large.done())
    finally:
        free.set()
    assert 202 == (await large).status_code
    assert 2 == len((await client.get("/graphs/jobs")).json()["jobs"])
    threads.shutdown()


@pytest.mark.parametrize("ends", [False, True])
async def test_large_bodies_wait_for_a_place(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """A body that finds none within the time of a body is 503."""
    monkeypatch.setattr(request_limit, "LARGE_BODIES_MAX", 1)
    monkeypatch.setattr(request_bodies, "_READ_SECONDS", 30 if ends else 0.2)
    places = request_limit.places_of({"app": app}).bodies
    others = AsyncExitStack()
    await others.enter_async_context(places.place("other"))
    content = _compact(build_request()) + b" " * 100_000
    waiting = asyncio.create_task(client.post("/graphs/build", content=content, headers=JSON))
    await asyncio.sleep(0)
    assert 202 == (await client.post("/graphs/build", json=build_request())).status_code
    if ends:
        await others.aclose()
        assert 202 == (await waiting).status_code
    else:
        assert "urn:graphjobs:problem:overloaded" == problem(await waiting, 503)["type"]
        await others.aclose()
    async with asyncio.timeout(20), places.place("other"):
        pass


async def test_one_tenant_never_takes_all_places() -> None:
    """It waits for its own half; another tenant does not wait."""
    places = request_limit.TenantPlaces(4)
    async with AsyncExitStack() as held:
        for _ in range(2):
            await held.enter_async_context(places.place("one"))
        waiting = asyncio.create_task(held.enter_async_context(places.place("one")))
        async with asyncio.timeout(20), places.place("two"), places.place("two"):
            assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
    async with asyncio.timeout(20), places.place("one"), places.place("one"):
        pass


async def test_one_tenant_has_at_most_half_of_the_requests(
    app: FastAPI, client: httpx.AsyncClient, client_of: Client, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More are 503, of this tenant only; a request counts until it ends, however it ends."""
    monkeypatch.setattr(request_limit, "REQUESTS_MAX", 4)
    finished = asyncio.Event()

    async def slow() -> Any:
        yield b"{"
        await finished.wait()

    held = [asyncio.create_task(client.post("/graphs/build", content=slow(), headers=JSON)) for _ in range(2)]
    running = request_limit.places_of({"app": app}).running
    async with asyncio.timeout(20):
        while running != {tenant: 2}:
            await asyncio.sleep(0.01)
    refused = problem(await client.get("/graphs/jobs"), 503)
    assert "urn:graphjobs:problem:overloaded" == refused["type"]
    assert 200 == (await client_of("other").get("/graphs/jobs")).status_code
    held[0].cancel()
    finished.set()
    assert 422 == (await held[1]).status_code
    await asyncio.wait(held)
    assert {} == running


async def test_a_large_page_is_read_and_written_in_slices(
    app: FastAPI, client: httpx.AsyncClient, storage: Storage, tenant: str
) -> None:
    """Other tasks run all the time. Its bytes count until they are sent; with too many, a large response is 503.

    Python's garbage collector is off meanwhile: each of its full collections stops the process as a whole.
    """
    environment: dict[str, Any] = {"a": [[] for _ in range(15_000)]}
    for _ in range(30):
        await storage.policy_runs.insert(policy_run(tenant, inputs={"environment": environment}))
    blocked: list[float] = []

    async def measure() -> None:
        """Collect the processor time between two turns of the event loop."""
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            blocked.append(time.thread_time() - last)
            last = time.thread_time()

    gc.disable()
    try:
        measuring = asyncio.create_task(measure())
        response = await client.get("/policy/runs")
        measuring.cancel()
    finally:
        gc.enable()
    worked = sum(seconds for seconds in blocked if seconds > 0.002)
    assert max(blocked) < worked / 4
    places = request_limit.places_of({"app": app})
    assert (200, 30, {}) == (response.status_code, len(response.json()["runs"]), places.unsent)
    maximum, share = request_limit.UNSENT_BYTES_MAX, request_limit.UNSENT_BYTES_MAX // 2
    places.unsent["other"] = share
    assert 200 == (await client.get("/policy/runs")).status_code
    for unsent in ({tenant: share - 300_000}, {"other": maximum - 300_000}):
        places.unsent.clear()
        places.unsent.update(unsent)
        problem(await client.get("/policy/runs"), 503)
    assert 200 == (await client.get("/policy/runs", params={"limit": 1})).status_code
