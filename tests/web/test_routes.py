"""Each route and each of its status codes, over the real storage."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from typing_extensions import override

from graphjobs import (
    DatabaseUnavailable,
    GraphJobsError,
    GraphJobStatus,
    OutcomeUnknown,
    SchemaOutOfDate,
    open_storage,
)
from graphjobs.database.schema import REVISION
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from graphjobs.web import Caller, authenticated, create_app, request_bodies, use_graph_job_store, use_storage
from graphjobs.web.tokens import TokenFile
from tests.builders import AT, build_job, overlay_job
from tests.migrations.cli_tools import ask
from tests.web.conftest import Client
from tests.web.memory import MemoryGraphJobStore
from tests.web.problem_assertions import fields as fields_of
from tests.web.problem_assertions import problem
from tests.web.requests import build_request, overlay_request

_MIB = 1_048_576


async def test_a_build_is_asked_for_read_listed_and_logged(client: httpx.AsyncClient, tenant: str) -> None:
    """202 with where it is; the request's id reaches the log."""
    asked = await client.post("/graphs/build", json=build_request(), headers={"x-request-id": "r-1"})
    assert (202, "r-1") == (asked.status_code, asked.headers["x-request-id"])
    job = asked.json()
    read = await client.get(asked.headers["location"])
    page = await client.get("/graphs/jobs", params={"type": "build", "status": ["queued", "running"]})
    log = await client.get(f"/graphs/jobs/{job['id']}/events")

    assert (tenant, "queued") == (job["tenantId"], job["status"])
    assert (200, job) == (read.status_code, read.json())
    assert {"jobs": [job], "nextCursor": None, "unreadable": []} == page.json()
    (event,) = log.json()["events"]
    assert ("queued", "tester request r-1") == (event["payload"]["to"], event["payload"]["actor"])


async def test_an_overlay_is_asked_for_and_canceled_twice(client: httpx.AsyncClient) -> None:
    """The second cancel answers what the job is."""
    asked = await client.post("/graphs/overlays", json=overlay_request(subjects=["b", "a"]))
    where = asked.headers["location"]
    first, second = [await client.post(f"{where}/cancel") for _ in range(2)]
    assert (202, ["a", "b"]) == (asked.status_code, asked.json()["subjects"])
    assert (200, "canceled") == (first.status_code, first.json()["status"])
    assert (200, first.json()) == (second.status_code, second.json())


async def test_the_same_key_is_one_job_and_another_request_is_refused(client: httpx.AsyncClient) -> None:
    """At once, too."""
    key = {"idempotency-key": "k"}
    both = await asyncio.gather(*(client.post("/graphs/build", json=build_request(), headers=key) for _ in range(8)))
    other = await client.post("/graphs/build", json=build_request(sbomId="other"), headers=key)
    listed = await client.get("/graphs/jobs")
    assert {202} == {response.status_code for response in both}
    assert 1 == len({response.json()["id"] for response in both}) == len(listed.json()["jobs"])
    assert ["Idempotency-Key"] == fields_of(other)


async def test_a_hook_ends_a_running_job_and_may_come_again(
    client: httpx.AsyncClient, storage: Storage, tenant: str
) -> None:
    """A late one, even one that says otherwise, is answered with the job as it is."""
    job = await storage.graph_jobs.add(build_job(tenant))
    hook = {"jobId": str(job.id), "status": "completed", "graphSnapshotId": "graph-1"}
    early = await client.post("/graphs/hooks/completed", json=hook)
    await storage.graph_jobs.update(job.start(at=AT), expected=GraphJobStatus.QUEUED)
    stale = await client.post("/graphs/hooks/completed", json={**hook, "attempts": 2})
    done = await client.post("/graphs/hooks/completed", json={**hook, "attempts": 1})
    late = await client.post(
        "/graphs/hooks/completed", json={"jobId": str(job.id), "status": "failed", "error": "it broke\x07"}
    )
    canceled = await client.post(f"/graphs/jobs/{job.id}/cancel")

    assert "queued" == problem(early, 409)["jobStatus"]
    assert "running" == problem(stale, 409)["jobStatus"]
    assert (200, "completed", "graph-1") == (done.status_code, done.json()["status"], done.json()["graphSnapshotId"])
    assert (200, done.json()) == (late.status_code, late.json())
    assert "completed" == problem(canceled, 409)["jobStatus"]


