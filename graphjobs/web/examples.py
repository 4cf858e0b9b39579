"""Examples of the OpenAPI document: bodies, jobs, runs and pages, as JSON."""

from typing import Any, Final

_JOB_ID: Final = "019a2f6e-4d1b-7c3a-9f00-5b7e2c1d8a44"
_OVERLAY_ID: Final = "019a2f70-0c52-7e19-8d35-1f4a6b9c0e72"
_CURSOR: Final = "MTc2MjE2MjIwMDAwMDAwMC0wMTlhMmY2ZQ"  # FastAPI leaves nulls out of examples
_DIGEST: Final = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

BUILD_REQUEST: Final[dict[str, Any]] = {
    "sbomId": "web",
    "sbomVersionId": "web@42",
    "sbomDigest": _DIGEST,
    "trigger": "sbom-version",
    "correlationId": "release-42",
    "metadata": {"team": "payments"},
}
OVERLAY_REQUEST: Final[dict[str, Any]] = {
    "graphSnapshotId": "graph-42",
    "buildJobId": _JOB_ID,
    "overlayKind": "policy",
    "overlayKey": "licences@3",
    "subjects": ["pkg:npm/left-pad@1.3.0"],
}
COMPLETION: Final[dict[str, Any]] = {
    "jobId": _JOB_ID,
    "status": "completed",
    "graphSnapshotId": "graph-42",
    "attempts": 1,
}
BUILD_JOB: Final[dict[str, Any]] = {
    "type": "build",
    "schemaVersion": "scheduler.graph-build-job@1",
    "id": _JOB_ID,
    "tenantId": "acme",
    "status": "queued",
    "attempts": 0,
    "createdAt": "2026-11-03T09:30:00.000000Z",
    **BUILD_REQUEST,
}
OVERLAY_JOB: Final[dict[str, Any]] = {
    "type": "overlay",
    "schemaVersion": "scheduler.graph-overlay-job@1",
    "id": _OVERLAY_ID,
    "tenantId": "acme",
    "status": "queued",
    "trigger": "manual",
    "attempts": 0,
    "createdAt": "2026-11-03T09:32:00.000000Z",
    "metadata": {},
    **OVERLAY_REQUEST,
}
COMPLETED_JOB: Final[dict[str, Any]] = {
    **BUILD_JOB,
    "status": "completed",
    "attempts": 1,
    "startedAt": "2026-11-03T09:30:02.125000Z",
    "completedAt": "2026-11-03T09:31:40.500000Z",
    "graphSnapshotId": "graph-42",
}
CANCELED_JOB: Final[dict[str, Any]] = {
    **BUILD_JOB,
    "status": "canceled",
    "completedAt": "2026-11-03T09:30:01.000000Z",
}
JOB_PAGE: Final[dict[str, Any]] = {"jobs": [OVERLAY_JOB, COMPLETED_JOB], "nextCursor": _CURSOR, "unreadable": []}
EVENT_PAGE: Final[dict[str, Any]] = {
    "events": [
        {
            "id": 7,
            "jobId": _JOB_ID,
            "tenantId": "acme",
            "status": "queued",
            "payload": {"to": "queued", "attempts": 0, "actor": "ci request 5f0c"},
            "createdAt": "2026-11-03T09:30:00.000000Z",
        }
    ],
    "unreadable": [],
    "truncated": False,
}
OVERLAY_LAG: Final[dict[str, Any]] = {
    "counts": {
        "queued": {"value": 3, "exact": True},
        "running": {"value": 1, "exact": True},
        "completed": {"value": 10_000, "exact": False},
        "failed": {"value": 0, "exact": True},
        "canceled": {"value": 0, "exact": True},
    },
    "oldestQueuedSeconds": 4.5,
    "p50Seconds": 1.25,
    "p95Seconds": 6.0,
    "completed": 120,
    "windowSeconds": 86_400,
}

RUN_REQUEST: Final[dict[str, Any]] = {
    "policyId": "licences",
    "mode": "incremental",
    "runId": "nightly-42",
    "inputs": {"sbomSet": ["web@42"]},
}
SIMULATION_REQUEST: Final[dict[str, Any]] = {"policyId": "licences", "policyVersion": 4, "runId": "trial-7"}
RUN_CANCELLATION: Final[dict[str, Any]] = {"reason": "a newer version of the policy is in force"}
RUN_RETRY: Final[dict[str, Any]] = {"runId": "nightly-42-again"}
RUN: Final[dict[str, Any]] = {
    "runId": "nightly-42",
    "tenantId": "acme",
    "policyId": "licences",
    "mode": "incremental",
    "priority": "normal",
    "status": "queued",
    "attempts": 0,
    "requestedBy": "gate",
    "metadata": {},
    "inputs": {"sbomSet": ["web@42"], "environment": {}, "captureExplain": False},
    "queuedAt": "2026-11-03T02:00:00.000000Z",
    "cancellationRequested": False,
}
SIMULATION: Final[dict[str, Any]] = {
    **RUN,
    "runId": "trial-7",
    "policyVersion": 4,
    "mode": "simulate",
    "inputs": {"sbomSet": [], "environment": {}, "captureExplain": False},
}
CANCELED_RUN: Final[dict[str, Any]] = {
    **RUN,
    "status": "canceled",
    "canceledAt": "2026-11-03T02:00:05.000000Z",
    "cancellationRequested": True,
    "cancellationRequestedAt": "2026-11-03T02:00:05.000000Z",
    "cancellationReason": RUN_CANCELLATION["reason"],
}
RETRIED_RUN: Final[dict[str, Any]] = {**RUN, "runId": "nightly-42-again", "metadata": {"retryOf": "nightly-42"}}
RUN_PAGE: Final[dict[str, Any]] = {"runs": [RUN], "nextCursor": _CURSOR, "unreadable": []}

PROBLEM: Final[dict[str, Any]] = {
    "type": "urn:graphjobs:problem:invalid",
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "GraphBuildRequest.sbom_id: Field required",
    "requestId": "5f0c2a9e4d1b47c3a9f0",
    "errors": [{"field": "sbomId", "problem": "Field required"}],
}
HEALTH: Final[dict[str, Any]] = {"status": "ok"}
READINESS: Final[dict[str, Any]] = {"status": "ready", "revision": "019_event_log_index"}
