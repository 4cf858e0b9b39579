"""The routes of policy runs, over the real storage."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, get_args

import httpx
import pytest
from fastapi import FastAPI

from graphjobs import PolicyRunJob, PolicyRunStatus
from graphjobs.storage import Storage
from graphjobs.web.routes.policies import PublicStatus
from tests.builders import AT, policy_run
from tests.web.conftest import Client
from tests.web.problem_assertions import invalid_fields, problem
from tests.web.requests import JSON, policy_request
from tests.web.server import serving

_ALWAYS = {
    *("runId", "tenantId", "policyId", "mode", "priority", "status", "metadata", "inputs", "queuedAt", "attempts"),
    "cancellationRequested",
}


async def _replace(storage: Storage, run: PolicyRunJob, lease_owner: str | None) -> PolicyRunJob:
    """Replace a stored run by a later version."""
    replaced = (await storage.policy_runs.replace(run, lease_owner)).job
    assert replaced is not None
    return replaced


async def _dispatching(storage: Storage, tenant: str, **fields: Any) -> PolicyRunJob:
    """Insert a run that is dispatching."""
    run = await storage.policy_runs.insert(policy_run(tenant, **fields))
    return await _replace(storage, run.lease(at=AT, owner="the owner", until=AT + timedelta(hours=1)), None)


async def _completed(storage: Storage, tenant: str, **fields: Any) -> PolicyRunJob:
    """Insert a run that is completed."""
    run = await _dispatching(storage, tenant, **fields)
    submitted = await _replace(storage, run.submit(at=AT), "the owner")
    return await _replace(storage, submitted.complete(at=AT), None)


def _of_each_status(tenant: str) -> list[PolicyRunJob]:
    """Build one run per status; the run id is the status."""
    first = policy_run(tenant)
    leased = first.lease(at=AT, owner="w", until=AT)
    submitted = leased.submit(at=AT)
    final = [submitted.complete(at=AT), submitted.fail(at=AT, error="it broke"), first.cancel(at=AT)]
    return [
        policy_run(tenant).replace(**{**run.__dict__, "id": policy_run().id, "run_id": str(run.status)})
        for run in (first, leased, submitted, *final)
    ]


async def test_a_run_is_requested_read_and_listed(client: httpx.AsyncClient, storage: Storage, tenant: str) -> None:
    """The response is 202 with the location and all requested fields; the request id is in the event."""
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
    accepted = await client.post("/policy/runs", json=body, headers={"x-request-id": "r-1"})
    headers = accepted.headers
    assert (202, "r-1", "/policy/runs/nightly") == (accepted.status_code, headers["x-request-id"], headers["location"])
    run = accepted.json()
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
    read = await client.get(headers["location"])
    page = await client.get("/policy/runs", params={"policyId": "P-7", "mode": "incremental", "status": ["queued"]})
    assert (200, run) == (read.status_code, read.json())
    assert {"runs": [run], "nextCursor": None, "unreadable": []} == page.json()
    stored = await storage.policy_runs.get_by_run_id(tenant, "nightly")
    assert stored is not None
    (event,) = await storage.policy_runs.events(tenant, stored.id)
    assert "tester request r-1" == event.payload["actor"]


async def test_the_requester_is_the_caller_unless_the_body_names_another(client: httpx.AsyncClient) -> None:
    """A run without a run id gets one."""
    explicit = await client.post("/policy/runs", json=policy_request(requestedBy="ada"))
    default = await client.post("/policy/runs", json=policy_request())
    assert ["ada", "tester"] == [response.json()["requestedBy"] for response in (explicit, default)]
    assert default.json()["runId"].startswith("run:")
    assert (await client.get(default.headers["location"])).json() == default.json()


async def test_responses_have_the_public_status_and_no_field_of_the_lease(
    client: httpx.AsyncClient, storage: Storage, tenant: str
) -> None:
    """The six statuses have five public names, in runs and in filters."""
    runs = [await storage.policy_runs.insert(run) for run in _of_each_status(tenant)]
    assert list(PolicyRunStatus) == [run.status for run in runs]
    assert set(get_args(PublicStatus)) == {status.public_status for status in PolicyRunStatus}
    for status in get_args(PublicStatus):
        page = (await client.get("/policy/runs", params={"status": [status, status]})).json()
        assert {run.run_id for run in runs if run.status.public_status == status} == {
            run["runId"] for run in page["runs"]
        }
        assert {status} == {run["status"] for run in page["runs"]}
    views = {run.run_id: (await client.get(f"/policy/runs/{run.run_id}")).json() for run in runs}
    assert set() == set(views["pending"]) - _ALWAYS
    assert set() == set(views["dispatching"]) - _ALWAYS
    assert {"submittedAt", "completedAt"} == set(views["completed"]) - _ALWAYS
    assert {"submittedAt", "completedAt", "error"} == set(views["failed"]) - _ALWAYS
    assert {"canceledAt"} == set(views["canceled"]) - _ALWAYS
    both = await client.get("/policy/runs", params={"status": ["queued", "succeeded"]})
    assert {"pending", "completed"} == {run["runId"] for run in both.json()["runs"]}


async def test_a_queued_run_is_canceled_and_a_second_cancel_changes_nothing(client: httpx.AsyncClient) -> None:
    """With a reason, or without a body."""
    location = (await client.post("/policy/runs", json=policy_request())).headers["location"]
    first = await client.post(f"{location}/cancel", json={"reason": "not\x07 needed"})
    repeated = [
        await client.post(f"{location}/cancel"),
        await client.post(f"{location}/cancel", json={"reason": "other"}),
    ]
    run = first.json()
    assert (200, "canceled", "not\N{REPLACEMENT CHARACTER} needed") == (
        first.status_code,
        run["status"],
        run["cancellationReason"],
    )
    assert [(200, run), (200, run)] == [(response.status_code, response.json()) for response in repeated]


async def test_the_cancellation_of_a_running_run_is_requested_and_of_a_final_run_is_a_conflict(
    client: httpx.AsyncClient, storage: Storage, tenant: str
) -> None:
    """The conflict has the public status, also in its detail."""
    await _dispatching(storage, tenant, run_id="busy")
    await _completed(storage, tenant, run_id="done")
    requested = await client.post("/policy/runs/busy/cancel", content=b"{}", headers=JSON)
    late = problem(await client.post("/policy/runs/done/cancel"), 409)
    early = problem(await client.post("/policy/runs/busy/retry"), 409)
    run = requested.json()
    assert (200, "running", True) == (requested.status_code, run["status"], run["cancellationRequested"])
    assert {"cancellationRequestedAt"} == set(run) - _ALWAYS
    assert ["succeeded", "running"] == [late["jobStatus"], early["jobStatus"]]
    assert "already succeeded" in late["detail"]
    assert "the run is running: only a final run can be retried" in early["detail"]


async def test_a_retry_is_a_new_run_with_the_old_run_id_in_its_metadata(
    client: httpx.AsyncClient, storage: Storage, tenant: str
) -> None:
    """Repeated requests with a run id add one run; each request without adds a run."""
    await _completed(storage, tenant, run_id="old", metadata={"a": "b"})
    keyed = [await client.post("/policy/runs/old/retry", json={"runId": "new"}) for _ in range(2)]
    generated = [await client.post("/policy/runs/old/retry") for _ in range(2)]
    taken = await client.post("/policy/runs/old/retry", json={"runId": "old"})
    assert {202} == {response.status_code for response in (*keyed, *generated)}
    assert keyed[0].json() == keyed[1].json() == (await client.get(keyed[0].headers["location"])).json()
    assert 3 == len({response.json()["runId"] for response in (*keyed, *generated)})
    for response in (*keyed, *generated):
        assert {"a": "b", "retryOf": "old"} == response.json()["metadata"]
        assert ("queued", "P-7") == (response.json()["status"], response.json()["policyId"])
    assert ["runId"] == invalid_fields(taken)
    assert ["runId"] == invalid_fields(await client.post("/policy/runs/old/retry", json={"runId": ""}))


async def test_a_simulation_accepts_only_its_own_mode(client: httpx.AsyncClient) -> None:
    """The mode of the body is optional; another mode is refused."""
    body = policy_request(runId="what/if")
    explicit, without = {**body, "mode": "simulate"}, {key: body[key] for key in ("policyId", "runId")}
    responses = [await client.post("/policy/simulations", json=body) for body in (explicit, without)]
    assert [(202, "simulate")] * 2 == [(response.status_code, response.json()["mode"]) for response in responses]
    assert "/policy/runs/what%2Fif" == responses[0].headers["location"]
    assert responses[0].json() == responses[1].json() == (await client.get(responses[0].headers["location"])).json()
    for mode in ("full", "incremental", "bogus", None, 2, "Simulate"):
        assert ["mode"] == invalid_fields(
            await client.post("/policy/simulations", json={"policyId": "p", "mode": mode})
        )
    assert ["mode"] == invalid_fields(await client.post("/policy/runs", json=without))


@pytest.fixture
async def served(app: FastAPI, client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application on a real server, which receives encoded paths."""
    async with (
        serving(app) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=client.headers) as real_client,
    ):
        yield real_client


