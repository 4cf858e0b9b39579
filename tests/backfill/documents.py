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


_COMMON: Final = {"_id": ID, "tenantId": "acme", "attempts": 0, "createdAt": AT}


def _with(document: dict[str, Any], edits: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**document, **edits}.items() if value is not ABSENT}


def build(**edits: Any) -> dict[str, Any]:
    """Return a queued build job."""
    fields = {"sbomId": "sbom", "sbomVersionId": "sbom@1", "sbomDigest": "sha256:" + "a" * 64, "trigger": "manual"}
    schema = "scheduler.graph-build-job@1"
    return _with({**_COMMON, "kind": "build", "schemaVersion": schema, "status": "queued", **fields}, edits)


def overlay(**edits: Any) -> dict[str, Any]:
    """Return a queued overlay job."""
    fields = {"graphSnapshotId": "graph", "overlayKind": "policy", "overlayKey": "licences@1", "trigger": "policy"}
    schema = "scheduler.graph-overlay-job@1"
    return _with({**_COMMON, "kind": "overlay", "schemaVersion": schema, "status": "queued", **fields}, edits)


def event(**edits: Any) -> dict[str, Any]:
    """Return an event with a number as its id."""
    payload = {"from": "queued", "to": "running", "attempts": 1}
    fields = {"jobId": JOB_ID, "tenantId": "acme", "status": "running", "payload": payload, "createdAt": AT}
    return _with({"_id": 7, **fields}, edits)


def run(**edits: Any) -> dict[str, Any]:
    """Return a pending policy run."""
    fields = {"runId": "run-1", "policyId": "P-7", "mode": "full", "priority": "normal", "status": "pending"}
    times = {"queuedAt": AT, "availableAt": AT, "updatedAt": AT}
    return _with({**_COMMON, "schemaVersion": "scheduler.policy-run-job@1", **fields, **times}, edits)
