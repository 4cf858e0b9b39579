"""Each route of policy runs and each of its status codes, over the real storage."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, get_args
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from typing_extensions import override

from graphjobs import (
    DatabaseUnavailable,
    GraphJobsError,
    OutcomeUnknown,
    PolicyRunJob,
    PolicyRunStatus,
    SchemaOutOfDate,
    open_storage,
)
from graphjobs.policy_runs.repository import PostgresPolicyRunRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from graphjobs.web import Caller, authenticated, create_app, request_bodies, use_policy_runs, use_storage
from graphjobs.web.routes.policies import OutsideStatus
from tests.builders import AT, policy_run
from tests.migrations.cli_tools import ask
from tests.web.conftest import Client
from tests.web.problem_assertions import fields, problem
from tests.web.requests import policy_request
from tests.web.server import serving

_MIB = 1_048_576
_JSON = {"content-type": "application/json"}
_SCOPES = frozenset({"policy:read", "policy:run"})
_ALWAYS = {
    *("runId", "tenantId", "policyId", "mode", "priority", "status", "metadata", "inputs", "queuedAt", "attempts"),
    "cancellationRequested",
}


async def _acme() -> Caller:
    return Caller("acme", _SCOPES)


async def _dispatching(storage: Storage, tenant: str, **asked: Any) -> PolicyRunJob:
    """A run that somebody dispatches."""
    run = await storage.policy_runs.insert(policy_run(tenant, **asked))
    leased = run.lease(at=AT, owner="the owner", until=AT + timedelta(hours=1))
    result = await storage.policy_runs.replace(leased, None)
    assert result.job is not None
    return result.job


async def _ended(storage: Storage, tenant: str, **asked: Any) -> PolicyRunJob:
    """A run that is completed."""
    run = (await _dispatching(storage, tenant, **asked)).submit(at=AT)
    submitted = await storage.policy_runs.replace(run, "the owner")
    assert submitted.job is not None
    done = await storage.policy_runs.replace(submitted.job.complete(at=AT), None)
    assert done.job is not None
    return done.job


def _of_each_status(tenant: str) -> list[PolicyRunJob]:
    """A run of each status, named after it."""
    first = policy_run(tenant)
    leased = first.lease(at=AT, owner="w", until=AT)
    submitted = leased.submit(at=AT)
    ends = [submitted.complete(at=AT), submitted.fail(at=AT, error="it broke"), first.cancel(at=AT)]
    return [
        policy_run(tenant).replace(**{**run.__dict__, "id": policy_run().id, "run_id": str(run.status)})
        for run in (first, leased, submitted, *ends)
    ]


async def test_a_run_is_asked_for_read_and_listed(client: httpx.AsyncClient, storage: Storage, tenant: str) -> None:
    """202 with where it is; all that was asked comes back, and the request's id reaches the log."""
    inputs = {
        "sbomSet": ["b", "a", "a"],
        "advisoryCursor": "2026-01-02T03:04:05+01:00",
        "environment": {"stage": {"name": "prod", "region": None}},
        "captureExplain": True,
    }
    body = policy_request(
        mode="incremental",
        priority="high",
        policyVersion=3,
        correlationId="c",
        metadata={"a": "b"},
        inputs=inputs,
        runId="nightly",
        queuedAt="2026-01-02T03:04:05.678901Z",
    )
    asked = await client.post("/policy/runs", json=body, headers={"x-request-id": "r-1"})
    assert (202, "r-1", "/policy/runs/nightly") == (
        asked.status_code,
        asked.headers["x-request-id"],
        asked.headers["location"],
    )
    run = asked.json()
    expected = {
        **body,
        "tenantId": tenant,
        "status": "queued",
        "requestedBy": "tester",
        "attempts": 0,
        "cancellationRequested": False,
        "inputs": {**inputs, "sbomSet": ["a", "b"], "advisoryCursor": "2026-01-02T02:04:05Z"},
    }
    assert expected == run
    read = await client.get(asked.headers["location"])
    page = await client.get("/policy/runs", params={"policyId": "P-7", "mode": "incremental", "status": ["queued"]})
    assert (200, run) == (read.status_code, read.json())
    assert {"runs": [run], "nextCursor": None, "unreadable": []} == page.json()
    stored = await storage.policy_runs.get_by_run_id(tenant, "nightly")
    assert stored is not None
    (event,) = await storage.policy_runs.events(tenant, stored.id)
    assert "tester request r-1" == event.payload["actor"]