@pytest.mark.parametrize(
    "run_id",
    [
        *("a/b", "x/cancel", "x/cancel/retry", "cancel", "retry", "/", "//a//", "/cancel", "runs/x"),
        *("100%", "%2F", "a%2Fcancel", "a?b#c", "a b", " a ", "+", "a;b=c&d", "a\\b", "..", ".", "../runs", "a/../b"),
        *("é", "漢字/試験", "😀", "{run_id}", '"<>|^`', "x" * 256, "漢" * 256, "\u2028", "\u202e"),
    ],
)
async def test_a_run_may_have_any_run_id(served: httpx.AsyncClient, run_id: str) -> None:
    """The run id is unchanged in Location, paths and verbs, on a real server."""
    accepted = await served.post("/policy/runs", json=policy_request(runId=run_id))
    location = accepted.headers["location"]
    read = await served.get(location)
    canceled = await served.post(f"{location}/cancel")
    retried = await served.post(f"{location}/retry", json={"runId": f"2/{run_id}"[:256]})
    assert (202, run_id) == (accepted.status_code, accepted.json()["runId"])
    assert (200, accepted.json()) == (read.status_code, read.json())
    assert (200, run_id, "canceled") == (canceled.status_code, canceled.json()["runId"], canceled.json()["status"])
    assert (202, run_id) == (retried.status_code, retried.json()["metadata"]["retryOf"])
    assert retried.json() == (await served.get(retried.headers["location"])).json()


