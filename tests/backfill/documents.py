"""Decoded documents of MongoDB with defaults, so that a test names only the fields that it checks."""

from datetime import UTC, datetime
from typing import Any, Final

AT: Final = datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
LATER: Final = datetime(2024, 5, 6, 8, 8, 9, 456000, tzinfo=UTC)
LAST: Final = datetime(2024, 5, 6, 9, 8, 9, 789000, tzinfo=UTC)
ID: Final = "0190a5c8-1234-7abc-8def-0123456789ab"
JOB_ID: Final = "0190a5c8-4321-7abc-8def-0123456789ab"
ABSENT: Final = object()
"""Removes a field from a document."""


def _with(document: dict[str, Any], edits: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**document, **edits}.items() if value is not ABSENT}


def build(**edits: Any) -> dict[str, Any]:
    """Return a queued build job."""
    document = {
        "_id": ID,
        "tenantId": "acme",
        "kind": "build",
        "schemaVersion": "scheduler.graph-build-job@1",
        "sbomId": "sbom",
        "sbomVersionId": "sbom@1",
        "sbomDigest": "sha256:" + "a" * 64,
        "trigger": "manual",
        "status": "queued",
        "attempts": 0,
        "createdAt": AT,
    }
    return _with(document, edits)


def overlay(**edits: Any) -> dict[str, Any]:
    """Return a queued overlay job."""
    document = {
        "_id": ID,
        "tenantId": "acme",
        "kind": "overlay",
        "schemaVersion": "scheduler.graph-overlay-job@1",
        "graphSnapshotId": "graph",
        "overlayKind": "policy",
        "overlayKey": "licences@1",
        "trigger": "policy",
        "status": "queued",
        "attempts": 0,
        "createdAt": AT,
    }
    return _with(document, edits)


def event(**edits: Any) -> dict[str, Any]:
    """Return an event with a number as its id."""
    document = {
        "_id": 7,
        "jobId": JOB_ID,
        "tenantId": "acme",
        "status": "running",
        "payload": {"from": "queued", "to": "running", "attempts": 1},
        "createdAt": AT,
    }
    return _with(document, edits)


def run(**edits: Any) -> dict[str, Any]:
    """Return a pending policy run."""
    document = {
        "_id": ID,
        "tenantId": "acme",
        "schemaVersion": "scheduler.policy-run-job@1",
        "runId": "run-1",
        "policyId": "P-7",
        "mode": "full",
        "priority": "normal",
        "status": "pending",
        "attempts": 0,
        "queuedAt": AT,
        "availableAt": AT,
        "createdAt": AT,
        "updatedAt": AT,
    }
    return _with(document, edits)
