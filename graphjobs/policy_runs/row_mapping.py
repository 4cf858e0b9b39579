"""Between rows and values: what a policy run is written as, and what it is read from; no I/O here."""

from typing import Any
from uuid import UUID

from graphjobs.core.event_log import event_of as log_entry_of
from graphjobs.database.executor import Row
from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.policy_runs.models import PolicyRunDetails, PolicyRunEvent, PolicyRunJob
from graphjobs.policy_runs.sql.single import COLUMNS
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

_S = PolicyRunStatus


def require_run(job: PolicyRunJob) -> PolicyRunJob:
    """Lets a run pass, as an argument of a call.

    Raises:
        InvalidJob: it is none.
    """
    if type(job) is PolicyRunJob:
        return job
    raise InvalidJob(f"job: it should be a PolicyRunJob, not {type(job).__name__}", field="job")


def columns_of(job: PolicyRunJob) -> dict[str, object]:
    """The binds that write a run: its columns, and the payload of what no column holds."""
    return {
        "job": job.id,
        "tenant": job.tenant_id,
        "name": job.run_id,
        "policy": job.policy_id,
        "kind": job.mode.code,
        "urgency": job.priority.code,
        "target": job.status.code,
        "tries": job.attempts,
        "queued": job.queued_at,
        "available": job.available_at,
        "created": job.created_at,
        "last_attempt": job.last_attempt_at,
        "problem": job.last_error,
        "submitted": job.submitted_at,
        "completed": job.completed_at,
        "owner": job.lease_owner,
        "expires": job.lease_expires_at,
        "cancel_asked": job.cancellation_requested_at,
        "reason": job.cancellation_reason,
        "canceled": job.canceled_at,
        "document": job.details_json(),
    }


def source_of(job: PolicyRunJob, expected_lease_owner: str | None) -> PolicyRunStatus:
    """Tells the status a run was moved from: with an owner it was dispatching; without, what it has been tells.

    Raises:
        IllegalTransition: no run may go from there to where it is.
    """
    if expected_lease_owner is not None:
        source = _S.DISPATCHING
    elif job.status in (_S.PENDING, _S.DISPATCHING) or (job.status is _S.CANCELED and job.submitted_at is None):
        source = _S.PENDING
    else:
        source = _S.SUBMITTED
    source.require_move_to(job.status)
    return source


def swap_of(job: PolicyRunJob, source: PolicyRunStatus, expected_lease_owner: str | None) -> dict[str, object]:
    """The binds that swap a run in: its columns, and the status, owner and attempts it follows from.

    One that keeps its status compares the version, too.
    """
    begins = source is _S.PENDING and job.status is _S.DISPATCHING
    binds = {
        **columns_of(job),
        "expected": source.code,
        "expected_owner": expected_lease_owner,
        "expected_attempts": job.attempts - 1 if begins else job.attempts,
    }
    return {**binds, "seen": job.updated_at} if job.status is source else binds


def run_of(row: Row) -> PolicyRunJob:
    """Reads a run of a row, in the order of `statements.COLUMNS`; what comes after them is the statement's own.

    Raises:
        CorruptRow: it cannot be read.
    """
    columns: dict[str, Any] = dict(zip(COLUMNS, row, strict=False))
    key = UUID(int=columns.pop("id").int)
    try:
        details = PolicyRunDetails.from_json(columns.pop("payload"))
        return PolicyRunJob(
            **{
                **columns,
                **details.__dict__,
                "id": key,
                "mode": PolicyRunMode.from_code(columns["mode"]),
                "priority": PolicyRunPriority.from_code(columns["priority"]),
                "status": _S.from_code(columns["status"]),
                "cancellation_requested": columns["cancellation_requested_at"] is not None,
            }
        )
    except ValueError as error:  # InvalidJob is one, too
        problem = str(error)
    raise CorruptRow("policy_runs", key, problem)


def event_of(row: Row) -> PolicyRunEvent:
    """Reads an event of a row, in the order of `statements.LIST_EVENTS`."""
    return log_entry_of(PolicyRunEvent, _S, "policy_run_events", row)
