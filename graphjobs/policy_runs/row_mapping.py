"""Between rows and values: what a policy run is written as, and what it is read from; no I/O here."""

from typing import Any
from uuid import UUID

from graphjobs.core.event_log import event_from_row as log_entry_of
from graphjobs.database.executor import Row
from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunJob, PolicyRunPayload
from graphjobs.policy_runs.sql.single import COLUMNS
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

Status = PolicyRunStatus


def check_run(job: PolicyRunJob) -> PolicyRunJob:
    """Lets a run pass, as an argument of a call.

    Raises:
        InvalidJob: it is none.
    """
    if type(job) is PolicyRunJob:
        return job
    raise InvalidJob(f"job: it should be a PolicyRunJob, not {type(job).__name__}", field="job")


def run_params(job: PolicyRunJob) -> dict[str, object]:
    """The binds that write a run: its columns, and the payload of what no column holds."""
    return {
        "p_job_id": job.id,
        "p_tenant_id": job.tenant_id,
        "p_run_id": job.run_id,
        "p_policy_id": job.policy_id,
        "p_mode": job.mode.code,
        "p_priority": job.priority.code,
        "p_status": job.status.code,
        "p_attempts": job.attempts,
        "p_queued_at": job.queued_at,
        "p_available_at": job.available_at,
        "p_created_at": job.created_at,
        "p_last_attempt_at": job.last_attempt_at,
        "p_last_error": job.last_error,
        "p_submitted_at": job.submitted_at,
        "p_completed_at": job.completed_at,
        "p_lease_owner": job.lease_owner,
        "p_lease_expires_at": job.lease_expires_at,
        "p_cancellation_requested_at": job.cancellation_requested_at,
        "p_cancellation_reason": job.cancellation_reason,
        "p_canceled_at": job.canceled_at,
        "p_payload": job.payload_json(),
    }


def infer_source_status(job: PolicyRunJob, expected_lease_owner: str | None) -> PolicyRunStatus:
    """Tells the status a run was moved from: with an owner it was dispatching; without, what it has been tells.

    Raises:
        IllegalTransition: no run may go from there to where it is.
    """
    if expected_lease_owner is not None:
        source = Status.DISPATCHING
    elif job.status in (Status.PENDING, Status.DISPATCHING) or (
        job.status is Status.CANCELED and job.submitted_at is None
    ):
        source = Status.PENDING
    else:
        source = Status.SUBMITTED
    source.require_transition(job.status)
    return source


def swap_params(job: PolicyRunJob, source: PolicyRunStatus, expected_lease_owner: str | None) -> dict[str, object]:
    """The binds that swap a run in: its columns, and the status, owner and attempts it follows from.

    One that keeps its status compares the version, too.
    """
    begins = source is Status.PENDING and job.status is Status.DISPATCHING
    binds = {
        **run_params(job),
        "p_expected_status": source.code,
        "p_expected_lease_owner": expected_lease_owner,
        "p_expected_attempts": job.attempts - 1 if begins else job.attempts,
    }
    return {**binds, "p_expected_version": job.updated_at} if job.status is source else binds


def run_from_row(row: Row) -> PolicyRunJob:
    """Reads a run of a row, in the order of `statements.COLUMNS`; what comes after them is the statement's own.

    Raises:
        CorruptRow: it cannot be read.
    """
    columns: dict[str, Any] = dict(zip(COLUMNS, row, strict=False))
    key = UUID(int=columns.pop("id").int)
    try:
        details = PolicyRunPayload.from_json(columns.pop("payload"))
        return PolicyRunJob(
            **{
                **columns,
                **details.__dict__,
                "id": key,
                "mode": PolicyRunMode.from_code(columns["mode"]),
                "priority": PolicyRunPriority.from_code(columns["priority"]),
                "status": Status.from_code(columns["status"]),
                "cancellation_requested": columns["cancellation_requested_at"] is not None,
            }
        )
    except ValueError as error:  # InvalidJob is one, too
        problem = str(error)
    raise CorruptRow("policy_runs", key, problem)


def event_from_row(row: Row) -> PolicyRunEvent:
    """Reads an event of a row, in the order of `statements.LIST_EVENTS`."""
    return log_entry_of(PolicyRunEvent, PolicyRunStatus, "policy_run_events", row)