async def test_a_run_id_that_ends_like_a_verb_is_not_a_verb(served: httpx.AsyncClient) -> None:
    """A POST to `x/cancel` as one segment does not cancel the run `x`. A newline at the end is not ignored."""
    for run_id in ("x", "x/cancel", "x/retry"):
        await served.post("/policy/runs", json=policy_request(runId=run_id))
    for path in ("x%2Fcancel", "x%2fcancel", "x%2Fretry", "x/cancel%0A", "x%0A/cancel"):
        problem(await served.post(f"/policy/runs/{path}"), 404)
    for path in ("x%0A", "%0Ax", "y"):
        problem(await served.get(f"/policy/runs/{path}"), 404)
    assert {"queued"} == {run["status"] for run in (await served.get("/policy/runs")).json()["runs"]}
    canceled = await served.post("/policy/runs/x%2Fcancel/%63ancel")
    assert ("x/cancel", "canceled") == (canceled.json()["runId"], canceled.json()["status"])
    # The path that a decoding proxy sends.
    assert canceled.json() == (await served.get("/policy/runs/x/cancel")).json()
    assert canceled.json() == (await served.post("/policy/runs/x/cancel/cancel")).json()


async def test_runs_are_listed_newest_first(client: httpx.AsyncClient, storage: Storage, tenant: str) -> None:
    """The order is the one of `queuedAt`, also across pages; filters select runs."""
    for number in range(7):
        run = policy_run(tenant, run_id=f"r{number}").replace(queued_at=AT + timedelta(number))
        await storage.policy_runs.insert(run)

    async def listed(**params: str) -> tuple[list[str], str | None]:
        page = (await client.get("/policy/runs", params=params)).json()
        return [run["runId"] for run in page["runs"]], page["nextCursor"]

    first, cursor = await listed(limit="4", status="queued")
    assert (["r6", "r5", "r4", "r3"], True) == (first, cursor is not None)
    assert (["r2", "r1", "r0"], None) == await listed(limit="4", status="queued", cursor=str(cursor))
    assert (["r6", "r5"], None) == await listed(queuedAfter=(AT + timedelta(4)).isoformat())
    assert ([], None) == await listed(mode="simulate")


