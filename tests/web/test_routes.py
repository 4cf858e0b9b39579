"""The rules that hold for the routes of both domains, over the real storage."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from typing_extensions import override

from graphjobs import DatabaseUnavailable, GraphJobsError, OutcomeUnknown, SchemaOutOfDate, open_storage
from graphjobs.database.schema import REVISION
from graphjobs.policy_runs.repository import PostgresPolicyRunRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from graphjobs.web import create_app, request_bodies, use_graph_job_store, use_policy_runs, use_storage
from graphjobs.web.tokens import SCOPES
from tests.migrations.cli_tools import ask
from tests.web.conftest import Client
from tests.web.domains import GRAPHS, POLICIES, ROUTES, Domain, Route
from tests.web.memory import MemoryGraphJobStore
from tests.web.problem_assertions import invalid_fields, problem
from tests.web.requests import JSON, MISSING_ID, acme_client, build_request, policy_request

_MIB = 1_048_576
_POSTS = [route for route in ROUTES if route.method == "POST"]
_MALFORMED_IDS = [
    Route(POLICIES, "GET", f"/policy/runs/{run_id}", requires_body=None) for run_id in ("x%0A", "x" * 257)
] + [Route(POLICIES, "POST", "/policy/runs/x%2Fcancel", requires_body=False)]


@pytest.fixture(params=[GRAPHS, POLICIES], ids=["graphs", "policies"])
def domain(request: pytest.FixtureRequest) -> Domain:
    """One of the two domains."""
    value: Domain = request.param
    return value


@pytest.mark.parametrize("route", [*ROUTES, *_MALFORMED_IDS], ids=str)
async def test_a_request_without_token_or_scope_is_refused_first(app: FastAPI, client_of: Client, route: Route) -> None:
    """It is 401 also with a malformed body, query or path, and 403 with all other scopes."""
    path, needed = route.path(MISSING_ID), route.scope
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as anonymous:
        for headers in ({}, {"authorization": "Bearer gj_wrong"}, {"authorization": "Basic dTpw"}):
            for content in (b"", b"{", b"x" * (_MIB + 1)):
                refused = await anonymous.request(route.method, f"{path}?limit=zero", content=content, headers=headers)
                problem(refused, 401)
                assert "Bearer" == refused.headers["www-authenticate"]
    refused = await client_of("acme", *set(SCOPES) - {needed}).request(route.method, path, content=b"{")
    assert f"the caller needs the scope {needed}" == problem(refused, 403)["detail"]


@pytest.mark.parametrize("path", sorted({route.template for route in ROUTES}))
async def test_another_method_is_answered_with_all_methods_of_the_path(client: httpx.AsyncClient, path: str) -> None:
    """Each method may be a route of its own."""
    response = await client.delete(path.replace("{job_id}", MISSING_ID).replace("{run_id}", "x"))
    allowed = sorted(route.method for route in ROUTES if route.template == path)
    assert (405, ", ".join(allowed)) == (problem(response, 405)["status"], response.headers["allow"])


async def test_a_repeated_request_with_one_key_is_one(client: httpx.AsyncClient, domain: Domain) -> None:
    """Also for concurrent requests; the same key with another request is refused."""
    responses = await asyncio.gather(*(client.post(domain.create, **domain.keyed("once")) for _ in range(8)))
    other = await client.post(domain.create, **domain.keyed("once", correlationId="other"))
    assert {202} == {response.status_code for response in responses}
    assert 1 == len({response.text for response in responses})
    assert [responses[0].json()] == (await client.get(domain.list_path)).json()[domain.items]
    assert [domain.key] == invalid_fields(other)
    assert "urn:graphjobs:problem:idempotency-conflict" == other.json()["type"]


async def test_pages_continue_by_their_cursor(
    client: httpx.AsyncClient, storage: Storage, tenant: str, domain: Domain
) -> None:
    inserted = {(await domain.insert(storage, tenant))[0] for _ in range(7)}
    listed: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (
            await client.get(domain.list_path, params={"limit": "3", domain.filter[0]: domain.filter[1], **cursor})
        ).json()
        listed += [item[domain.id_field] for item in page[domain.items]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert (7, inserted) == (len(listed), set(listed))
    assert ["cursor"] == invalid_fields(await client.get(domain.list_path, params=cursor))


async def test_an_item_of_another_tenant_is_answered_like_a_missing_one(
    client: httpx.AsyncClient, client_of: Client, storage: Storage, tenant: str, domain: Domain
) -> None:
    """The documents of all routes differ only in the request id, and nothing changes."""
    item_id, _ = await domain.insert(storage, tenant)
    before = await client.get(f"{domain.list_path}/{item_id}")
    stranger = client_of(f"{tenant}-other")

    async def documents(item_id: str) -> list[dict[str, Any]]:
        responses = [
            await stranger.request(route.method, route.path(item_id), json=route.body(item_id))
            for route in ROUTES
            if route.domain is domain and ("{" in route.template or item_id in (route.body(item_id) or {}).values())
        ]
        return [{**problem(response, 404), "requestId": ""} for response in responses]

    assert await documents(MISSING_ID) == await documents(item_id)
    assert {f"there is no such {domain.noun}"} == {document["detail"] for document in await documents(item_id)}
    assert [] == (await stranger.get(domain.list_path)).json()[domain.items]
    assert before.json() == (await client.get(f"{domain.list_path}/{item_id}")).json()


@pytest.mark.parametrize(
    ("domain", "body", "expected"),
    [
        (GRAPHS, build_request(sbomDigest="sha256:short"), ["sbomDigest"]),
        (GRAPHS, {}, ["sbomId", "sbomVersionId", "sbomDigest"]),
        (GRAPHS, build_request(id=MISSING_ID), ["id"]),
        (GRAPHS, build_request(tenantId="acme"), ["tenantId"]),
        (GRAPHS, build_request(sbomId="x" * 257), ["sbomId"]),
        (GRAPHS, build_request(sbomId="\x00"), ["sbomId"]),
        (GRAPHS, build_request(metadata={"a": 1}), ["metadata.a"]),
        (GRAPHS, [], [""]),
        (POLICIES, {}, ["policyId", "mode"]),
        (POLICIES, policy_request(tenantId="acme"), ["tenantId"]),
        (POLICIES, policy_request(id=MISSING_ID), ["id"]),
        (POLICIES, policy_request(mode="slow"), ["mode"]),
        (POLICIES, policy_request(priority=2), ["priority"]),
        (POLICIES, policy_request(policyVersion=True), ["policyVersion"]),
        (POLICIES, policy_request(runId="a\nb"), ["runId"]),
        (POLICIES, policy_request(runId="x" * 257), ["runId"]),
        (POLICIES, policy_request(queuedAt=1), ["queuedAt"]),
        (POLICIES, policy_request(queuedAt="2026-01-01T00:00:00"), ["queuedAt"]),
        (POLICIES, policy_request(metadata={"a": 1}), ["metadata.a"]),
        (POLICIES, policy_request(inputs={"sbomSet": ["a", ""]}), ["inputs.sbomSet.1"]),
        (POLICIES, policy_request(inputs={"environment": []}), ["inputs.environment"]),
        (POLICIES, policy_request(inputs={"environment": {"a": 2**63}}), ["inputs.environment"]),
        (POLICIES, policy_request(inputs={"environment": {"a": "x" * 66_560}}), ["inputs.environment"]),
        (POLICIES, policy_request(mode="incremental"), [""]),
        (POLICIES, [], [""]),
    ],
)
async def test_an_invalid_body_is_refused_with_its_fields(
    client: httpx.AsyncClient, domain: Domain, body: Any, expected: list[str]
) -> None:
    assert expected == invalid_fields(await client.post(domain.create, json=body))
    assert [] == (await client.get(domain.list_path)).json()[domain.items]


@pytest.mark.parametrize("route", [route for route in _POSTS if route.requires_body is not None], ids=str)
async def test_a_malformed_body_is_refused(
    client: httpx.AsyncClient, storage: Storage, tenant: str, route: Route
) -> None:
    """It is 422 for malformed JSON, and 415 for another type; only an optional body may be empty, of any type."""
    path = route.path((await route.domain.insert(storage, tenant))[0])
    deep = (b"[" * 5_000, b'{"a":' * 5_000)
    for content in (b"{", b"\xff", b"null", b" ", b'{"a": "\\ud800"}', *deep, *[b""] * bool(route.requires_body)):
        assert [""] == invalid_fields(await client.post(path, content=content, headers=JSON))
    assert "nonsense" in invalid_fields(await client.post(path, json={"nonsense": 1}))
    text = {"content-type": "text/plain"}
    problem(await client.post(path, content=b"{}", headers=text), 415)
    empty = await client.post(path, content=b"", headers=text)
    assert {"cancel": 200, "retry": 409}.get(path.rpartition("/")[2], 415) == empty.status_code


@pytest.mark.parametrize("route", _POSTS, ids=str)
async def test_a_large_or_late_body_is_refused(
    client: httpx.AsyncClient, storage: Storage, tenant: str, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is 413 for too many bytes, with or without a length, and 408 after the timeout; nothing changes."""
    item_id, _ = await route.domain.insert(storage, tenant)

    async def large() -> Any:
        for _ in range(17):
            yield b" " * (_MIB // 16)

    async def late() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    for content in (b" " * (_MIB + 1), large()):
        problem(await client.post(route.path(item_id), content=content, headers=JSON), 413)
    monkeypatch.setattr(request_bodies, "_READ_SECONDS", 0.05)
    problem(await client.post(route.path(item_id), content=late(), headers=JSON), 408)
    assert ["queued"] == [
        item["status"] for item in (await client.get(route.domain.list_path)).json()[route.domain.items]
    ]


@pytest.mark.parametrize(
    ("domain", "params", "expected"),
    [
        *((domain, {"limit": limit}, ["limit"]) for domain in (GRAPHS, POLICIES) for limit in ("0", "1001")),
        *((domain, {"status": "pending"}, ["status.0"]) for domain in (GRAPHS, POLICIES)),
        *((domain, {"tenantId": "acme"}, ["tenantId"]) for domain in (GRAPHS, POLICIES)),
        *((domain, {"cursor": "bogus"}, ["cursor"]) for domain in (GRAPHS, POLICIES)),
        (GRAPHS, {"type": "2"}, ["type"]),
        (GRAPHS, {"createdFrom": "1764000000"}, ["createdFrom"]),
        (GRAPHS, {"createdFrom": "2026-01-01T00:00:00"}, ["createdFrom"]),
        (GRAPHS, {"correlationId": "c", "type": "build"}, [""]),  # no index supports this
        (GRAPHS, {"createdFrom": "2026-01-02T00:00:00Z", "createdTo": "2026-01-01T00:00:00Z"}, [""]),
        (POLICIES, {"status": ["queued", "dispatching"]}, ["status.1"]),
        (POLICIES, {"mode": "0"}, ["mode"]),
        (POLICIES, {"policyId": ""}, ["policyId"]),
        (POLICIES, {"queuedAfter": "1764000000"}, ["queuedAfter"]),
        (POLICIES, {"queuedAfter": "2026-01-01T00:00:00"}, ["queuedAfter"]),
    ],
)
async def test_an_invalid_query_is_refused_with_its_field(
    client: httpx.AsyncClient, domain: Domain, params: dict[str, Any], expected: list[str]
) -> None:
    """Stored names of statuses that are not public are invalid, too."""
    assert expected == invalid_fields(await client.get(domain.list_path, params=params))


async def test_an_unreadable_row_does_not_affect_other_rows(
    graphjobs_settings: Settings, graphjobs_database_url: str, domain: Domain
) -> None:
    """A page lists it beside the readable rows; a request for it alone is a 500 without its content."""
    async with open_storage(graphjobs_settings) as storage:
        (good_id, _), (bad_id, row_id) = [await domain.insert(storage, "acme") for _ in range(2)]
        ask(
            graphjobs_database_url,
            f"UPDATE scheduler.{domain.table} SET payload = '{{\"x\": 1}}' WHERE id = '{row_id}'",
        )
        app = create_app()
        use_storage(app, storage)
        async with acme_client(app) as client:
            page = (await client.get(domain.list_path)).json()
            path = f"{domain.list_path}/{bad_id}"
            responses = [await client.get(path), await client.post(f"{path}/cancel")]
    assert [good_id] == [item[domain.id_field] for item in page[domain.items]]
    assert [str(row_id)] == [row["id"] for row in page["unreadable"]]
    for response in responses:
        document = problem(response, 500)
        assert "urn:graphjobs:problem:corrupt-row" == document["type"]
        assert f"the {domain.noun} is stored but unreadable" in document["detail"]


async def test_an_unavailable_database_is_503_with_retry_after(
    graphjobs_settings: Settings, graphjobs_database_url: str, graphjobs_server_url: str
) -> None:
    """For each route, without the address of the database. The process is healthy, and ready again afterwards."""
    name = urlsplit(graphjobs_database_url).path.lstrip("/")
    async with open_storage(graphjobs_settings) as storage:
        app = create_app()
        use_storage(app, storage)
        async with acme_client(app) as client:
            before = await client.get("/readyz")
            ask(graphjobs_server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            ask(
                graphjobs_server_url,
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
            )
            responses = [
                await client.request(route.method, route.path(MISSING_ID), json=route.body(MISSING_ID))
                for route in ROUTES
            ]
            responses.append(await client.get("/readyz"))
            healthy = await client.get("/healthz")
            ask(graphjobs_server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            after = await client.get("/readyz")
    assert (200, 200, 200) == (before.status_code, healthy.status_code, after.status_code)
    assert REVISION == before.json()["revision"]
    for response in responses:
        assert name not in str(problem(response, 503))
        assert "1" == response.headers["retry-after"]


class _FailingStore(MemoryGraphJobStore):
    """A store that raises one error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    @override
    async def get_job(self, tenant_id: str, job_id: Any) -> Any:
        raise self._error


class _FailingRepository(PostgresPolicyRunRepository):
    """A repository that raises one error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @override
    async def get_by_run_id(self, tenant_id: str, run_id: str) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("error", "status", "kind", "detail"),
    [
        (OutcomeUnknown("lost"), 503, "outcome-unknown", "read the {noun}, or repeat the request with the same {key}"),
        (DatabaseUnavailable("away"), 503, "unavailable", "the database"),
        (SchemaOutOfDate(found=None, expected="x"), 503, "unavailable", "the database"),
        (GraphJobsError("the secret of the server"), 500, "internal", ""),
        (RuntimeError("the secret of the code"), 500, "internal", ""),
    ],
)
async def test_an_error_of_the_store_is_a_problem_without_secrets(
    domain: Domain, error: Exception, status: int, kind: str, detail: str
) -> None:
    """Only an error that a later request can avoid has Retry-After."""
    app = create_app()
    use_graph_job_store(app, _FailingStore(error))
    use_policy_runs(app, _FailingRepository(error))
    async with acme_client(app) as client:
        response = await client.get(f"{domain.list_path}/x")
    document = problem(response, status)
    assert f"urn:graphjobs:problem:{kind}" == document["type"]
    assert detail.format(noun=domain.noun, key=domain.key) in document["detail"]
    assert "secret" not in response.text
    assert (status == 503) == ("retry-after" in response.headers)