async def test_who_is_named_as_the_asker_is_kept_and_else_it_is_who_calls(client: httpx.AsyncClient) -> None:
    """A run that nobody named gets a name."""
    named = await client.post("/policy/runs", json=policy_request(requestedBy="ada"))
    unnamed = await client.post("/policy/runs", json=policy_request())
    assert ["ada", "tester"] == [answer.json()["requestedBy"] for answer in (named, unnamed)]
    assert unnamed.json()["runId"].startswith("run:")
    assert (await client.get(unnamed.headers["location"])).json() == unnamed.json()


async def test_the_outside_sees_its_own_words_and_nothing_of_the_lease(
    client: httpx.AsyncClient, storage: Storage, tenant: str
) -> None:
    """Each status by one word of five, in a run and in a filter."""
    runs = [await storage.policy_runs.insert(run) for run in _of_each_status(tenant)]
    assert list(PolicyRunStatus) == [run.status for run in runs]
    assert set(get_args(OutsideStatus)) == {status.public_status for status in PolicyRunStatus}
    for word in get_args(OutsideStatus):
        page = (await client.get("/policy/runs", params={"status": [word, word]})).json()
        assert {run.run_id for run in runs if run.status.public_status == word} == {
            run["runId"] for run in page["runs"]
        }
        assert {word} == {run["status"] for run in page["runs"]}
    views = {run.run_id: (await client.get(f"/policy/runs/{run.run_id}")).json() for run in runs}
    assert set() == set(views["pending"]) - _ALWAYS
    assert set() == set(views["dispatching"]) - _ALWAYS
    assert {"submittedAt", "completedAt"} == set(views["completed"]) - _ALWAYS
    assert {"submittedAt", "completedAt", "error"} == set(views["failed"]) - _ALWAYS
    assert {"canceledAt"} == set(views["canceled"]) - _ALWAYS
    both = await client.get("/policy/runs", params={"status": ["queued", "succeeded"]})
    assert {"pending", "completed"} == {run["runId"] for run in both.json()["runs"]}


async def test_the_same_run_id_is_one_run_and_another_request_is_refused(client: httpx.AsyncClient) -> None:
    """At once, too; the refusal names the field at fault."""
    body = policy_request(runId="once")
    answers = await asyncio.gather(*(client.post("/policy/runs", json=body) for _ in range(8)))
    other = await client.post("/policy/runs", json={**body, "priority": "high"})
    assert {202} == {answer.status_code for answer in answers}
    assert 1 == len({answer.text for answer in answers})
    assert 1 == len((await client.get("/policy/runs")).json()["runs"])
    assert ["runId"] == fields(other)
    assert "urn:graphjobs:problem:idempotency-conflict" == other.json()["type"]


async def test_a_queued_run_is_canceled_at_once_and_a_second_time_changes_nothing(client: httpx.AsyncClient) -> None:
    """With a reason, or with no body at all."""
    where = (await client.post("/policy/runs", json=policy_request())).headers["location"]
    first = await client.post(f"{where}/cancel", json={"reason": "not\x07 needed"})
    again = [await client.post(f"{where}/cancel"), await client.post(f"{where}/cancel", json={"reason": "other"})]
    run = first.json()
    assert (200, "canceled", "not\N{REPLACEMENT CHARACTER} needed") == (
        first.status_code,
        run["status"],
        run["cancellationReason"],
    )
    assert [(200, run), (200, run)] == [(answer.status_code, answer.json()) for answer in again]


