"""Mapping between policy runs and rows: the parameters that write a run, and the run that a row holds. No I/O here."""

from typing import Any, Final

from graphjobs.core import event_log
from graphjobs.core.fields import as_uuid
from graphjobs.core.pagination import PageKey
from graphjobs.core.validation import check_type
from graphjobs.database.executor import Row
from graphjobs.errors import CorruptRow
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunJob, PolicyRunPayload
from graphjobs.policy_runs.sql.single import COLUMNS
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

Status = PolicyRunStatus

_WRITTEN_COLUMNS: Final = tuple(name for name in COLUMNS if name not in ("id", "updated_at"))


def check_run(job: PolicyRunJob) -> PolicyRunJob:
    """Return a run given as an argument.

    Raises:
        InvalidJob: it is not a PolicyRunJob.
    """
    return check_type(job, PolicyRunJob, "job")


def run_params(job: PolicyRunJob) -> dict[str, object]:
    """Return the parameters that write a run: each written column, and the payload of all other fields."""
    coded = {"mode": job.mode.code, "priority": job.priority.code, "status": job.status.code}
    values = {**job.__dict__, **coded, "payload": job.payload_json()}
    return {"p_job_id": job.id, **{f"p_{name}": values[name] for name in _WRITTEN_COLUMNS}}


def infer_source_status(job: PolicyRunJob, expected_lease_owner: str | None) -> PolicyRunStatus:
    """Return the status before a transition: dispatching with an owner; without one, the run's own times tell.

    Raises:
        IllegalTransition: the transition table does not allow that status to `job.status`.
    """
    is_unsubmitted_cancel = job.status is Status.CANCELED and job.submitted_at is None
    if expected_lease_owner is not None:
        source = Status.DISPATCHING
    elif job.status in (Status.PENDING, Status.DISPATCHING) or is_unsubmitted_cancel:
        source = Status.PENDING
    else:
        source = Status.SUBMITTED
    source.require_transition(job.status)
    return source


def swap_params(job: PolicyRunJob, source: PolicyRunStatus, expected_lease_owner: str | None) -> dict[str, object]:
    """Return the parameters of a swap: the run, and the status, owner and attempts that it follows from.

    A swap that keeps the status compares the version, too.
    """
    is_lease = source is Status.PENDING and job.status is Status.DISPATCHING
    params = {
        **run_params(job),
        "p_expected_status": source.code,
        "p_expected_lease_owner": expected_lease_owner,
        "p_expected_attempts": job.attempts - 1 if is_lease else job.attempts,
    }
    return {**params, "p_expected_version": job.updated_at} if job.status is source else params


def row_columns(row: Row) -> dict[str, Any]:
    """Return the columns of a row of `COLUMNS` by name; what the statement adds after them is left out."""
    return dict(zip(COLUMNS, row, strict=False))


def run_from_row(row: Row) -> PolicyRunJob:
    """Read a run from a row of `COLUMNS`.

    Raises:
        CorruptRow: the row is not such a run.
    """
    columns = row_columns(row)
    job_id = as_uuid(columns.pop("id"))
    try:
        payload = PolicyRunPayload.from_json(columns.pop("payload"), stored=True)
        return PolicyRunJob(
            **{
                **columns,
                **payload.__dict__,
                "id": job_id,
                "mode": PolicyRunMode.from_code(columns["mode"]),
                "priority": PolicyRunPriority.from_code(columns["priority"]),
                "status": Status.from_code(columns["status"]),
                "cancellation_requested": columns["cancellation_requested_at"] is not None,
            }
        )
    except ValueError as error:  # InvalidJob is one, too
        problem = str(error)
    raise CorruptRow("policy_runs", job_id, problem)


def page_key(row: Row) -> PageKey:
    """Return the key of a row of `COLUMNS` in lists."""
    columns = row_columns(row)
    return PageKey(columns["queued_at"], as_uuid(columns["id"]))


def event_from_row(row: Row) -> PolicyRunEvent:
    """Read an event from a row of `sql.single.LIST_EVENTS`."""
    return event_log.event_from_row(PolicyRunEvent, PolicyRunStatus, "policy_run_events", row)
