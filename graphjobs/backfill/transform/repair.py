"""Repairs documents that lack a part of the invariants of jobs and runs, if the meaning is clear.

Each repair notes a change. Contradictions stay: the validation of the value rejects them. No BSON here, and no I/O.
"""

from datetime import UTC, datetime
from typing import Any, Final

from graphjobs.backfill.transform.diagnostics import FieldRejected
from graphjobs.backfill.transform.field_reader import FieldReader, first_available
from graphjobs.core.pagination import TIMESTAMP_MAX, TIMESTAMP_MIN
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.policy_runs.status import PolicyRunStatus

NO_REASON: Final = "no reason was kept"
RUNNING: Final = "running"
"""The public word for two statuses of a policy run: dispatching and submitted."""


def repair_job_state(reader: FieldReader, *, created_by_id: datetime | None, status: GraphJobStatus) -> dict[str, Any]:
    """Read the attempts, the times and the error of a graph job, and repair them.

    Raises:
        FieldRejected: a field is invalid, or no field has the creation time.
    """
    attempts = reader.number("attempts")
    created, updated = reader.time("createdAt", required=True), reader.time("updatedAt")
    started, completed = reader.time("startedAt"), reader.time("completedAt")
    error = reader.error("error")
    if updated is not None and not TIMESTAMP_MIN <= updated <= TIMESTAMP_MAX:
        reader.note_change("updatedAt", "left out, for no column holds it")
        updated = None
    created = _require_storable(
        created or _creation_time(reader, created_by_id, (("startedAt", started), ("updatedAt", updated)))
    )
    if attempts is None:
        attempts = 0
        reader.note_change("attempts", "was missing")
    if status is GraphJobStatus.RUNNING or status is GraphJobStatus.COMPLETED:
        if started is None:
            started = first_available(reader, "startedAt", (("createdAt", created),))
        if attempts == 0:
            attempts = 1
            reader.note_change("attempts", "raised to 1")
    if completed is None and status.is_final:
        times = (("updatedAt", updated), ("startedAt", started), ("createdAt", created))
        completed = first_available(reader, "completedAt", times)
    if error is None and status is GraphJobStatus.FAILED:
        error = NO_REASON
        reader.note_change("error", "a stated reason put in")
    if error is not None and status is GraphJobStatus.COMPLETED:
        reader.preserve("legacy.error", error)
        reader.note_change("error", "moved to metadata")
        error = None
    return {
        "status": status,
        "attempts": attempts,
        "created_at": created,
        "started_at": started,
        "completed_at": completed,
        "error": error,
        "updated_at": updated,
    }


def repair_event_time(reader: FieldReader, created_by_id: datetime | None) -> datetime:
    """Read the time of an event, or take it from its ObjectId.

    Raises:
        FieldRejected: both are missing, or the time is invalid.
    """
    return _require_storable(reader.time("createdAt", required=True) or _creation_time(reader, created_by_id, ()))


def _require_storable(created: datetime) -> datetime:
    if TIMESTAMP_MIN <= created <= TIMESTAMP_MAX:
        return created
    raise FieldRejected("createdAt", "must be between 0001-01-02 and 9999-12-30, the limits of the table")


def _creation_time(
    reader: FieldReader, created_by_id: datetime | None, times: tuple[tuple[str, datetime | None], ...]
) -> datetime:
    created = first_available(reader, "createdAt", (("_id", created_by_id), *times))
    if created is None:
        raise FieldRejected("createdAt", "is missing, and no other field has the creation time")
    return created


def repair_run_state(reader: FieldReader, *, created_by_id: datetime | None, word: str) -> dict[str, Any]:
    """Read the status, attempts, times, lease and cancellation request of a policy run, and repair them.

    Args:
        reader: the fields.
        created_by_id: the time of the document's ObjectId.
        word: the current word of the status, or `RUNNING`.

    Raises:
        FieldRejected: a field is invalid, no field has the creation time, or fields contradict one another.
    """
    for old, name in (("attemptCount", "attempts"), ("cancelledAt", "canceledAt"), ("error", "lastError")):
        reader.rename(old, name)
    attempts = reader.number("attempts")
    times = {name: reader.time(name, required=name in _REQUIRED_RUN_TIMES) for name in _RUN_TIMES}
    error, reason = reader.error("lastError"), reader.error("cancellationReason")
    owner, requested = reader.text("leaseOwner"), reader.flag("cancellationRequested")
    fallbacks = (("queuedAt", times["queuedAt"]), ("updatedAt", times["updatedAt"]))
    created = times["createdAt"] = times["createdAt"] or _creation_time(reader, created_by_id, fallbacks)
    for name in ("queuedAt", "availableAt"):
        times[name] = times[name] or first_available(reader, name, (("createdAt", created),))
    if attempts is None:
        attempts = 0
        reader.note_change("attempts", "was missing")
    status = _split_running(reader, owner, times) if word == RUNNING else PolicyRunStatus.parse(word)
    status, owner = _repair_lease(reader, status, owner, times)
    is_requested = _repair_cancellation(reader, requested, times)
    if status is PolicyRunStatus.PENDING and is_requested:
        status = PolicyRunStatus.CANCELED
        reader.note_change("status", "canceled, for its end was asked for")
    if status is PolicyRunStatus.DISPATCHING and attempts == 0:
        attempts = 1
        reader.note_change("attempts", "raised to 1")
    if status is PolicyRunStatus.FAILED and error is None:
        error = NO_REASON
        reader.note_change("lastError", "a stated reason put in")
    _repair_times(reader, status, times)
    return {
        "status": status,
        "attempts": attempts,
        "last_error": error,
        "lease_owner": owner,
        "cancellation_requested": is_requested,
        "cancellation_reason": reason,
        **{column: times[name] for name, column in _RUN_TIMES.items()},
    }