async def test_a_running_run_is_asked_to_end_and_an_ended_one_is_a_conflict(
    client: httpx.AsyncClient, storage: Storage, tenant: str
) -> None:
    """The conflict tells the status by the word of the outside, in its sentence, too."""
    await _dispatching(storage, tenant, run_id="busy")
    await _ended(storage, tenant, run_id="done")
    asked = await client.post("/policy/runs/busy/cancel", content=b"{}", headers=_JSON)
    late = problem(await client.post("/policy/runs/done/cancel"), 409)
    early = problem(await client.post("/policy/runs/busy/retry"), 409)
    run = asked.json()
    assert (200, "running", True) == (asked.status_code, run["status"], run["cancellationRequested"])
    assert {"cancellationRequestedAt"} == set(run) - _ALWAYS
    assert ["succeeded", "running"] == [late["jobStatus"], early["jobStatus"]]
    assert "succeeded already" in late["detail"]
    assert "the run is running: it can be retried" in early["detail"]


async def test_a_retry_is_a_new_run_that_names_the_old(
    client: httpx.AsyncClient, storage: Storage, tenant: str
) -> None:
    """With a name it is one, however often it is asked for; without, a new one each time."""
    await _ended(storage, tenant, run_id="old", metadata={"a": "b"})
    named = [await client.post("/policy/runs/old/retry", json={"runId": "new"}) for _ in range(2)]
    unnamed = [await client.post("/policy/runs/old/retry") for _ in range(2)]
    taken = await client.post("/policy/runs/old/retry", json={"runId": "old"})
    assert {202} == {answer.status_code for answer in (*named, *unnamed)}
    assert named[0].json() == named[1].json() == (await client.get(named[0].headers["location"])).json()
    assert 3 == len({answer.json()["runId"] for answer in (*named, *unnamed)})
    for answer in (*named, *unnamed):
        assert {"a": "b", "retryOf": "old"} == answer.json()["metadata"]
        assert ("queued", "P-7") == (answer.json()["status"], answer.json()["policyId"])
    assert ["runId"] == fields(taken)
    assert ["runId"] == fields(await client.post("/policy/runs/old/retry", json={"runId": ""}))


async def test_a_simulation_is_a_run_of_that_mode_alone(client: httpx.AsyncClient) -> None:
    """The body may leave the mode out, or say so; another is refused, and named."""
    body = policy_request(runId="what/if")
    told, left_out = {**body, "mode": "simulate"}, {key: body[key] for key in ("policyId", "runId")}
    answers = [await client.post("/policy/simulations", json=one) for one in (told, left_out)]
    assert [(202, "simulate")] * 2 == [(answer.status_code, answer.json()["mode"]) for answer in answers]
    assert "/policy/runs/what%2Fif" == answers[0].headers["location"]
    assert answers[0].json() == answers[1].json() == (await client.get(answers[0].headers["location"])).json()
    for mode in ("full", "incremental", "bogus", None, 2, "Simulate"):
        assert ["mode"] == fields(await client.post("/policy/simulations", json={"policyId": "p", "mode": mode}))
    assert ["mode"] == fields(await client.post("/policy/runs", json=left_out))


