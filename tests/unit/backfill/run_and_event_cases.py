"""Cases of the mapping of events and policy runs: clean documents, and repaired documents with their changes."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bson import Int64, ObjectId
from bson.binary import Binary, UuidRepresentation

from graphjobs.backfill.transform.legacy_ids import derive_uuid
from tests.backfill.documents import ABSENT, AT, ID, LAST, LATER, event, run

_OBJECT_ID = ObjectId("507f1f77bcf86cd799439011")
_MADE_AT = datetime(2012, 10, 17, 21, 13, 27, tzinfo=UTC)
_OLD = ("status", "old word")
_RAISED = ("attempts", "raised to 1")
_EVENTS, _RUNS, _RUN_EVENTS = "graph_job_events", "policy_runs", "policy_run_events"
_ASKED = {"cancellationRequested": True, "cancellationRequestedAt": LATER}
_LEASE = {"leaseOwner": "dispatcher-1", "leaseExpiresAt": LATER}

Case = tuple[str, dict[str, Any], dict[str, Any], list[tuple[str, str]]]
"""Collection, document, expected fields, expected changes."""


def preserved(**entries: str) -> dict[str, str]:
    """Return metadata of unknown fields."""
    return {f"legacy.{name}": text for name, text in entries.items()}


CLEAN: dict[str, tuple[str, dict[str, Any]]] = {
    "event": (_EVENTS, event()),
    "event without a payload": (_EVENTS, event(payload=ABSENT)),
    "event of a run": (_RUN_EVENTS, event(status="dispatching")),
    "pending run": (_RUNS, run()),
    "run with all inputs": (
        _RUNS,
        run(
            policyVersion=3,
            inputs={
                "sbomSet": ["a", "b"],
                "advisoryCursor": AT,
                "vexCursor": LATER,
                "environment": {"a": [1, {"b": 2.5}]},
                "captureExplain": True,
            },
        ),
    ),
    "dispatching run": (_RUNS, run(**_LEASE, status="dispatching", attempts=1, lastAttemptAt=AT)),
}

REPAIRED: dict[str, Case] = {
    "event with a long": (_EVENTS, event(_id=Int64(8), id=8), {"id": 8}, []),
    "event of an ObjectId": (
        _EVENTS,
        event(_id=_OBJECT_ID, createdAt=ABSENT, payload={}, status="pending"),
        {
            "id": None,
            "status": "queued",
            "created_at": _MADE_AT,
            "payload": {"legacyId": str(_OBJECT_ID), "legacyIdType": "objectId"},
        },
        [("id", "kept in payload"), _OLD, ("createdAt", "taken from _id")],
    ),
    "event with an unknown field": (
        _EVENTS,
        event(actor="me", payload={}),
        {"payload": preserved(actor="me")},
        [("actor", "unknown field kept in payload")],
    ),
    "event with BSON in it": (
        _EVENTS,
        event(payload={"b": [_OBJECT_ID, Int64(5)], "a": AT}),
        {"payload": {"a": "2024-05-06T07:08:09.123000Z", "b": (str(_OBJECT_ID), 5)}},
        [("payload", "a time as text"), ("payload", "an id as text")],
    ),
    "event with its tenant in the payload": (
        _EVENTS,
        event(tenantId=ABSENT, payload={"tenantId": "acme"}),
        {"tenant_id": "acme", "payload": {"tenantId": "acme"}},
        [("tenantId", "taken from payload")],
    ),
    "event completely under payload": (
        _EVENTS,
        {"_id": 9, "payload": event(_id=ABSENT)},
        {"id": 9, "payload": {"attempts": 1, "from": "queued", "to": "running"}},
        [],
    ),
    "event with its payload as text": (
        _EVENTS,
        event(payload='{"$oid": [1.5, "a"]}'),
        {"payload": {"$oid": (1.5, "a")}},
        [("payload", "was JSON text")],
    ),
    "old event of a run": (
        _RUN_EVENTS,
        event(_id=_OBJECT_ID, id=8, status="succeeded", jobId=_OBJECT_ID, payload={}),
        {
            "id": 8,
            "job_id": derive_uuid("acme", str(_OBJECT_ID)),
            "status": "completed",
            "payload": dict.fromkeys(("legacyId", "legacyJobId"), str(_OBJECT_ID))
            | dict.fromkeys(("legacyIdType", "legacyJobIdType"), "objectId"),
        },
        [("id", "kept in payload"), ("jobId", "made of the old one"), _OLD],
    ),
    "run with its metadata as text": (
        _RUNS,
        run(metadata='{"a": "b"}'),
        {"metadata": {"a": "b"}},
        [("metadata", "was JSON text")],
    ),
    "run that names its byte order": (
        _RUNS,
        run(_id=Binary.from_uuid(UUID(ID), UuidRepresentation.JAVA_LEGACY), legacyUuids="java"),
        {"id": UUID(ID), "metadata": {"legacyIdType": "uuidJava"}},
        [("id", "was binary, uuidJava")],
    ),
    "queued run": (_RUNS, run(status="queued"), {"status": "pending"}, [_OLD]),
    "succeeded run": (
        _RUNS,
        run(status="succeeded", submittedAt=LATER, completedAt=LAST),
        {"status": "completed"},
        [_OLD],
    ),
    "cancelled run": (
        _RUNS,
        run(status="Cancelled", cancelledAt=LAST),
        {"status": "canceled", "canceled_at": LAST},
        [_OLD, ("canceledAt", "was cancelledAt")],
    ),
    "running run with a lease": (
        _RUNS,
        run(**_LEASE, status="running", attempts=1, lastAttemptAt=AT),
        {"status": "dispatching"},
        [_OLD],
    ),
    "running run that was submitted": (
        _RUNS,
        run(status="running", submittedAt=LATER),
        {"status": "submitted"},
        [_OLD],
    ),
    "dispatching run without a lease": (
        _RUNS,
        run(status="dispatching", attempts=2),
        {"status": "pending", "attempts": 2},
        [("status", "pending, for its lease is missing")],
    ),
    "dispatching run with half a lease": (
        _RUNS,
        run(status="dispatching", attempts=2, leaseOwner="d"),
        {"status": "pending", "lease_owner": None, "metadata": preserved(leaseOwner="d")},
        [("status", "pending, for its lease is missing"), ("leaseOwner", "moved to metadata")],
    ),
    "dispatching run without attempts": (
        _RUNS,
        run(**_LEASE, status="dispatching", updatedAt=LATER),
        {"attempts": 1, "last_attempt_at": LATER},
        [_RAISED, ("lastAttemptAt", "taken from updatedAt")],
    ),
    "pending run with a lease": (
        _RUNS,
        run(**_LEASE),
        {
            "status": "pending",
            "lease_expires_at": None,
            "metadata": preserved(leaseOwner="dispatcher-1", leaseExpiresAt=LATER.isoformat()),
        },
        [("leaseOwner", "moved to metadata"), ("leaseExpiresAt", "moved to metadata")],
    ),
    "pending run that should end": (
        _RUNS,
        run(**_ASKED, cancellationReason="late"),
        {"status": "canceled", "canceled_at": LATER, "cancellation_reason": "late"},
        [("status", "canceled, for its end was asked for"), ("canceledAt", "taken from cancellationRequestedAt")],
    ),
    "dispatching run without a lease that should end": (
        _RUNS,
        run(**_ASKED, status="dispatching", attempts=1),
        {"status": "canceled", "canceled_at": LATER},
        [
            ("status", "pending, for its lease is missing"),
            ("status", "canceled, for its end was asked for"),
            ("canceledAt", "taken from cancellationRequestedAt"),
        ],
    ),
    "asked to end, nobody knows when": (
        _RUNS,
        run(status="submitted", submittedAt=AT, cancellationRequested=True, updatedAt=LAST),
        {"cancellation_requested_at": LAST},
        [("cancellationRequestedAt", "taken from updatedAt")],
    ),
    "asked to end by its time alone": (
        _RUNS,
        run(status="submitted", submittedAt=AT, cancellationRequestedAt=LATER),
        {"cancellation_requested": True},
        [("cancellationRequested", "was missing")],
    ),
    "canceled run with completedAt": (
        _RUNS,
        run(status="canceled", completedAt=LAST),
        {"canceled_at": LAST, "completed_at": None, "metadata": preserved(completedAt=LAST.isoformat())},
        [("canceledAt", "taken from completedAt"), ("completedAt", "moved to metadata")],
    ),
    "completed run without its times": (
        _RUNS,
        run(status="completed", lastAttemptAt=LATER, updatedAt=LAST),
        {"completed_at": LAST, "submitted_at": LATER},
        [("completedAt", "taken from updatedAt"), ("submittedAt", "taken from lastAttemptAt")],
    ),
    "failed run without an error": (
        _RUNS,
        run(status="failed", completedAt=LAST),
        {"last_error": "no reason was kept"},
        [("lastError", "a stated reason put in")],
    ),
    "run as .NET kept it": (
        _RUNS,
        run(attempts=ABSENT, attemptCount=2, priorityRank=1, priority="High", mode="Simulate", cancelledAt=None),
        {"attempts": 2, "priority": "high", "mode": "simulate"},
        [
            ("attempts", "was attemptCount"),
            ("priorityRank", "left out, for the priority tells it"),
            ("mode", "old word"),
            ("priority", "old word"),
        ],
    ),
    "run with little": (
        _RUNS,
        run(runId=ABSENT, priority=ABSENT, attempts=ABSENT, queuedAt=ABSENT, availableAt=ABSENT, updatedAt=ABSENT),
        {"run_id": f"run:{ID}", "queued_at": AT, "available_at": AT, "updated_at": AT, "priority": "normal"},
        [
            ("queuedAt", "taken from createdAt"),
            ("availableAt", "taken from createdAt"),
            ("attempts", "was missing"),
            ("updatedAt", "taken from createdAt"),
            ("runId", "made of the id"),
            ("priority", "was missing"),
        ],
    ),
    "unknown inputs": (
        _RUNS,
        run(inputs={"sbomSet": ["b", "a"], "scope": "all"}),
        {"metadata": {"legacy.inputs.scope": "all"}},
        [("inputs.sbomSet", "sorted, each once"), ("inputs.scope", "unknown field kept in metadata")],
    ),
}