_REQUIRED_RUN_TIMES: Final = ("createdAt", "queuedAt")
_RUN_TIMES: Final = {
    "createdAt": "created_at",
    "updatedAt": "updated_at",
    "queuedAt": "queued_at",
    "availableAt": "available_at",
    "lastAttemptAt": "last_attempt_at",
    "submittedAt": "submitted_at",
    "completedAt": "completed_at",
    "canceledAt": "canceled_at",
    "leaseExpiresAt": "lease_expires_at",
    "cancellationRequestedAt": "cancellation_requested_at",
}


def _split_running(reader: FieldReader, owner: str | None, times: dict[str, datetime | None]) -> PolicyRunStatus:
    leased = owner is not None and times["leaseExpiresAt"] is not None
    submitted = times["submittedAt"] is not None
    if leased == submitted:
        parts = "both a lease and submittedAt" if leased else "neither a complete lease nor submittedAt"
        raise FieldRejected("status", f"'running' means dispatching or submitted, and the run has {parts}")
    reader.note_change("status", "old word")
    return PolicyRunStatus.DISPATCHING if leased else PolicyRunStatus.SUBMITTED


def _repair_lease(
    reader: FieldReader, status: PolicyRunStatus, owner: str | None, times: dict[str, datetime | None]
) -> tuple[PolicyRunStatus, str | None]:
    """Keep a complete lease of a dispatching run. Move the parts of any other lease to the metadata."""
    expires = times["leaseExpiresAt"]
    if status is PolicyRunStatus.DISPATCHING:
        if owner is not None and expires is not None:
            return status, owner
        status = PolicyRunStatus.PENDING
        reader.note_change("status", "pending, for its lease is missing")
    if owner is not None:
        reader.preserve("legacy.leaseOwner", owner)
        reader.note_change("leaseOwner", "moved to metadata")
    if expires is not None:
        _preserve_time(reader, "leaseExpiresAt", times)
    return status, None


def _preserve_time(reader: FieldReader, name: str, times: dict[str, datetime | None]) -> None:
    time, times[name] = times[name], None
    if time is not None:
        reader.preserve(f"legacy.{name}", time.astimezone(UTC).isoformat())
        reader.note_change(name, "moved to metadata")


def _repair_cancellation(reader: FieldReader, requested: bool | None, times: dict[str, datetime | None]) -> bool:
    requested_at = times["cancellationRequestedAt"]
    if requested_at is not None and requested is None:
        reader.note_change("cancellationRequested", "was missing")
        return True
    if requested_at is None and requested:
        others = tuple((name, times[name]) for name in ("canceledAt", "updatedAt", "createdAt"))
        times["cancellationRequestedAt"] = first_available(reader, "cancellationRequestedAt", others)
    return bool(requested)


def _repair_times(reader: FieldReader, status: PolicyRunStatus, times: dict[str, datetime | None]) -> None:
    """Fill the times that the status requires, each from the nearest other time."""
    if status is PolicyRunStatus.CANCELED and times["completedAt"] is not None:
        if times["canceledAt"] is None:
            times["canceledAt"] = first_available(reader, "canceledAt", (("completedAt", times["completedAt"]),))
        _preserve_time(reader, "completedAt", times)
    sources: dict[PolicyRunStatus, dict[str, tuple[str, ...]]] = {
        PolicyRunStatus.DISPATCHING: {"lastAttemptAt": ("updatedAt", "createdAt")},
        PolicyRunStatus.SUBMITTED: {"submittedAt": ("updatedAt", "lastAttemptAt", "createdAt")},
        PolicyRunStatus.COMPLETED: {
            "completedAt": ("updatedAt", "submittedAt", "lastAttemptAt", "createdAt"),
            "submittedAt": ("lastAttemptAt", "completedAt", "createdAt"),
        },
        PolicyRunStatus.FAILED: {"completedAt": ("updatedAt", "submittedAt", "lastAttemptAt", "createdAt")},
        PolicyRunStatus.CANCELED: {"canceledAt": ("cancellationRequestedAt", "updatedAt", "createdAt")},
    }
    for name, others in sources.get(status, {}).items():
        if times[name] is None:
            times[name] = first_available(reader, name, ((other, times[other]) for other in others))
    if times["updatedAt"] is None:
        last = ("completedAt", "canceledAt", "submittedAt", "lastAttemptAt", "createdAt")
        times["updatedAt"] = first_available(reader, "updatedAt", ((other, times[other]) for other in last))