async def test_pages_go_on_by_their_cursor(client: httpx.AsyncClient, storage: Storage, tenant: str) -> None:
    """Each job once; another query's cursor is refused."""
    jobs = await storage.graph_jobs.add_many([build_job(tenant, correlation_id="c") for _ in range(7)])
    found, cursor = [], None
    while True:
        params = {"limit": "3", "correlationId": "c"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/graphs/jobs", params=params)).json()
        found += [job["id"] for job in page["jobs"]]
        cursor = page["nextCursor"] or cursor
        if page["nextCursor"] is None:
            break
    assert {str(job.id) for job in jobs} == set(found)
    assert 7 == len(found)
    assert ["cursor"] == fields_of(await client.get("/graphs/jobs", params={"cursor": str(cursor)}))


async def test_the_log_goes_on_after_an_event(client: httpx.AsyncClient, storage: Storage, tenant: str) -> None:
    """An existing job whose log has no more is no 404."""
    job = await storage.graph_jobs.add(build_job(tenant))
    log = f"/graphs/jobs/{job.id}/events"
    (first,) = (await client.get(log)).json()["events"]
    rest = await client.get(log, params={"after": first["id"]})
    assert (200, {"events": [], "unreadable": []}) == (rest.status_code, rest.json())


async def test_the_lag_tells_counts_and_ages(client: httpx.AsyncClient, storage: Storage, tenant: str) -> None:
    """Of overlays only."""
    queued = await storage.graph_jobs.add(overlay_job(tenant))
    await storage.graph_jobs.add(build_job(tenant))
    running = (await storage.graph_jobs.add(overlay_job(tenant))).start(at=AT)
    await storage.graph_jobs.update(running, expected=GraphJobStatus.QUEUED)
    await storage.graph_jobs.update(running.complete(at=AT), expected=GraphJobStatus.RUNNING)
    lag = (await client.get("/graphs/overlays/lag", params={"windowSeconds": 3600})).json()
    assert {"queued": 1, "running": 0, "completed": 1, "failed": 0, "canceled": 0} == {
        status: count["value"] for status, count in lag["counts"].items()
    }
    assert (1, 3600.0) == (lag["completed"], lag["windowSeconds"])
    assert 0 <= lag["oldestQueuedSeconds"] < 600
    assert 0 <= lag["p50Seconds"] <= lag["p95Seconds"] < 600
    assert queued.status is GraphJobStatus.QUEUED


_CALLS = [
    ("GET", "/graphs/jobs"),
    ("GET", "/graphs/jobs/01a20aef-e103-7054-9083-74e4aa124c5a"),
    ("GET", "/graphs/jobs/01a20aef-e103-7054-9083-74e4aa124c5a/events"),
    ("GET", "/graphs/overlays/lag"),
    ("POST", "/graphs/build"),
    ("POST", "/graphs/overlays"),
    ("POST", "/graphs/jobs/01a20aef-e103-7054-9083-74e4aa124c5a/cancel"),
    ("POST", "/graphs/hooks/completed"),
]


@pytest.mark.parametrize(("method", "path"), _CALLS)
async def test_who_has_no_token_learns_nothing_else(app: FastAPI, client_of: Client, method: str, path: str) -> None:
    """401, also for a malformed body or query; and 403 for the other scope."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as stranger:
        for headers in ({}, {"authorization": "Bearer gj_wrong"}, {"authorization": "Basic dTpw"}):
            for content in (b"", b"{", b"x" * (_MIB + 1)):
                refused = await stranger.request(method, f"{path}?limit=zero", content=content, headers=headers)
                problem(refused, 401)
                assert "Bearer" == refused.headers["www-authenticate"]
    other = client_of("acme", "graph:write" if method == "GET" else "graph:read")
    problem(await other.request(method, path, content=b"{"), 403)


async def test_another_tenants_job_is_as_one_that_is_not(client_of: Client, storage: Storage, tenant: str) -> None:
    """The same document, but for the request's id, whichever verb asks; and nothing changed."""
    job = (await storage.graph_jobs.add(build_job(tenant))).start(at=AT)
    await storage.graph_jobs.update(job, expected=GraphJobStatus.QUEUED)
    stranger = client_of(f"{tenant}-other")
    missing = "01a20aef-e103-7054-9083-74e4aa124c5a"

    async def said(job_id: str) -> list[dict[str, Any]]:
        hook = {"jobId": job_id, "status": "failed", "error": "no"}
        answers = [
            await stranger.get(f"/graphs/jobs/{job_id}"),
            await stranger.get(f"/graphs/jobs/{job_id}/events"),
            await stranger.post(f"/graphs/jobs/{job_id}/cancel"),
            await stranger.post("/graphs/hooks/completed", json=hook),
        ]
        return [{**problem(answer, 404), "requestId": ""} for answer in answers]

    assert await said(missing) == await said(str(job.id))
    assert job == await storage.graph_jobs.get_job(tenant, job.id)
    assert [] == (await stranger.get("/graphs/jobs")).json()["jobs"]
    for strange in ("nope", "%00", "{01a20aef-e103-7054-9083-74e4aa124c5a}"):
        problem(await stranger.get(f"/graphs/jobs/{strange}"), 404)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (build_request(sbomDigest="sha256:short"), ["sbomDigest"]),
        ({}, ["sbomId", "sbomVersionId", "sbomDigest"]),
        (build_request(id="01a20aef-e103-7054-9083-74e4aa124c5a"), ["id"]),
        (build_request(tenantId="acme"), ["tenantId"]),
        (build_request(sbomId="x" * 257), ["sbomId"]),
        (build_request(sbomId="\x00"), ["sbomId"]),
        (build_request(metadata={"a": 1}), ["metadata.a"]),
        ([], [""]),
    ],
)
async def test_a_bad_body_names_itsfields_of(client: httpx.AsyncClient, body: Any, fields: list[str]) -> None:
    """As the request spells them; an id or a tenant is never taken."""
    assert fields == fields_of(await client.post("/graphs/build", json=body))


