"""Mends what old documents lack of the invariants of jobs and runs, where the meaning is clear, and tells it.

What contradicts itself is left as it is: the value refuses it. No BSON here, and no I/O.
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
"""A word of the outside for two statuses of a policy run: dispatching and submitted."""

_Graph = GraphJobStatus
_Run = PolicyRunStatus


def repair_job_state(
    document: FieldReader, *, created_by_id: datetime | None, status: GraphJobStatus
) -> dict[str, Any]:
    """Reads how far a graph job came: its attempts, its times and its error.

    Raises:
        Refusal: one cannot be read, or nothing tells when it was created.
    """
    attempts = document.number("attempts")
    created, updated = document.time("createdAt"), document.time("updatedAt")
    started, completed = document.time("startedAt"), document.time("completedAt")
    error = document.error("error")
    if updated is not None and not TIMESTAMP_MIN <= updated <= TIMESTAMP_MAX:  # .NET's own word for "never" is year 1
        document.note_change("updatedAt", "left out, for no column holds it")
        updated = None
    created = _require_storable(
        created or _creation_time(document, created_by_id, (("startedAt", started), ("updatedAt", updated)))
    )
    if attempts is None:
        attempts = 0
        document.note_change("attempts", "was missing")
    if status is _Graph.RUNNING or status is _Graph.COMPLETED:
        if started is None:
            started = first_available(document, "startedAt", (("createdAt", created),))
        if attempts == 0:
            attempts = 1
            document.note_change("attempts", "raised to 1")
    if completed is None and status.is_final:
        times = (("updatedAt", updated), ("startedAt", started), ("createdAt", created))
        completed = first_available(document, "completedAt", times)
    if error is None and status is _Graph.FAILED:
        error = NO_REASON
        document.note_change("error", "a stated reason put in")
    if error is not None and status is _Graph.COMPLETED:
        document.preserve("legacy.error", error)
        document.note_change("error", "moved to metadata")
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


def repair_event_time(document: FieldReader, created_by_id: datetime | None) -> datetime:
    """Reads when an event was, or takes it of its ObjectId.

    Raises:
        Refusal: nothing tells.
    """
    return _require_storable(document.time("createdAt") or _creation_time(document, created_by_id, ()))


def _require_storable(created: datetime) -> datetime:
    if TIMESTAMP_MIN <= created <= TIMESTAMP_MAX:
        return created
    raise FieldRejected("createdAt", "it should lie between 0001-01-02 and 9999-12-30, for the table to hold it")


def _creation_time(
    document: FieldReader, created_by_id: datetime | None, times: tuple[tuple[str, datetime | None], ...]
) -> datetime:
    created = first_available(document, "createdAt", (("_id", created_by_id), *times))
    if created is None:
        raise FieldRejected("createdAt", "a document should have one, and nothing else tells when it was created")
    return created


def repair_run_state(document: FieldReader, *, created_by_id: datetime | None, word: str) -> dict[str, Any]:
    """Reads how far a policy run came: its status, attempts, times, lease and what was asked of it.

    Args:
        document: what is to be read.
        created_by_id: when its ObjectId was made.
        word: its status, in our word or as `RUNNING`.

    Raises:
        Refusal: one cannot be read, nothing tells when it was created, or its pieces contradict one another.
    """
    for old, name in (("attemptCount", "attempts"), ("cancelledAt", "canceledAt"), ("error", "lastError")):
        document.rename(old, name)
    attempts = document.number("attempts")
    times = {name: document.time(name) for name in _RUN_TIMES}
    error, reason = document.error("lastError"), document.error("cancellationReason")
    owner, asked = document.text("leaseOwner"), document.flag("cancellationRequested")
    updated, queued = times["updatedAt"], times["queuedAt"]
    created = times["createdAt"] or _creation_time(
        document, created_by_id, (("queuedAt", queued), ("updatedAt", updated))
    )
    times["createdAt"] = created
    for name in ("queuedAt", "availableAt"):
        times[name] = times[name] or first_available(document, name, (("createdAt", created),))
    if attempts is None:
        attempts = 0
        document.note_change("attempts", "was missing")
    status = _split_running(document, owner, times) if word == RUNNING else _Run.parse(word)
    status, owner = _repair_lease(document, status, owner, times)
    asked = _repair_cancellation(document, asked, times)
    if status is _Run.PENDING and asked:
        status = _Run.CANCELED
        document.note_change("status", "canceled, for its end was asked for")
    if status is _Run.DISPATCHING and attempts == 0:
        attempts = 1
        document.note_change("attempts", "raised to 1")
    if status is _Run.FAILED and error is None:
        error = NO_REASON
        document.note_change("lastError", "a stated reason put in")
    _repair_times(document, status, times)
    return {
        "status": status,
        "attempts": attempts,
        "last_error": error,
        "lease_owner": owner,
        "cancellation_requested": asked,
        "cancellation_reason": reason,
        **{column: times[name] for name, column in _RUN_TIMES.items()},
    }


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


def _split_running(document: FieldReader, owner: str | None, times: dict[str, datetime | None]) -> PolicyRunStatus:
    leased = owner is not None and times["leaseExpiresAt"] is not None
    submitted = times["submittedAt"] is not None
    if leased == submitted:
        pieces = "both a lease and submittedAt" if leased else "neither a whole lease nor submittedAt"
        raise FieldRejected("status", f"'running' is dispatching or submitted, and {pieces} stand there to tell which")
    document.note_change("status", "old word")
    return _Run.DISPATCHING if leased else _Run.SUBMITTED


def _repair_lease(
    document: FieldReader, status: PolicyRunStatus, owner: str | None, times: dict[str, datetime | None]
) -> tuple[PolicyRunStatus, str | None]:
    """A lease is whole and of a dispatching run: else whoever held it has lost it, and what is left is kept aside."""
    ends = times["leaseExpiresAt"]
    if status is _Run.DISPATCHING:
        if owner is not None and ends is not None:
            return status, owner
        status = _Run.PENDING
        document.note_change("status", "pending, for its lease is missing")
    if owner is not None:
        document.preserve("legacy.leaseOwner", owner)
        document.note_change("leaseOwner", "moved to metadata")
    if ends is not None:
        _preserve_time(document, "leaseExpiresAt", times)
    return status, None


def _preserve_time(document: FieldReader, name: str, times: dict[str, datetime | None]) -> None:
    time, times[name] = times[name], None
    if time is not None:
        document.preserve(f"legacy.{name}", time.astimezone(UTC).isoformat())
        document.note_change(name, "moved to metadata")


def _repair_cancellation(document: FieldReader, asked: bool | None, times: dict[str, datetime | None]) -> bool:
    at = times["cancellationRequestedAt"]
    if at is not None and asked is None:
        document.note_change("cancellationRequested", "was missing")
        return True
    if at is None and asked:
        others = tuple((name, times[name]) for name in ("canceledAt", "updatedAt", "createdAt"))
        times["cancellationRequestedAt"] = first_available(document, "cancellationRequestedAt", others)
    return bool(asked)


def _repair_times(document: FieldReader, status: PolicyRunStatus, times: dict[str, datetime | None]) -> None:
    """Fills what the status asks for, each from what is nearest to it."""
    if status is _Run.CANCELED and times["completedAt"] is not None:
        if times["canceledAt"] is None:
            times["canceledAt"] = first_available(document, "canceledAt", (("completedAt", times["completedAt"]),))
        _preserve_time(document, "completedAt", times)
    sources: dict[PolicyRunStatus, dict[str, tuple[str, ...]]] = {
        _Run.DISPATCHING: {"lastAttemptAt": ("updatedAt", "createdAt")},
        _Run.SUBMITTED: {"submittedAt": ("updatedAt", "lastAttemptAt", "createdAt")},
        _Run.COMPLETED: {
            "completedAt": ("updatedAt", "submittedAt", "lastAttemptAt", "createdAt"),
            "submittedAt": ("lastAttemptAt", "completedAt", "createdAt"),
        },
        _Run.FAILED: {"completedAt": ("updatedAt", "submittedAt", "lastAttemptAt", "createdAt")},
        _Run.CANCELED: {"canceledAt": ("cancellationRequestedAt", "updatedAt", "createdAt")},
    }
    for name, others in sources.get(status, {}).items():
        if times[name] is None:
            times[name] = first_available(document, name, ((other, times[other]) for other in others))
    if times["updatedAt"] is None:
        last = ("completedAt", "canceledAt", "submittedAt", "lastAttemptAt", "createdAt")
        times["updatedAt"] = first_available(document, "updatedAt", ((other, times[other]) for other in last))
