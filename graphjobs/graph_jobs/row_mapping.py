"""Mapping between graph jobs and rows: the parameters that write a job, and the job that a row holds. No I/O here."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from graphjobs.core import event_log
from graphjobs.core.fields import as_uuid
from graphjobs.core.pagination import PageKey
from graphjobs.core.validation import parse_member
from graphjobs.database.executor import Row
from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphJob, GraphJobEvent, GraphOverlayJob, Job
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType


class JobColumns(NamedTuple):
    """The columns of a job, in the order of `sql.single.job_columns`. Times are None where Python cannot hold them."""

    id: UUID
    tenant_id: str
    type: int
    status: int
    created_at: datetime
    correlation_id: str | None
    updated_at: datetime | None
    payload: str


def job_params(job: GraphJob) -> dict[str, object]:
    """Return the parameters that write a job: columns and payload from one value, so that they never disagree."""
    return {
        "p_job_id": job.id,
        "p_tenant_id": job.tenant_id,
        "p_type": job.type.code,
        "p_status": job.status.code,
        "p_payload": job.to_json(),
        "p_created_at": job.created_at,
        "p_correlation_id": job.correlation_id,
    }


def swap_params(job: GraphJob, expected: object, expected_version: datetime | None) -> dict[str, object]:
    """Return the parameters of a swap: the job, the status and attempts that it follows from, maybe the version.

    Args:
        job: the job after the swap.
        expected: the status before it.
        expected_version: the version before it; None means that of the job, for a swap that keeps the status.

    Raises:
        IllegalTransition: the transition table does not allow `expected` to `job.status`.
    """
    source = parse_member(GraphJobStatus, expected, "expected")
    source.require_transition(job.status)
    is_start = source is GraphJobStatus.QUEUED and job.status is GraphJobStatus.RUNNING
    params = {
        **job_params(job),
        "p_expected_status": source.code,
        "p_expected_attempts": job.attempts - 1 if is_start else job.attempts,
    }
    if expected_version is not None:
        return {**params, "p_expected_version": _check_version(expected_version)}
    if job.status is not source:
        return params
    if job.updated_at is None:
        raise InvalidJob(
            "updated_at must be set: a swap that keeps the status compares the version, so change a job that was read",
            field="updated_at",
        )
    return {**params, "p_expected_version": job.updated_at}


def _check_version(expected_version: object) -> datetime:
    if isinstance(expected_version, datetime) and expected_version.tzinfo is not None:
        return expected_version
    raise InvalidJob("expected_version must be the updated_at of a job that was read", field="expected_version")


def check_job(job: Job) -> Job:
    """Return a build or overlay job given as an argument.

    Raises:
        InvalidJob: it is neither.
    """
    if type(job) in (GraphBuildJob, GraphOverlayJob):
        return job
    raise InvalidJob(f"job must be a GraphBuildJob or a GraphOverlayJob, not {type(job).__name__}", field="job")


def job_from_row(kind: type[Job], row: Row) -> Job:
    """Read a job from a row of `JobColumns`.

    Raises:
        CorruptRow: the payload is not such a job, or disagrees with the columns.
    """
    return _job_from_columns(kind, JobColumns(*row))


def any_job_from_row(row: Row) -> AnyJob:
    """Read a job from a row of `JobColumns`, of the type that its column says."""
    columns = JobColumns(*row)
    if columns.type == GraphJobType.BUILD.code:
        return _job_from_columns(GraphBuildJob, columns)
    if columns.type == GraphJobType.OVERLAY.code:
        return _job_from_columns(GraphOverlayJob, columns)
    raise CorruptRow("graph_jobs", as_uuid(columns.id), f"its type is {columns.type}, which does not exist")


def _job_from_columns(kind: type[Job], columns: JobColumns) -> Job:
    try:
        job = kind.from_json(columns.payload, stored=True, updated_at=columns.updated_at)
    except InvalidJob as error:
        problem = f"its payload is not a {kind.__name__}: {error}"
    else:
        if columns[:6] == (job.id, job.tenant_id, kind.type.code, job.status.code, job.created_at, job.correlation_id):
            return job
        problem = "its payload and its columns disagree"
    raise CorruptRow("graph_jobs", as_uuid(columns.id), problem)


def page_key(row: Row) -> PageKey:
    """Return the key of a row of `JobColumns` in lists."""
    columns = JobColumns(*row)
    return PageKey(columns.created_at, as_uuid(columns.id))


def event_from_row(row: Row) -> GraphJobEvent:
    """Read an event from a row of `sql.single.LIST_EVENTS`."""
    return event_log.event_from_row(GraphJobEvent, GraphJobStatus, "graph_job_events", row)
