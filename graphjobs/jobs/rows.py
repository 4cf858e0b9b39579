"""Between rows and values: what a job is written as, and what it is read from; no I/O here."""

from collections.abc import Callable, Iterable, Sequence
from typing import Self, TypeAlias, TypeVar
from uuid import UUID

from pydantic_core import from_json

from graphjobs.database.executor import Row
from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob
from graphjobs.jobs.status import GraphJobStatus, GraphJobType

AnyJob: TypeAlias = GraphBuildJob | GraphOverlayJob
Job = TypeVar("Job", GraphBuildJob, GraphOverlayJob)
T = TypeVar("T")


class Readable(tuple[T, ...]):
    """What could be read of a list, in its order.

    Attributes:
        unreadable: a `CorruptRow` for each row that was left out.
    """

    unreadable: tuple[CorruptRow, ...] = ()

    def __new__(cls, items: Iterable[T] = (), unreadable: Iterable[CorruptRow] = ()) -> Self:
        """Lists what was read, and what could not be."""
        listed = super().__new__(cls, items)
        listed.unreadable = tuple(unreadable)
        return listed


def columns_of(job: AnyJob) -> dict[str, object]:
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


def readable_of(read: Callable[[Row], T], rows: Sequence[Row]) -> Readable[T]:
    """Reads what can be read; a row that cannot be harms no other."""
    items: list[T] = []
    unreadable: list[CorruptRow] = []
    for row in rows:
        try:
            items.append(read(row))
        except CorruptRow as error:
            unreadable.append(error)
    return Readable(items, unreadable)


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
    event_id, job_id, tenant_id, status_code, document, created_at = row
    try:
        return GraphJobEvent(
            id=event_id,
            job_id=UUID(int=job_id.int),
            tenant_id=tenant_id,
            status=GraphJobStatus.from_code(status_code),
            payload=from_json(document),
            created_at=created_at,
        )
    except ValueError as error:  # InvalidJob is one, too
        problem = str(error)
    raise CorruptRow("graph_job_events", event_id, problem)
