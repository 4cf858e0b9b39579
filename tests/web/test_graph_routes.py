"""The routes of graph jobs, over the real storage."""

from typing import Any

import httpx
import pytest

from graphjobs import GraphJobStatus
from graphjobs.storage import Storage
from graphjobs.web.tokens import TokenFile
from tests.builders import AT, build_job, overlay_job
from tests.web.conftest import Client
from tests.web.problem_assertions import problem
from tests.web.requests import MISSING_ID, build_request, overlay_request


async def test_a_build_is_requested_read_and_listed(client: httpx.AsyncClient, tenant: str) -> None:
    """The response is 202 with the location; the request id is in the event."""
    accepted = await client.post("/graphs/build", json=build_request(), headers={"x-request-id": "r-1"})
    assert (202, "r-1") == (accepted.status_code, accepted.headers["x-request-id"])
    job = accepted.json()
    read = await client.get(accepted.headers["location"])
    page = await client.get("/graphs/jobs", params={"type": "build", "status": ["queued", "running"]})
    events = await client.get(f"/graphs/jobs/{job['id']}/events")

    assert (tenant, "queued") == (job["tenantId"], job["status"])
    assert (200, job) == (read.status_code, read.json())
    assert {"jobs": [job], "nextCursor": None, "unreadable": []} == page.json()
    (event,) = events.json()["events"]
    assert ("queued", "tester request r-1") == (event["payload"]["to"], event["payload"]["actor"])


async def test_an_overlay_is_requested_and_canceled_twice(client: httpx.AsyncClient) -> None:
    accepted = await client.post("/graphs/overlays", json=overlay_request(subjects=["b", "a"]))
    location = accepted.headers["location"]
    first, second = [await client.post(f"{location}/cancel") for _ in range(2)]
    assert (202, ["a", "b"]) == (accepted.status_code, accepted.json()["subjects"])
    assert (200, "canceled") == (first.status_code, first.json()["status"])
    assert (200, first.json()) == (second.status_code, second.json())


async def test_a_hook_completes_a_running_job_and_may_be_repeated(
    client: httpx.AsyncClient, storage: Storage, tenant: str
) -> None:
    """A late call, even with another result, returns the job as it is."""
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


async def test_a_running_job_of_another_tenant_does_not_change(
    client_of: Client, storage: Storage, tenant: str
) -> None:
    """Neither by a cancel nor by a completion hook."""
    job = (await storage.graph_jobs.add(build_job(tenant))).start(at=AT)
    await storage.graph_jobs.update(job, expected=GraphJobStatus.QUEUED)
    stranger = client_of(f"{tenant}-other")
    problem(await stranger.post(f"/graphs/jobs/{job.id}/cancel"), 404)
    hook = {"jobId": str(job.id), "status": "failed", "error": "no"}
    problem(await stranger.post("/graphs/hooks/completed", json=hook), 404)
    assert job == await storage.graph_jobs.get_job(tenant, job.id)


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/graphs/jobs/nope", "there is no such job"),
        ("/graphs/jobs/%00", "there is no such job"),
        (f"/graphs/jobs/{{{MISSING_ID}}}", "there is no such job"),
        ("/nowhere", "Not Found"),
    ],
)
async def test_an_unknown_path_and_an_id_that_is_not_a_uuid_are_not_found(
    client: httpx.AsyncClient, path: str, detail: str
) -> None:
    """An invalid id is answered like a missing job; the problem document is the same outside of the routes."""
    assert detail == problem(await client.get(path), 404)["detail"]


async def test_events_continue_after_an_event(client: httpx.AsyncClient, storage: Storage, tenant: str) -> None:
    """An existing job without further events is not a 404."""
    job = await storage.graph_jobs.add(build_job(tenant))
    path = f"/graphs/jobs/{job.id}/events"
    (first,) = (await client.get(path)).json()["events"]
    rest = await client.get(path, params={"after": first["id"]})
    assert (200, {"events": [], "unreadable": [], "truncated": False}) == (rest.status_code, rest.json())


async def test_the_lag_has_counts_and_ages_of_overlays(
    client: httpx.AsyncClient, storage: Storage, tenant: str
) -> None:
    """Build jobs do not count."""
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


async def test_a_valid_request_id_is_kept_and_an_invalid_one_is_replaced(client: httpx.AsyncClient) -> None:
    """It is part of a header and of events, so it must be short and plain."""
    valid = await client.get("/graphs/jobs", headers={"x-request-id": "abc.DEF-1_2:3"})
    replaced = await client.get("/graphs/jobs", headers={"x-request-id": "a b" + "c" * 100})
    assert "abc.DEF-1_2:3" == valid.headers["x-request-id"]
    assert 32 == len(replaced.headers["x-request-id"])


async def test_a_token_can_be_revoked_while_the_service_runs(
    client: httpx.AsyncClient, client_of: Client, token_file: Any
) -> None:
    """The file is read again after each change; an invalid file does not change the tokens at once."""
    line = token_file.read_text()
    client_of("other")
    known = await client.get("/graphs/jobs")
    token_file.write_text(line + "broken\n")
    invalid = await client.get("/graphs/jobs")
    token_file.write_text("")
    revoked = await client.get("/graphs/jobs")
    assert (200, 200) == (known.status_code, invalid.status_code)
    problem(revoked, 401)
    assert TokenFile(token_file).grant("") is None