async def test_a_body_that_is_no_json_is_refused(client: httpx.AsyncClient) -> None:
    """422 for text, 415 for another type, 413 for too much, also where no length is told."""
    json = {"content-type": "application/json"}
    for content in (b"", b"{", b"\xff", b'{"sbomId": "\\ud800"}', b"[" * 5_000):
        assert [""] == fields_of(await client.post("/graphs/build", content=content, headers=json))
    problem(await client.post("/graphs/build", content=b"{}", headers={"content-type": "text/plain"}), 415)

    async def endless() -> Any:
        for _ in range(17):
            yield b" " * (_MIB // 16)

    for path in ("/graphs/build", "/graphs/jobs/01a20aef-e103-7054-9083-74e4aa124c5a/cancel"):
        for content in (b" " * (_MIB + 1), endless()):
            problem(await client.post(path, content=content, headers=json), 413)


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        ({"limit": "0"}, ["limit"]),
        ({"limit": "1001"}, ["limit"]),
        ({"status": "pending"}, ["status.0"]),
        ({"type": "2"}, ["type"]),
        ({"tenantId": "acme"}, ["tenantId"]),
        ({"createdFrom": "1764000000"}, ["createdFrom"]),
        ({"createdFrom": "2026-01-01T00:00:00"}, ["createdFrom"]),
        ({"cursor": "bogus"}, ["cursor"]),
        ({"correlationId": "c", "type": "build"}, [""]),
        ({"createdFrom": "2026-01-02T00:00:00Z", "createdTo": "2026-01-01T00:00:00Z"}, [""]),
    ],
)
async def test_a_bad_query_names_its_field(
    client: httpx.AsyncClient, params: dict[str, str], fields: list[str]
) -> None:
    """And one that no index carries is refused with the reason."""
    assert fields == fields_of(await client.get("/graphs/jobs", params=params))


async def test_a_row_that_cannot_be_read_is_named_and_harms_no_other(
    graphjobs_settings: Settings, graphjobs_database_url: str
) -> None:
    """In a page beside the others; asked for alone it is a 500 that names no content."""
    async with open_storage(graphjobs_settings) as own:
        good, bad = await own.graph_jobs.add_many([build_job("acme"), build_job("acme")])
        ask(graphjobs_database_url, f"UPDATE scheduler.graph_jobs SET payload = '{{\"x\": 1}}' WHERE id = '{bad.id}'")
        app = create_app()
        use_storage(app, own)
        app.dependency_overrides[authenticated] = _acme
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            page = (await client.get("/graphs/jobs")).json()
            alone = await client.get(f"/graphs/jobs/{bad.id}")
    assert [str(good.id)] == [job["id"] for job in page["jobs"]]
    assert [str(bad.id)] == [row["id"] for row in page["unreadable"]]
    assert "corrupt-row" in problem(alone, 500)["type"]