@pytest.fixture
async def served(app: FastAPI, client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application on a real server, for paths as they are on the wire."""
    async with (
        serving(app) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=client.headers) as real,
    ):
        yield real


@pytest.mark.parametrize(
    "run_id",
    [
        *("a/b", "x/cancel", "x/cancel/retry", "cancel", "retry", "/", "//a//", "/cancel", "runs/x"),
        *("100%", "%2F", "a%2Fcancel", "a?b#c", "a b", " a ", "+", "a;b=c&d", "a\\b", "..", ".", "../runs", "a/../b"),
        *("é", "漢字/試験", "😀", "{run_id}", '"<>|^`', "x" * 256, "漢" * 256, "\u2028", "\u202e"),
    ],
)
async def test_a_run_may_have_any_name(served: httpx.AsyncClient, run_id: str) -> None:
    """It goes through Location, path and verbs unchanged, on a real server."""
    asked = await served.post("/policy/runs", json=policy_request(runId=run_id))
    where = asked.headers["location"]
    read = await served.get(where)
    canceled = await served.post(f"{where}/cancel")
    retried = await served.post(f"{where}/retry", json={"runId": f"2/{run_id}"[:256]})
    assert (202, run_id) == (asked.status_code, asked.json()["runId"])
    assert (200, asked.json()) == (read.status_code, read.json())
    assert (200, run_id, "canceled") == (canceled.status_code, canceled.json()["runId"], canceled.json()["status"])
    assert (202, run_id) == (retried.status_code, retried.json()["metadata"]["retryOf"])
    assert retried.json() == (await served.get(retried.headers["location"])).json()


async def test_a_name_that_ends_like_a_verb_is_not_taken_for_one(served: httpx.AsyncClient) -> None:
    """A run itself takes no POST: `x/cancel` as one segment cancels no run `x`. And a newline at the end names none."""
    for run_id in ("x", "x/cancel", "x/retry"):
        await served.post("/policy/runs", json=policy_request(runId=run_id))
    for path in ("x%2Fcancel", "x%2fcancel", "x%2Fretry", "x/cancel%0A", "x%0A/cancel"):
        problem(await served.post(f"/policy/runs/{path}"), 404)
    for path in ("x%0A", "%0Ax", "y"):
        problem(await served.get(f"/policy/runs/{path}"), 404)
    assert {"queued"} == {run["status"] for run in (await served.get("/policy/runs")).json()["runs"]}
    canceled = await served.post("/policy/runs/x%2Fcancel/%63ancel")
    assert ("x/cancel", "canceled") == (canceled.json()["runId"], canceled.json()["status"])
    # As a proxy hands it on that has decoded it.
    assert canceled.json() == (await served.get("/policy/runs/x/cancel")).json()
    assert canceled.json() == (await served.post("/policy/runs/x/cancel/cancel")).json()


async def test_pages_go_on_by_their_cursor(client: httpx.AsyncClient, storage: Storage, tenant: str) -> None:
    """Each run once, newest first; another query's cursor is refused."""
    for number in range(7):
        run = policy_run(tenant, run_id=f"r{number}").replace(queued_at=AT + timedelta(number))
        await storage.policy_runs.insert(run)
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await client.get("/policy/runs", params={"limit": "3", "status": "queued", **cursor})).json()
        found += [run["runId"] for run in page["runs"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert [f"r{number}" for number in reversed(range(7))] == found
    assert ["cursor"] == fields(await client.get("/policy/runs", params=cursor))
    after = {"queuedAfter": (AT + timedelta(4)).isoformat()}
    assert ["r6", "r5"] == [run["runId"] for run in (await client.get("/policy/runs", params=after)).json()["runs"]]
    assert [] == (await client.get("/policy/runs", params={"mode": "simulate"})).json()["runs"]


_CALLS = [
    ("GET", "/policy/runs"),
    ("GET", "/policy/runs/x"),
    ("GET", "/policy/runs/x%0A"),
    ("GET", f"/policy/runs/{'x' * 257}"),
    ("POST", "/policy/runs"),
    ("POST", "/policy/simulations"),
    ("POST", "/policy/runs/x/cancel"),
    ("POST", "/policy/runs/x%2Fcancel"),
    ("POST", "/policy/runs/x/retry"),
]


@pytest.mark.parametrize(("method", "path"), _CALLS)
async def test_who_has_no_token_learns_nothing_else(app: FastAPI, client_of: Client, method: str, path: str) -> None:
    """401, also for a malformed body, query or path; and 403 for whoever has all other scopes."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as stranger:
        for headers in ({}, {"authorization": "Bearer gj_wrong"}, {"authorization": "Basic dTpw"}):
            for content in (b"", b"{", b"x" * (_MIB + 1)):
                refused = await stranger.request(method, f"{path}?limit=zero", content=content, headers=headers)
                problem(refused, 401)
                assert "Bearer" == refused.headers["www-authenticate"]
    needed = "policy:read" if method == "GET" else "policy:run"
    others = {"graph:read", "graph:write", "policy:read", "policy:run"} - {needed}
    refused = await client_of("acme", *others).request(method, path, content=b"{")
    assert f"this needs the scope {needed}" == problem(refused, 403)["detail"]


async def test_another_tenants_run_is_as_one_that_is_not(client_of: Client, storage: Storage, tenant: str) -> None:
    """The same document, but for the request's id, whichever verb asks; nothing changed; a name is a tenant's own."""
    await _ended(storage, tenant, run_id="theirs")
    before = await storage.policy_runs.get_by_run_id(tenant, "theirs")
    stranger = client_of(f"{tenant}-other")

    async def said(run_id: str) -> list[dict[str, Any]]:
        where = f"/policy/runs/{run_id}"
        answers = [
            await stranger.get(where),
            await stranger.post(f"{where}/cancel"),
            await stranger.post(f"{where}/retry"),
        ]
        return [{**problem(answer, 404), "requestId": ""} for answer in answers]

    assert await said("missing") == await said("theirs")
    assert {"there is no such policy run"} == {document["detail"] for document in await said("theirs")}
    assert [] == (await stranger.get("/policy/runs")).json()["runs"]
    own = await stranger.post("/policy/runs", json=policy_request(runId="theirs"))
    assert (202, f"{tenant}-other", "queued") == (own.status_code, own.json()["tenantId"], own.json()["status"])
    assert before == await storage.policy_runs.get_by_run_id(tenant, "theirs")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, ["policyId", "mode"]),
        (policy_request(tenantId="acme"), ["tenantId"]),
        (policy_request(id="01a20aef-e103-7054-9083-74e4aa124c5a"), ["id"]),
        (policy_request(mode="slow"), ["mode"]),
        (policy_request(priority=2), ["priority"]),
        (policy_request(policyVersion=True), ["policyVersion"]),
        (policy_request(runId="a\nb"), ["runId"]),
        (policy_request(runId="x" * 257), ["runId"]),
        (policy_request(queuedAt=1), ["queuedAt"]),
        (policy_request(queuedAt="2026-01-01T00:00:00"), ["queuedAt"]),
        (policy_request(metadata={"a": 1}), ["metadata.a"]),
        (policy_request(inputs={"sbomSet": ["a", ""]}), ["inputs.sbomSet.1"]),
        (policy_request(inputs={"environment": []}), ["inputs.environment"]),
        (policy_request(inputs={"environment": {"a": 2**63}}), ["inputs.environment"]),
        (policy_request(inputs={"environment": {"a": "x" * 66_560}}), ["inputs.environment"]),
        (policy_request(mode="incremental"), [""]),
        ([], [""]),
    ],
)
async def test_a_bad_body_names_its_fields(client: httpx.AsyncClient, body: Any, named: list[str]) -> None:
    """As the request spells them; nothing in it can name a tenant."""
    assert named == fields(await client.post("/policy/runs", json=body))
    assert [] == (await client.get("/policy/runs")).json()["runs"]


async def test_an_environment_no_database_can_keep_is_refused(client: httpx.AsyncClient) -> None:
    """NaN, NUL, lone surrogates, and what nests by one level too deep, or by 5,000. 64 KiB and 32 levels pass."""
    begin, end = b'{"policyId":"p","mode":"full","inputs":{"environment":', b"}}"
    deep = [b'{"a":' * levels + b"1" + b"}" * levels for levels in (32, 33, 5_000)]
    strange = [b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e400}', b'{"a":"\\u0000"}', deep[1]]
    for text in strange:
        answer = await client.post("/policy/runs", content=begin + text + end, headers=_JSON)
        assert ["inputs.environment"] == fields(answer), text
    sentence = "JSON must not nest deeper than 200 levels"
    lone = b'{"a":"\\ud800"}'
    for text, told in ((lone, "hex escape"), (deep[2], sentence), (b"[" * 5_000 + b"]" * 5_000, sentence)):
        answer = await client.post("/policy/runs", content=begin + text + end, headers=_JSON)
        assert [""] == fields(answer)
        assert told in answer.json()["errors"][0]["problem"]
    largest = b'{"a":"' + b"x" * (65_536 - 8) + b'"}'
    for text in (deep[0], largest):
        asked = await client.post("/policy/runs", content=begin + text + end, headers=_JSON)
        assert (202, json.loads(text)) == (asked.status_code, asked.json()["inputs"]["environment"])
    over = largest[:-2] + b'x"}'
    assert ["inputs.environment"] == fields(
        await client.post("/policy/runs", content=begin + over + end, headers=_JSON)
    )


@pytest.mark.parametrize("path", ["runs", "simulations", "runs/x/cancel", "runs/x/retry"])
async def test_a_body_that_is_no_json_is_refused(client: httpx.AsyncClient, path: str) -> None:
    """422 for text, 415 for another type, 413 for too much; only a verb's own body may be empty, of whatever type."""
    await client.post("/policy/runs", json=policy_request(runId="x"))
    where = f"/policy/{path}"
    for content in (b"{", b"\xff", b"null", b" ", b"[" * 5_000, b'{"a":' * 5_000):
        assert [""] == fields(await client.post(where, content=content, headers=_JSON))
    assert ["nonsense"] == [name for name in fields(await client.post(where, json={"nonsense": 1})) if name[0] == "n"]
    problem(await client.post(where, content=b"{}", headers={"content-type": "text/plain"}), 415)

    async def endless() -> Any:
        for _ in range(17):
            yield b" " * (_MIB // 16)

    for content in (b" " * (_MIB + 1), endless()):
        problem(await client.post(where, content=content, headers=_JSON), 413)
    empty = await client.post(where, content=b"", headers={"content-type": "text/plain"})
    assert {"runs": 415, "simulations": 415, "runs/x/cancel": 200, "runs/x/retry": 409}[path] == empty.status_code


async def test_a_body_that_does_not_arrive_is_not_waited_for(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """408 after the time-out, and the run goes on."""
    where = (await client.post("/policy/runs", json=policy_request())).headers["location"]
    monkeypatch.setattr(request_bodies, "_READ_SECONDS", 0.05)

    async def stuck() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    for path in ("/policy/runs", "/policy/simulations", f"{where}/cancel", f"{where}/retry"):
        problem(await client.post(path, content=stuck(), headers=_JSON), 408)
    assert ["queued"] == [run["status"] for run in (await client.get("/policy/runs")).json()["runs"]]


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"limit": "0"}, ["limit"]),
        ({"limit": "1001"}, ["limit"]),
        ({"status": "pending"}, ["status.0"]),
        ({"status": ["queued", "dispatching"]}, ["status.1"]),
        ({"mode": "0"}, ["mode"]),
        ({"policyId": ""}, ["policyId"]),
        ({"tenantId": "acme"}, ["tenantId"]),
        ({"queuedAfter": "1764000000"}, ["queuedAfter"]),
        ({"queuedAfter": "2026-01-01T00:00:00"}, ["queuedAfter"]),
        ({"cursor": "bogus"}, ["cursor"]),
    ],
)
async def test_a_bad_query_names_its_field(client: httpx.AsyncClient, params: dict[str, Any], named: list[str]) -> None:
    """The words of the inside among that."""
    assert named == fields(await client.get("/policy/runs", params=params))


