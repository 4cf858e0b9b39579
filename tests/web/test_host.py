"""The routes in an application of a host: lifespan, authentication, error handlers, and another store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

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
from graphjobs.web.tokens import SCOPES
from tests.builders import AT
from tests.web.memory import MemoryGraphJobStore
from tests.web.problem_assertions import problem
from tests.web.requests import build_request, policy_request


async def _by_header(request: Request) -> Caller:
    """Authenticate by a header, in place of the token file."""
    user = request.headers.get("x-user")
    if user is None:
        raise HTTPException(401, "log in first")
    return Caller(f"tenant of {user}", frozenset(SCOPES) if user != "guest" else frozenset({"graph:read"}), user)


def _host(**options: Any) -> FastAPI:
    """Build an application with the routes of graph jobs, which authenticates by a header."""
    app = FastAPI(**options)
    app.include_router(graph_routes)
    app.dependency_overrides[authenticated] = _by_header
    return app


def _client(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers)


async def test_a_host_overrides_authentication_by_one_dependency(storage: Storage) -> None:
    """It selects tenant, scopes and actor; its HTTPException is a problem document, too."""
    app = FastAPI()
    app.include_router(graph_routes, prefix="/scheduler")
    use_storage(app, storage)
    app.dependency_overrides[authenticated] = _by_header
    async with _client(app, **{"x-user": "ada"}) as ada, _client(app, **{"x-user": "guest"}) as guest:
        job = await ada.post("/scheduler/graphs/build", json=build_request())
        events = await ada.get(f"{job.headers['location']}/events")
        refused = [await guest.post("/scheduler/graphs/build", json=build_request())]
        async with _client(app) as anonymous:
            refused.append(await anonymous.post("/scheduler/graphs/build", content=b"{"))
    assert (202, "tenant of ada") == (job.status_code, job.json()["tenantId"])
    assert events.json()["events"][0]["payload"]["actor"].startswith("ada request ")
    assert [403, 401] == [response.status_code for response in refused]
    assert {"application/problem+json"} == {response.headers["content-type"] for response in refused}


async def test_the_handlers_and_routes_of_a_host_are_unchanged(storage: Storage) -> None:
    """The routes of graphjobs answer their own errors."""
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


async def test_the_storage_is_open_during_the_lifespan_of_the_application(graphjobs_settings: Settings) -> None:
    """It opens before the lifespan of the host and closes after it; routes of the host get the store by Depends."""
    steps: list[str] = []
    observed: list[AnyJob] = []

    @asynccontextmanager
    async def own_lifespan(started: FastAPI) -> AsyncIterator[dict[str, str]]:
        steps.append(type(started.state.graphjobs_store).__name__)
        yield {"own": "state"}
        await started.state.graphjobs_store.get_jobs("acme")
        steps.append("ended before the storage")

    async def observer(job: AnyJob) -> None:
        observed.append(job)

    app = _host(lifespan=own_lifespan)

    @app.get("/how-many")
    async def how_many(store: Annotated[GraphJobStore, Depends(graph_job_store)], request: Request) -> list[str]:
        return [str(await store.count("tenant of ada")), request.state.own]

    add_scheduler_postgres_storage(app, graphjobs_settings, observers=[observer])
    async with app.router.lifespan_context(app), _client(app, **{"x-user": "ada"}) as ada:
        job_id = (await ada.post("/graphs/build", json=build_request())).json()["id"]
        store: GraphJobStore = app.state.graphjobs_store
        queued = await store.get_build_job("tenant of ada", job_id)
        assert queued is not None
        await store.update(queued.start(at=AT), expected=GraphJobStatus.QUEUED)
        hook = {"jobId": job_id, "status": "completed", "graphSnapshotId": "g"}
        assert 200 == (await ada.post("/graphs/hooks/completed", json=hook)).status_code
        assert (await store.count("tenant of ada")).value == 1
    assert ["PostgresGraphJobStore", "ended before the storage"] == steps
    assert [job_id] == [str(job.id) for job in observed]


async def test_an_application_without_a_store_raises_an_error_with_the_solution() -> None:
    """If it was started without its lifespan, or no store was set."""
    app = _host()
    async with _client(app, **{"x-user": "ada"}) as ada:
        assert 503 == (await ada.get("/graphs/jobs")).status_code
    with pytest.raises(ConfigurationError, match="add_scheduler_postgres_storage"):
        await graph_job_store(Request({"type": "http", "app": app}))


@pytest.mark.parametrize("kind", ["postgres", "another"])
async def test_one_line_switches_the_store(storage: Storage, kind: str, tenant: str) -> None:
    """The rollback of the plan: the responses are the same."""
    app = _host()
    use_graph_job_store(app, storage.graph_jobs if kind == "postgres" else MemoryGraphJobStore())
    async with _client(app, **{"x-user": tenant}) as client:
        key = {"idempotency-key": "k"}
        first, repeated = [await client.post("/graphs/build", json=build_request(), headers=key) for _ in range(2)]
        other = await client.post("/graphs/build", json=build_request(sbomId="other"), headers=key)
        location = first.headers["location"]
        canceled = await client.post(f"{location}/cancel")
        hook = {"jobId": first.json()["id"], "status": "completed", "graphSnapshotId": "g"}
        late = await client.post("/graphs/hooks/completed", json=hook)
        events = await client.get(f"{location}/events")
        page = await client.get("/graphs/jobs")
        lag = await client.get("/graphs/overlays/lag")
    assert (202, first.json()) == (repeated.status_code, repeated.json())
    assert (422, 200, 200) == (other.status_code, canceled.status_code, lag.status_code)
    assert (200, canceled.json()) == (late.status_code, late.json())
    assert ["queued", "canceled"] == [event["payload"]["to"] for event in events.json()["events"]]
    assert [canceled.json()] == page.json()["jobs"]


async def test_a_store_without_a_repository_serves_graph_jobs_only(storage: Storage, tenant: str) -> None:
    """Routes of policy runs answer 503 after authentication; one line sets the repository."""
    app = _host()
    app.include_router(policy_routes, prefix="/scheduler")
    use_graph_job_store(app, storage.graph_jobs)
    async with _client(app, **{"x-user": tenant}) as client, _client(app) as anonymous:
        assert 200 == (await client.get("/graphs/jobs")).status_code
        assert 401 == (await anonymous.get("/scheduler/policy/runs")).status_code
        for response in (
            await client.get("/scheduler/policy/runs"),
            await client.post("/scheduler/policy/runs", json=policy_request()),
        ):
            assert "not configured" in problem(response, 503)["detail"]
        with pytest.raises(ConfigurationError, match=r"use_policy_runs\(app, repository\)"):
            await policy_run_repository(Request({"type": "http", "app": app}))
        use_policy_runs(app, storage.policy_runs)
        accepted = await client.post("/scheduler/policy/runs", json=policy_request(runId="a/b"))
        read = await client.get(accepted.headers["location"])
        simulated = await client.post("/scheduler/policy/simulations", json={"policyId": "p", "runId": "c d"})
        canceled = await client.post(f"{simulated.headers['location']}/cancel")
        retried = await client.post(f"{simulated.headers['location']}/retry", json={"runId": "e/f"})
    assert "/scheduler/policy/runs/a%2Fb" == accepted.headers["location"]
    assert (200, accepted.json(), tenant) == (read.status_code, read.json(), accepted.json()["requestedBy"])
    assert (200, "/scheduler/policy/runs/e%2Ff") == (canceled.status_code, retried.headers["location"])
