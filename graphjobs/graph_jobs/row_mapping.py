"""Between rows and values: what a job is written as, and what it is read from; no I/O here."""

from datetime import datetime
from typing import TypeAlias, TypeVar
from uuid import UUID

from graphjobs.core.event_log import event_of as log_entry_of
from graphjobs.database.executor import Row
from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.graph_jobs.models import GraphBuildJob, GraphJob, GraphJobEvent, GraphOverlayJob
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

AnyJob: TypeAlias = GraphBuildJob | GraphOverlayJob
Job = TypeVar("Job", bound=GraphJob)


def columns_of(job: GraphJob) -> dict[str, object]:
    """The binds that write a job: its columns and its payload, from one value, so that they never disagree."""
    return {
        "job": job.id,
        "tenant": job.tenant_id,
        "kind": job.type.code,
        "target": job.status.code,
        "document": job.to_json(),
        "created": job.created_at,
        "correlation": job.correlation_id,
    }


def swap_of(job: GraphJob, expected: object, seen: datetime | None) -> dict[str, object]:
    """The binds that swap a job in: its columns, the status and attempts it follows from, and where compared `seen`.

    Args:
        job: the job as it shall be.
        expected: the status it moves from.
        seen: the version it moves from; None means that of the job, for a move that keeps the status.

    Raises:
        IllegalTransition: no job may go from `expected` to `job.status`.
    """
    source = status_of(expected, "expected")
    source.require_move_to(job.status)
    begins = source is GraphJobStatus.QUEUED and job.status is GraphJobStatus.RUNNING
    binds = {
        **columns_of(job),
        "expected": source.code,
        "expected_attempts": job.attempts - 1 if begins else job.attempts,
    }
    if seen is not None:
        return {**binds, "seen": _require_version(seen)}
    if job.status is not source:
        return binds
    if job.updated_at is None:
        raise InvalidJob(
            "updated_at: a swap that keeps the status compares the version; change a job that was read",
            field="updated_at",
        )
    return {**binds, "seen": job.updated_at}


def _require_version(seen: object) -> datetime:
    if isinstance(seen, datetime) and seen.tzinfo is not None:
        return seen
    raise InvalidJob("seen: it should be the updated_at of a job that was read", field="seen")


def status_of(value: object, field: str) -> GraphJobStatus:
    """Reads a status given by its word, as an argument of a call.

    Raises:
        InvalidJob: it is none.
    """
    try:
        return GraphJobStatus.from_word(value)
    except ValueError:
        words = ", ".join(GraphJobStatus)
    raise InvalidJob(f"{field}: it should be one of {words}", field=field)


def require_job(job: Job) -> Job:
    """Lets a job of either kind pass, as an argument of a call.

    Raises:
        InvalidJob: it is none.
    """
    if type(job) in (GraphBuildJob, GraphOverlayJob):
        return job
    raise InvalidJob("job: it should be a GraphBuildJob or a GraphOverlayJob", field="job")


def job_of(kind: type[Job], row: Row) -> Job:
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


def any_job_of(row: Row) -> AnyJob:
    """Reads a job of a row, as the kind its column says."""
    if row[2] == GraphJobType.BUILD.code:
        return job_of(GraphBuildJob, row)
    if row[2] == GraphJobType.OVERLAY.code:
        return job_of(GraphOverlayJob, row)
    raise CorruptRow("graph_jobs", UUID(int=row[0].int), f"its type, {row[2]}, is none")


def event_of(row: Row) -> GraphJobEvent:
    """Reads an event of a row, in the order of `statements.LIST_EVENTS`."""
    return log_entry_of(GraphJobEvent, GraphJobStatus, "graph_job_events", row)