async def test_a_run_id_belongs_to_one_tenant(client_of: Client, storage: Storage, tenant: str) -> None:
    """Another tenant may use it for its own run; the final run of the first tenant does not change."""
    await _completed(storage, tenant, run_id="same")
    before = await storage.policy_runs.get_by_run_id(tenant, "same")
    stranger = client_of(f"{tenant}-other")
    for verb in ("cancel", "retry"):
        problem(await stranger.post(f"/policy/runs/same/{verb}"), 404)
    own = await stranger.post("/policy/runs", json=policy_request(runId="same"))
    assert (202, f"{tenant}-other", "queued") == (own.status_code, own.json()["tenantId"], own.json()["status"])
    assert before == await storage.policy_runs.get_by_run_id(tenant, "same")


async def test_an_environment_that_jsonb_does_not_store_is_refused(client: httpx.AsyncClient) -> None:
    """NaN, NUL, lone surrogates, 33 or 5,000 levels, and more than 64 KiB; 64 KiB and 32 levels are valid."""
    begin, end = b'{"policyId":"p","mode":"full","inputs":{"environment":', b"}}"
    deep = [b'{"a":' * levels + b"1" + b"}" * levels for levels in (32, 33, 5_000)]
    invalid = [b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e400}', b'{"a":"\\u0000"}', deep[1]]
    for text in invalid:
        response = await client.post("/policy/runs", content=begin + text + end, headers=JSON)
        assert ["inputs.environment"] == invalid_fields(response), text
    sentence = "JSON must not nest deeper than 200 levels"
    lone = b'{"a":"\\ud800"}'
    for text, detail in ((lone, "hex escape"), (deep[2], sentence), (b"[" * 5_000 + b"]" * 5_000, sentence)):
        response = await client.post("/policy/runs", content=begin + text + end, headers=JSON)
        assert [""] == invalid_fields(response)
        assert detail in response.json()["errors"][0]["problem"]
    largest = b'{"a":"' + b"x" * (65_536 - 8) + b'"}'
    for text in (deep[0], largest):
        accepted = await client.post("/policy/runs", content=begin + text + end, headers=JSON)
        assert (202, json.loads(text)) == (accepted.status_code, accepted.json()["inputs"]["environment"])
    over = largest[:-2] + b'x"}'
    assert ["inputs.environment"] == invalid_fields(
        await client.post("/policy/runs", content=begin + over + end, headers=JSON)
    )


@pytest.mark.parametrize("run_id", ["x" * 257, "%00", "%7F", "a%09b", "%C2%85", "%FF"])
async def test_an_invalid_run_id_is_refused_or_not_found(client: httpx.AsyncClient, run_id: str) -> None:
    response = await client.get(f"/policy/runs/{run_id}")
    if run_id == "%FF":  # decoded to a replacement character
        problem(response, 404)
    else:
        assert ["runId"] == invalid_fields(response)


async def test_an_emergency_needs_a_scope_of_its_own(client_of: Client, storage: Storage, tenant: str) -> None:
    """Also as a simulation, and as the retry of one; other runs do not need it."""
    await _completed(storage, tenant, run_id="old", priority="emergency")
    await _completed(storage, tenant, run_id="other", priority="high")
    urgent, without, with_it = (
        {**policy_request(), "priority": "emergency"},
        client_of(tenant, "policy:run"),
        client_of(tenant, "policy:run", "policy:emergency"),
    )
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/policy/runs", urgent),
        ("/policy/simulations", {**urgent, "mode": "simulate"}),
        ("/policy/runs/old/retry", {}),
    ]
    for path, body in requests:
        refused = problem(await without.post(path, json=body), 403)
        assert "the caller needs the scope policy:emergency" == refused["detail"]
        assert 202 == (await with_it.post(path, json=body)).status_code
    assert 202 == (await without.post("/policy/runs/other/retry")).status_code
    assert 202 == (await without.post("/policy/runs", json=policy_request())).status_code