@pytest.mark.parametrize("run_id", ["x" * 257, "%00", "%7F", "a%09b", "%C2%85", "%FF"])
async def test_a_name_no_run_can_have_is_refused_or_not_found(client: httpx.AsyncClient, run_id: str) -> None:
    """The refusal names it as the body does."""
    answer = await client.get(f"/policy/runs/{run_id}")
    if run_id == "%FF":  # read as a replacement character
        problem(answer, 404)
    else:
        assert ["runId"] == fields(answer)


async def test_a_row_that_cannot_be_read_is_named_and_harms_no_other(
    graphjobs_settings: Settings, graphjobs_database_url: str
) -> None:
    """In a page beside the others; asked for alone it is a 500 that names no content."""
    async with open_storage(graphjobs_settings) as own:
        good, bad = [await own.policy_runs.insert(policy_run("acme", run_id=name)) for name in ("good", "bad")]
        ask(graphjobs_database_url, f"UPDATE scheduler.policy_runs SET payload = '{{\"x\": 1}}' WHERE id = '{bad.id}'")
        app = create_app()
        use_storage(app, own)
        app.dependency_overrides[authenticated] = _acme
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            page = (await client.get("/policy/runs")).json()
            alone = [await client.get("/policy/runs/bad"), await client.post("/policy/runs/bad/cancel")]
    assert [good.run_id] == [run["runId"] for run in page["runs"]]
    assert [str(bad.id)] == [row["id"] for row in page["unreadable"]]
    for answer in alone:
        document = problem(answer, 500)
        assert ("urn:graphjobs:problem:corrupt-row", True) == (document["type"], "the policy run" in document["detail"])


