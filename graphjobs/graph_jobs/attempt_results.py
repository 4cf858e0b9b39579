"""What becomes of running jobs whose attempt is over, and what is known of those that seem to have stopped.

Values only; no database here. No time is among them: the database says when.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from pydantic import TypeAdapter, ValidationError

from graphjobs.core.fields import Metadata, check_name, sanitize_error
from graphjobs.core.transitions import dump_json
from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob
from graphjobs.graph_jobs.row_mapping import check_job
from graphjobs.graph_jobs.status import GraphJobStatus

Status = GraphJobStatus

FOLLOWUPS_MAX: Final = 100
"""The most jobs that may follow from one."""

_METADATA: Final[TypeAdapter[Mapping[str, str]]] = TypeAdapter(Metadata)


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How one attempt of a running job ends: completed, failed, or given back to the queue.

    Made by `completed`, `failed` and `given_back`, which check what they are given.

    Attributes:
        job: the job as it runs: its id, tenant and attempts say which attempt ends.
        status: what it becomes.
        fields: what changes in its payload besides, by the payload's own keys.
        error: why it failed, or None.
        followups: queued jobs to add with it, both or neither.
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
        """Running to completed.

        Args:
            job: the job as it runs.
            graph_snapshot_id: the graph that was built; a build job needs it, an overlay job takes none.
            metadata: the job's metadata from now on; None leaves it as it is.
            followups: queued jobs of the same tenant that follow from it, at most 100.

        Raises:
            InvalidJob: one of these cannot be.
            IllegalTransition: the job does not run.
        """
        fields: dict[str, object] = {}
        if isinstance(job, GraphBuildJob):
            fields["graphSnapshotId"] = check_name(graph_snapshot_id, "graph_snapshot_id")
        elif graph_snapshot_id is not None:
            raise InvalidJob("graph_snapshot_id: an overlay job builds no graph", field="graph_snapshot_id")
        if metadata is not None:
            fields["metadata"] = _check_metadata(metadata)
        return cls._build(job, Status.COMPLETED, fields, followups=_check_followups(job, followups))

    @classmethod
    def failed(cls, job: AnyJob, error: str) -> Self:
        """Running to failed. The text is cleaned and cut, never refused, as `GraphJob.fail` does."""
        cleaned = sanitize_error(error)
        return cls._build(job, Status.FAILED, {"error": cleaned}, error=cleaned)

    @classmethod
    def released(cls, job: AnyJob) -> Self:
        """Running to queued: somebody else may take it. Its attempts stay, and rise with the next start."""
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
        """What is merged into the payload, as JSON."""
        return dump_json(self.fields)


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What a claim took.

    Attributes:
        jobs: jobs that now run, oldest first.
        unreadable: rows that were taken too and cannot be read; they are failed now, and the error says why.
        cursor: the tenant to go on after, for a claim of all tenants.
    """

    jobs: tuple[AnyJob, ...]
    unreadable: tuple[CorruptRow, ...] = ()
    cursor: str = ""


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
        raise InvalidJob("followups: it should be jobs, as a list", field="followups")
    jobs = tuple(check_job(job) for job, _ in zip(followups, range(FOLLOWUPS_MAX + 1), strict=False))
    if len(jobs) > FOLLOWUPS_MAX:
        raise InvalidJob(f"followups: at most {FOLLOWUPS_MAX} jobs may follow from one", field="followups")
    for job in jobs:
        if job.tenant_id != parent.tenant_id:
            raise InvalidJob("followups: what follows from a job is of the same tenant", field="followups")
        if job.status is not Status.QUEUED:
            raise InvalidJob(f"followups: what follows from a job is queued, not {job.status}", field="followups")
    if len({job.id for job in jobs}) < len(jobs):
        raise InvalidJob("followups: each should have an id of its own", field="followups")
    return jobs
