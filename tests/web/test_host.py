"""A host's own application: its lifespan, its authentication, its errors, and another store by one line."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse

from graphjobs import ConfigurationError, GraphJobStatus
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from graphjobs.web import (
    Caller,
    add_scheduler_postgres_storage,
    authenticated,
    graph_job_store,
    graph_routes,
    policy_routes,
    policy_run_repository,
    use_graph_job_store,
    use_policy_runs,
    use_storage,
)
from tests.builders import AT
from tests.web.memory import MemoryGraphJobStore
from tests.web.problem_assertions import problem
from tests.web.requests import build_request, policy_request

_WRITER = frozenset({"graph:read", "graph:write", "policy:read", "policy:run"})


async def _by_header(request: Request) -> Caller:
    """The host's own authentication."""
    user = request.headers.get("x-user")
    if user is None:
        raise HTTPException(401, "who are you?")
    return Caller(f"tenant of {user}", _WRITER if user != "guest" else frozenset({"graph:read"}), user)


def _client(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers)


async def test_a_host_brings_its_own_authentication_by_one_dependency(storage: Storage) -> None:
    """Tenant, scopes and actor are what it says; its refusal is a problem document, too."""
    app = FastAPI()
    app.include_router(graph_routes, prefix="/scheduler")
    use_storage(app, storage)
    app.dependency_overrides[authenticated] = _by_header
    async with _client(app, **{"x-user": "ada"}) as ada, _client(app, **{"x-user": "guest"}) as guest:
        job = await ada.post("/scheduler/graphs/build", json=build_request())
        log = await ada.get(f"{job.headers['location']}/events")
        refused = [await guest.post("/scheduler/graphs/build", json=build_request())]
        async with _client(app) as nobody:
            refused.append(await nobody.post("/scheduler/graphs/build", content=b"{"))
    assert (202, "tenant of ada") == (job.status_code, job.json()["tenantId"])
    assert log.json()["events"][0]["payload"]["actor"].startswith("ada request ")
    assert [403, 401] == [answer.status_code for answer in refused]
    assert {"application/problem+json"} == {answer.headers["content-type"] for answer in refused}


async def test_a_hosts_own_handlers_and_routes_stay_its_own(storage: Storage) -> None:
    """Our errors are answered by our routes; the application's handlers are left alone."""
    app = FastAPI()

    @app.exception_handler(HTTPException)
    async def own(_request: Request, error: HTTPException) -> PlainTextResponse:
        return PlainTextResponse(f"own: {error.detail}", error.status_code)

    @app.get("/own")
    async def own_route() -> None:
        raise HTTPException(418)

    app.include_router(graph_routes)
    use_storage(app, storage)
    async with _client(app) as client:
        ours, theirs = await client.get("/graphs/jobs"), await client.get("/own")
    assert (401, "application/problem+json") == (ours.status_code, ours.headers["content-type"])
    assert (418, "own: I'm a Teapot") == (theirs.status_code, theirs.text)


async def test_the_storage_lives_as_long_as_the_application(graphjobs_settings: Settings) -> None:
    """Opened before the host's own lifespan and closed after it; the host's routes get the store by Depends, too."""
    seen: list[str] = []
    heard: list[AnyJob] = []

    @asynccontextmanager
    async def own_lifespan(started: FastAPI) -> AsyncIterator[dict[str, str]]:
        seen.append(type(started.state.graphjobs_store).__name__)
        yield {"own": "state"}
        await started.state.graphjobs_store.get_jobs("acme")
        seen.append("ended before the storage")

    async def observer(job: AnyJob) -> None:
        heard.append(job)

    app = FastAPI(lifespan=own_lifespan)
    app.include_router(graph_routes)
    app.dependency_overrides[authenticated] = _by_header

    @app.get("/how-many")
    async def how_many(store: Annotated[GraphJobStore, Depends(graph_job_store)], request: Request) -> list[str]:
        return [str(await store.count("tenant of ada")), request.state.own]

    add_scheduler_postgres_storage(app, graphjobs_settings, observers=[observer])
    async with app.router.lifespan_context(app), _client(app, **{"x-user": "ada"}) as ada:
        job = (await ada.post("/graphs/build", json=build_request())).json()
        store: GraphJobStore = app.state.graphjobs_store
        queued = await store.get_build_job("tenant of ada", job["id"])
        assert queued is not None
        await store.update(queued.start(at=AT), expected=GraphJobStatus.QUEUED)
        hook = {"jobId": job["id"], "status": "completed", "graphSnapshotId": "g"}
        ended = await ada.post("/graphs/hooks/completed", json=hook)
        assert 200 == ended.status_code
        assert (await store.count("tenant of ada")).value == 1
    assert ["PostgresGraphJobStore", "ended before the storage"] == seen
    assert [job["id"]] == [str(one.id) for one in heard]