async def test_the_database_away_is_503_with_retry_after(
    graphjobs_settings: Settings, graphjobs_database_url: str, graphjobs_server_url: str
) -> None:
    """For each route; no address is told."""
    name = urlsplit(graphjobs_database_url).path.lstrip("/")
    async with open_storage(graphjobs_settings) as own:
        app = create_app()
        use_storage(app, own)
        app.dependency_overrides[authenticated] = _acme
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            ask(graphjobs_server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            ask(
                graphjobs_server_url,
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
            )
            away = [await client.get(path) for path in ("/policy/runs", "/policy/runs/x")]
            away += [await client.post(f"/policy/{path}", json=policy_request(mode="simulate")) for path in _NEW]
            away += [await client.post(f"/policy/runs/x/{verb}") for verb in ("cancel", "retry")]
            ask(graphjobs_server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    for answer in away:
        assert name not in str(problem(answer, 503))
        assert "1" == answer.headers["retry-after"]


_NEW = ("runs", "simulations")


class _Failing(PostgresPolicyRunRepository):
    """A repository that fails in a way of its own."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @override
    async def get_by_run_id(self, tenant_id: str, run_id: str) -> PolicyRunJob | None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "status", "kind", "word"),
    [
        (OutcomeUnknown("lost"), 503, "outcome-unknown", "read the policy run, or ask again with the same runId"),
        (DatabaseUnavailable("away"), 503, "unavailable", "the database"),
        (SchemaOutOfDate(found=None, expected="x"), 503, "unavailable", "the database"),
        (GraphJobsError("the secret of the server"), 500, "internal", ""),
        (RuntimeError("the secret of the code"), 500, "internal", ""),
    ],
)
async def test_whatever_a_repository_raises_is_a_problem_that_tells_no_secret(
    error: Exception, status: int, kind: str, word: str
) -> None:
    """In the words of policy runs."""
    app = create_app()
    use_policy_runs(app, _Failing(error))
    app.dependency_overrides[authenticated] = _acme
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/policy/runs/x")
    document = problem(answer, status)
    assert f"urn:graphjobs:problem:{kind}" == document["type"]
    assert word in document["detail"]
    assert "secret" not in answer.text
    assert (status == 503) == ("retry-after" in answer.headers)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("runs", "GET, POST"), ("runs/x", "GET"), ("runs/x/cancel", "POST"), ("simulations", "POST")],
)
async def test_another_method_is_told_all_that_its_path_takes(
    client: httpx.AsyncClient, path: str, allowed: str
) -> None:
    """Also where routes of their own take each of them."""
    answer = await client.delete(f"/policy/{path}")
    assert (405, allowed) == (problem(answer, 405)["status"], answer.headers["allow"])
