"""Results of attempts and of claims. Values only, without times: the database sets them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from graphjobs.core.fields import check_name
from graphjobs.core.metadata import Metadata
from graphjobs.core.sanitizing import sanitize_error
from graphjobs.core.transitions import dump_json
from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob
from graphjobs.graph_jobs.row_mapping import check_job
from graphjobs.graph_jobs.status import GraphJobStatus

Status = GraphJobStatus

FOLLOWUPS_MAX: Final = 100
"""The most follow-up jobs of one job."""

_METADATA: Final[TypeAdapter[Mapping[str, str]]] = TypeAdapter(Metadata)


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The result of one attempt of a running job: completed, failed, or released to the queue.

    Made by `completed`, `failed` and `released`, which check their arguments.

    Attributes:
        job: the running job: id, tenant and attempts identify the attempt.
        status: its next status.
        fields: other changes of its payload, by the payload's keys.
        error: why it failed, or None.
        followups: queued follow-up jobs, inserted in the same statement.
    """

    job: AnyJob
    status: GraphJobStatus
    fields: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    error: str | None = None
    followups: tuple[AnyJob, ...] = ()

    @classmethod
    def completed(
        cls,
        job: AnyJob,
        *,
        graph_snapshot_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        followups: Iterable[AnyJob] = (),
    ) -> Self:
        """Build the result of a completed attempt.

        Args:
            job: the running job.
            graph_snapshot_id: the graph that was built; a build job needs it, an overlay job takes none.
            metadata: the new metadata of the job; None keeps the old.
            followups: queued follow-up jobs of the same tenant, at most 100.

        Raises:
            InvalidJob: an argument is invalid.
            IllegalTransition: the job is not running.
        """
        fields: dict[str, object] = {}
        if isinstance(job, GraphBuildJob):
            fields["graphSnapshotId"] = check_name(graph_snapshot_id, "graph_snapshot_id")
        elif graph_snapshot_id is not None:
            raise InvalidJob("graph_snapshot_id must be None for an overlay job", field="graph_snapshot_id")
        if metadata is not None:
            fields["metadata"] = _check_metadata(metadata)
        return cls._build(job, Status.COMPLETED, fields, followups=_check_followups(job, followups))

    @classmethod
    def failed(cls, job: AnyJob, error: str) -> Self:
        """Build the result of a failed attempt. The text is sanitized and cut, never refused, as in `GraphJob.fail`."""
        cleaned = sanitize_error(error)
        return cls._build(job, Status.FAILED, {"error": cleaned}, error=cleaned)

    @classmethod
    def released(cls, job: AnyJob) -> Self:
        """Build the result of a released attempt: any worker may claim the job, at its next attempt."""
        return cls._build(job, Status.QUEUED, {})

    @classmethod
    def _build(
        cls,
        job: AnyJob,
        status: GraphJobStatus,
        fields: dict[str, object],
        *,
        error: str | None = None,
        followups: tuple[AnyJob, ...] = (),
    ) -> Self:
        check_job(job).status.require_transition(status, from_status=Status.RUNNING)
        return cls(job, status, {"status": status, **fields}, error, followups)

    @property
    def patch(self) -> str:
        """The JSON that is merged into the payload."""
        return dump_json(self.fields)


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The jobs that a claim took.

    Attributes:
        jobs: the claimed jobs, now running, oldest first.
        unreadable: unreadable rows that were taken; they are failed, with the reason as their error.
        cursor: the tenant to continue after, for a claim over all tenants.
        lost: the ids of jobs that were taken and no longer run at that attempt. A claim with a lost answer looks up
            what it took, and some may have been rescued, canceled or finished by others meanwhile.
        apart: the tenants of jobs that were left because of `apart_after`.
    """

    jobs: tuple[AnyJob, ...]
    unreadable: tuple[CorruptRow, ...] = ()
    cursor: str = ""
    lost: tuple[UUID, ...] = ()
    apart: tuple[str, ...] = ()


def _check_metadata(metadata: object) -> dict[str, str]:
    try:
        return dict(_METADATA.validate_python(metadata))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(("metadata", *(str(part)[:100] for part in first["loc"])))
        problem = f"{where}: {first['msg']}"
    raise InvalidJob(problem, field="metadata")


def _check_followups(parent: AnyJob, followups: Iterable[AnyJob]) -> tuple[AnyJob, ...]:
    if not isinstance(followups, Iterable):
        raise InvalidJob("followups must be a list of jobs", field="followups")
    jobs = tuple(check_job(job) for job, _ in zip(followups, range(FOLLOWUPS_MAX + 1), strict=False))
    if len(jobs) > FOLLOWUPS_MAX:
        raise InvalidJob(f"followups must have at most {FOLLOWUPS_MAX} jobs", field="followups")
    for job in jobs:
        if job.tenant_id != parent.tenant_id:
            raise InvalidJob("followups must be of the tenant of the job", field="followups")
        if job.status is not Status.QUEUED:
            raise InvalidJob(f"followups must be queued, not {job.status}", field="followups")
    if len({job.id for job in jobs}) < len(jobs):
        raise InvalidJob("followups must not have the same id twice", field="followups")
    return jobs