async def test_an_application_without_a_store_says_what_to_do() -> None:
    """Not started with its lifespan, or never given one."""
    app = FastAPI()
    app.include_router(graph_routes)
    app.dependency_overrides[authenticated] = _by_header
    async with _client(app, **{"x-user": "ada"}) as ada:
        assert 503 == (await ada.get("/graphs/jobs")).status_code
    with pytest.raises(ConfigurationError, match="add_scheduler_postgres_storage"):
        await graph_job_store(Request({"type": "http", "app": app}))


@pytest.mark.parametrize("kind", ["postgres", "another"])
async def test_the_routes_run_on_another_store_by_one_line(storage: Storage, kind: str, tenant: str) -> None:
    """The plan's rollback: nothing else of the application changes, nor what it answers."""
    app = FastAPI()
    app.include_router(graph_routes)
    app.dependency_overrides[authenticated] = _by_header
    use_graph_job_store(app, storage.graph_jobs if kind == "postgres" else MemoryGraphJobStore())
    async with _client(app, **{"x-user": tenant}) as client:
        key = {"idempotency-key": "k"}
        first, again = [await client.post("/graphs/build", json=build_request(), headers=key) for _ in range(2)]
        other = await client.post("/graphs/build", json=build_request(sbomId="other"), headers=key)
        where = first.headers["location"]
        canceled = await client.post(f"{where}/cancel")
        hook = {"jobId": first.json()["id"], "status": "completed", "graphSnapshotId": "g"}
        late = await client.post("/graphs/hooks/completed", json=hook)
        log = await client.get(f"{where}/events")
        page = await client.get("/graphs/jobs")
        lag = await client.get("/graphs/overlays/lag")
    assert (202, first.json()) == (again.status_code, again.json())
    assert (422, 200, 200) == (other.status_code, canceled.status_code, lag.status_code)
    assert (200, canceled.json()) == (late.status_code, late.json())
    assert ["queued", "canceled"] == [event["payload"]["to"] for event in log.json()["events"]]
    assert [canceled.json()] == page.json()["jobs"]


async def test_a_store_alone_brings_no_policy_runs(storage: Storage, tenant: str) -> None:
    """Their routes say so, after they have asked who calls; graph jobs are served, and runs are by one line."""
    app = FastAPI()
    app.include_router(graph_routes)
    app.include_router(policy_routes, prefix="/scheduler")
    app.dependency_overrides[authenticated] = _by_header
    use_graph_job_store(app, storage.graph_jobs)
    async with _client(app, **{"x-user": tenant}) as client, _client(app) as nobody:
        assert 200 == (await client.get("/graphs/jobs")).status_code
        assert 401 == (await nobody.get("/scheduler/policy/runs")).status_code
        for answer in (
            await client.get("/scheduler/policy/runs"),
            await client.post("/scheduler/policy/runs", json=policy_request()),
        ):
            assert "not set up" in problem(answer, 503)["detail"]
        with pytest.raises(ConfigurationError, match=r"use_policy_runs\(app, repository\)"):
            await policy_run_repository(Request({"type": "http", "app": app}))
        use_policy_runs(app, storage.policy_runs)
        asked = await client.post("/scheduler/policy/runs", json=policy_request(runId="a/b"))
        read = await client.get(asked.headers["location"])
        simulated = await client.post("/scheduler/policy/simulations", json={"policyId": "p", "runId": "c d"})
        canceled = await client.post(f"{simulated.headers['location']}/cancel")
        retried = await client.post(f"{simulated.headers['location']}/retry", json={"runId": "e/f"})
    assert "/scheduler/policy/runs/a%2Fb" == asked.headers["location"]
    assert (200, asked.json(), tenant) == (read.status_code, read.json(), asked.json()["requestedBy"])
    assert (200, "/scheduler/policy/runs/e%2Ff") == (canceled.status_code, retried.headers["location"])
