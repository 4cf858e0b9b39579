"""Jobs for tests, with what a test does not care about filled in."""

from datetime import UTC, datetime
from typing import Any, Final

from graphjobs import GraphBuildJob, GraphOverlayJob, PolicyRunJob, PolicyRunRequest
from graphjobs.core.results import StalledItem
from graphjobs.policy_runs.queue import PolicyRunQueue
from graphjobs.policy_runs.repository import PolicyRunRepository, PostgresPolicyRunRepository

AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def build_job(tenant_id: str = "acme", **fields: Any) -> GraphBuildJob:
    """A queued build job."""
    defaults: dict[str, Any] = {
        "sbom_id": "sbom",
        "sbom_version_id": "sbom@1",
        "sbom_digest": "sha256:" + "a" * 64,
        "trigger": "manual",
    }
    return GraphBuildJob(tenant_id=tenant_id, **{**defaults, **fields})


def overlay_job(tenant_id: str = "acme", **fields: Any) -> GraphOverlayJob:
    """A queued overlay job."""
    defaults: dict[str, Any] = {
        "graph_snapshot_id": "graph",
        "overlay_kind": "policy",
        "overlay_key": "licences@1",
        "trigger": "policy",
    }
    return GraphOverlayJob(tenant_id=tenant_id, **{**defaults, **fields})


def run_request(tenant_id: str = "acme", **fields: Any) -> PolicyRunRequest:
    """A request for a full run of a policy."""
    return PolicyRunRequest(**{"tenant_id": tenant_id, "policy_id": "P-7", "mode": "full", **fields})


def policy_run(tenant_id: str = "acme", **fields: Any) -> PolicyRunJob:
    """A pending policy run that has been available since a fixed time."""
    request = {name: fields.pop(name) for name in list(fields) if name in PolicyRunRequest.model_fields}
    times = dict.fromkeys(("created_at", "available_at", "updated_at"), AT)
    return run_request(tenant_id, **{"queued_at": AT, **request}).to_run(**{**times, **fields})


async def expired_of(queue: PolicyRunQueue, tenant_id: str) -> list[StalledItem]:
    """The expired leases of a tenant, in all parts of a database with more leases than one part reads."""
    found, cursor = await queue.expired(tenant_id=tenant_id)
    expired = list(found)
    while cursor:
        found, cursor = await queue.expired(tenant_id=tenant_id, after=cursor)
        expired += found
    return expired


def queue_of(runs: PolicyRunRepository) -> PolicyRunQueue:
    """The queue on the executor of a repository: in its session, where it is in one."""
    assert isinstance(runs, PostgresPolicyRunRepository)
    return PolicyRunQueue(runs._executor, notify=runs._notify)
