"""HTTP itself: methods, headers, paths and prefixes."""

import json

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from graphjobs.storage import Storage
from graphjobs.web import authenticated, graph_routes, policy_routes, use_storage
from tests.web.domains import GRAPHS, POLICIES, ROUTES
from tests.web.problem_assertions import invalid_fields, problem
from tests.web.requests import JSON, acme, build_request, policy_request

_LISTS = sorted({route.template for route in ROUTES if route.method == "GET" and "{" not in route.template})


@pytest.mark.parametrize("path", [*_LISTS, "/healthz", "/readyz", "/graphs/jobs/{}", "/policy/runs/{}"])
async def test_head_is_get_without_a_body(client: httpx.AsyncClient, storage: Storage, tenant: str, path: str) -> None:
    """The headers are the same."""
    domain = POLICIES if path.startswith("/policy") else GRAPHS
    path = path.format((await domain.insert(storage, tenant))[0])
    head, get = await client.head(path), await client.get(path)
    assert (200, b"") == (head.status_code, head.content)
    assert {**get.headers, "x-request-id": ""} == {**head.headers, "x-request-id": ""}


@pytest.mark.parametrize("path", ["/graphs/build", "/policy/simulations"])
async def test_head_of_a_post_is_refused(client: httpx.AsyncClient, path: str) -> None:
    """There is no GET either."""
    assert (405, "POST") == ((answer := await client.head(path)).status_code, answer.headers["allow"])


async def test_two_authorization_headers_are_refused(client: httpx.AsyncClient) -> None:
    """A proxy could have checked the other one."""
    value = client.headers["authorization"]
    del client.headers["authorization"]
    for values in ((value, "Bearer x"), ("Bearer x", value), (value, value), ("Basic dTpw", value)):
        response = await client.get("/graphs/jobs", headers=[("authorization", value) for value in values])
        problem(response, 400)


@pytest.mark.parametrize("name", ["Content-Type", "Content-Encoding", "Host", "Idempotency-Key"])
async def test_a_header_twice_is_refused(client: httpx.AsyncClient, name: str) -> None:
    headers = [("content-type", "application/json"), (name, "a"), (name, "b")]
    response = await client.post("/graphs/build", json=build_request(), headers=headers)
    assert name in problem(response, 400)["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json; charset=UTF-8"}, 202),
        ({"content-type": 'APPLICATION/JSON;charset="utf-8"'}, 202),
        ({"content-encoding": "identity"}, 202),
        ({"content-type": "application/json; charset=iso-8859-1"}, 415),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-type": "application/json, text/plain"}, 415),
        ({"content-type": "\xff"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "identity, br"}, 415),
        ({"transfer-encoding": "gzip, chunked"}, 415),
    ],
)
async def test_a_body_is_json_in_utf8_as_it_is(client: httpx.AsyncClient, headers: dict[str, str], status: int) -> None:
    """A body that says to be something else is not read, even if it could be."""
    content = json.dumps(build_request())
    headers = {"content-type": "application/json"} | headers
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    assert status == (await client.post("/graphs/build", content=content, headers=encoded)).status_code


@pytest.mark.parametrize("more", ['"sbomId":"b"', '"sbom\\u0049d":"b"', '"metadata":{"a":"1","a":"1"}'])
async def test_a_key_twice_is_refused(client: httpx.AsyncClient, more: str) -> None:
    """Other readers, such as one that logs requests, keep the first."""
    content = json.dumps(build_request())[:-1] + "," + more + "}"
    assert [""] == invalid_fields(await client.post("/graphs/build", content=content, headers=JSON))


async def test_a_client_that_hangs_up_is_no_failure(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has no traceback for it."""
    received: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return received.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", client.headers["authorization"].encode())]
    scope = {"type": "http", "method": "POST", "path": "/graphs/build", "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    assert ([], []) == (received, [record for record in caplog.records if record.levelname == "ERROR"])


@pytest.mark.parametrize("path", ["/graphs/jobs", "/graphs/jobs/x", "/healthz", "/none", "/graphs/build"])
async def test_each_response_has_the_headers_of_an_api(client: httpx.AsyncClient, path: str) -> None:
    """Nothing stores it, guesses its type, or frames it."""
    headers = (await client.get(path)).headers
    assert ("no-store", "nosniff") == (headers["cache-control"], headers["x-content-type-options"])
    assert "DENY" == headers["x-frame-options"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/graphs/build/", 404),
        ("/graphs/build%0A", 404),
        ("/policy/runs%0A", 404),
        ("/policy/runs/", 405),
        ("/graphs/jobs/x/cancel%0A", 404),
    ],
)
async def test_another_spelling_of_a_path_is_no_route(client: httpx.AsyncClient, path: str, status: int) -> None:
    """It is neither redirected to a host of the caller's choice, nor run."""
    response = await client.post(path, json=build_request(), headers={"host": "evil.example"})
    problem(response, status)
    assert "location" not in response.headers


@pytest.mark.parametrize("strips", [True, False], ids=["a proxy strips the prefix", "a proxy keeps the prefix"])
async def test_a_location_has_the_root_path(storage: Storage, strips: bool) -> None:
    """It is a path as the client sees it."""
    app = FastAPI()
    app.include_router(graph_routes, prefix="/v1")
    app.include_router(policy_routes)
    use_storage(app, storage)
    sent = "" if strips else "/sched"
    app.dependency_overrides[authenticated] = acme
    transport = httpx.ASGITransport(app, root_path="/sched")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path, body, expected in (
            ("/v1/graphs/build", build_request(), "/sched/v1/graphs/jobs/"),
            ("/policy/runs", policy_request(runId="a/b"), "/sched/policy/runs/a%2Fb"),
            ("/policy/simulations", {"policyId": "p", "runId": "c"}, "/sched/policy/runs/c"),
        ):
            response = await client.post(sent + path, json=body)
            assert 202 == response.status_code
            assert response.headers["location"].startswith(expected)
            location = response.headers["location"].removeprefix("/sched" if strips else "")
            assert 200 == (await client.get(location)).status_code
