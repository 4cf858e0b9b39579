"""Between rows and values: what a job is written as, and what it is read from; no I/O here."""

from datetime import datetime
from typing import TypeAlias, TypeVar
from uuid import UUID

from graphjobs.core.event_log import event_from_row as log_entry_of
from graphjobs.database.executor import Row
from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.graph_jobs.models import GraphBuildJob, GraphJob, GraphJobEvent, GraphOverlayJob
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

AnyJob: TypeAlias = GraphBuildJob | GraphOverlayJob
Job = TypeVar("Job", bound=GraphJob)


def job_params(job: GraphJob) -> dict[str, object]:
    """The binds that write a job: its columns and its payload, from one value, so that they never disagree."""
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
    """The binds that swap a job in: its columns, the status and attempts it follows from, and where compared `seen`.

    Args:
        job: the job as it shall be.
        expected: the status it moves from.
        expected_version: the version it moves from; None means that of the job, for a move that keeps the status.

    Raises:
        IllegalTransition: no job may go from `expected` to `job.status`.
    """
    source = parse_status(expected, "expected")
    source.require_transition(job.status)
    begins = source is GraphJobStatus.QUEUED and job.status is GraphJobStatus.RUNNING
    binds = {
        **job_params(job),
        "p_expected_status": source.code,
        "p_expected_attempts": job.attempts - 1 if begins else job.attempts,
    }
    if expected_version is not None:
        return {**binds, "p_expected_version": _check_version(expected_version)}
    if job.status is not source:
        return binds
    if job.updated_at is None:
        raise InvalidJob(
            "updated_at: a swap that keeps the status compares the version; change a job that was read",
            field="updated_at",
        )
    return {**binds, "p_expected_version": job.updated_at}


def _check_version(expected_version: object) -> datetime:
    if isinstance(expected_version, datetime) and expected_version.tzinfo is not None:
        return expected_version
    raise InvalidJob("expected_version: it should be the updated_at of a job that was read", field="expected_version")


def parse_status(value: object, field: str) -> GraphJobStatus:
    """Reads a status given by its word, as an argument of a call.

    Raises:
        InvalidJob: it is none.
    """
    try:
        return GraphJobStatus.parse(value)
    except ValueError:
        words = ", ".join(GraphJobStatus)
    raise InvalidJob(f"{field}: it should be one of {words}", field=field)


def check_job(job: Job) -> Job:
    """Lets a job of either kind pass, as an argument of a call.

    Raises:
        InvalidJob: it is none.
    """
    if type(job) in (GraphBuildJob, GraphOverlayJob):
        return job
    raise InvalidJob("job: it should be a GraphBuildJob or a GraphOverlayJob", field="job")


def job_from_row(kind: type[Job], row: Row) -> Job:
    """Reads a job of a row, in the order of `statements.GET_JOB`."""
    job_id, tenant_id, type_code, status_code, created_at, correlation_id, updated_at, document = row
    try:
        job = kind.from_json(document, updated_at=updated_at)
    except InvalidJob as error:
        problem = f"its payload is no {kind.__name__}: {error}"
    else:
        columns = (job_id, tenant_id, type_code, status_code, created_at, correlation_id)
        if columns == (job.id, job.tenant_id, kind.type.code, job.status.code, job.created_at, job.correlation_id):
            return job
        problem = "its payload and its columns disagree"
    raise CorruptRow("graph_jobs", UUID(int=job_id.int), problem)


def any_job_from_row(row: Row) -> AnyJob:
    """Reads a job of a row, as the kind its column says."""
    if row[2] == GraphJobType.BUILD.code:
        return job_from_row(GraphBuildJob, row)
    if row[2] == GraphJobType.OVERLAY.code:
        return job_from_row(GraphOverlayJob, row)
    raise CorruptRow("graph_jobs", UUID(int=row[0].int), f"its type, {row[2]}, is none")


def event_from_row(row: Row) -> GraphJobEvent:
    """Reads an event of a row, in the order of `statements.LIST_EVENTS`."""
    return log_entry_of(GraphJobEvent, GraphJobStatus, "graph_job_events", row)