async def _acme() -> Caller:
    return Caller("acme", frozenset({"graph:read", "graph:write"}))


async def test_the_database_away_is_503_with_retry_after(
    graphjobs_settings: Settings, graphjobs_database_url: str, graphjobs_server_url: str
) -> None:
    """The process lives and is not ready, and is again once the database is back; no address is told."""
    name = urlsplit(graphjobs_database_url).path.lstrip("/")
    async with open_storage(graphjobs_settings) as own:
        app = create_app()
        use_storage(app, own)
        app.dependency_overrides[authenticated] = _acme
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            before = await client.get("/readyz")
            ask(graphjobs_server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            ask(
                graphjobs_server_url,
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
            )
            away = [await client.get(path) for path in ("/readyz", "/graphs/jobs")]
            away.append(await client.post("/graphs/build", json=build_request()))
            alive = await client.get("/healthz")
            ask(graphjobs_server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            after = await client.get("/readyz")
    assert (200, 200, 200) == (before.status_code, alive.status_code, after.status_code)
    assert REVISION == before.json()["revision"]
    for answer in away:
        assert name not in str(problem(answer, 503))
        assert "1" == answer.headers["retry-after"]


async def test_unknown_paths_and_methods_are_problems_too(client: httpx.AsyncClient) -> None:
    """Also those no route of ours meets."""
    problem(await client.get("/nowhere"), 404)
    problem(await client.delete("/graphs/jobs"), 405)


async def test_a_request_id_of_ones_own_is_kept_and_a_strange_one_is_not(client: httpx.AsyncClient) -> None:
    """It goes into a header and into the log, so it is short and plain."""
    kept = await client.get("/graphs/jobs", headers={"x-request-id": "abc.DEF-1_2:3"})
    made = await client.get("/graphs/jobs", headers={"x-request-id": "a b" + "c" * 100})
    assert "abc.DEF-1_2:3" == kept.headers["x-request-id"]
    assert 32 == len(made.headers["x-request-id"])


async def test_a_token_can_be_taken_away_while_it_serves(
    client: httpx.AsyncClient, client_of: Client, token_file: Any
) -> None:
    """The file is read again when it has changed; broken, it leaves the tokens as they were."""
    line = token_file.read_text()
    client_of("other")
    known = await client.get("/graphs/jobs")
    token_file.write_text(line + "broken\n")
    still = await client.get("/graphs/jobs")
    token_file.write_text("")
    gone = await client.get("/graphs/jobs")
    assert (200, 200) == (known.status_code, still.status_code)
    problem(gone, 401)
    assert TokenFile(token_file).grant("") is None


class _Failing(MemoryGraphJobStore):
    """A store that fails in a way of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    @override
    async def get_job(self, tenant_id: str, job_id: Any) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (OutcomeUnknown("lost"), 503, "outcome-unknown"),
        (DatabaseUnavailable("away"), 503, "unavailable"),
        (SchemaOutOfDate(found=None, expected="x"), 503, "unavailable"),
        (GraphJobsError("the secret of the server"), 500, "internal"),
        (RuntimeError("the secret of the code"), 500, "internal"),
    ],
)
async def test_whatever_a_store_raises_is_a_problem_that_tells_no_secret(
    error: Exception, status: int, kind: str
) -> None:
    """What is worth another try says so; what is a mistake of ours goes to the log."""
    app = create_app()
    use_graph_job_store(app, _Failing(error))
    app.dependency_overrides[authenticated] = _acme
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/graphs/jobs/x")
    document = problem(answer, status)
    assert f"urn:graphjobs:problem:{kind}" == document["type"]
    assert "secret" not in answer.text
    assert (status == 503) == ("retry-after" in answer.headers)


async def test_a_body_that_does_not_arrive_is_not_waited_for(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """408 after the time-out, and nothing was added."""
    monkeypatch.setattr(request_bodies, "_READ_SECONDS", 0.05)

    async def stuck() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    problem(await client.post("/graphs/build", content=stuck(), headers={"content-type": "application/json"}), 408)
    assert [] == (await client.get("/graphs/jobs")).json()["jobs"]
