"""What becomes of running jobs whose attempt is over, and what is known of those that seem to have stopped.

Values only; no database here. No time is among them: the database says when.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from pydantic import TypeAdapter, ValidationError

from graphjobs.core.fields import Metadata, clean_error, require_name
from graphjobs.core.transitions import json_of
from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.graph_jobs.row_mapping import AnyJob, require_job
from graphjobs.graph_jobs.status import GraphJobStatus

FOLLOWING_MAX: Final = 100
"""The most jobs that may follow from one."""

_S = GraphJobStatus
_METADATA: Final[TypeAdapter[Mapping[str, str]]] = TypeAdapter(Metadata)


@dataclass(frozen=True, slots=True)
class Ending:
    """How one attempt of a running job ends: completed, failed, or given back to the queue.

    Made by `completed`, `failed` and `given_back`, which check what they are given.

    Attributes:
        job: the job as it runs: its id, tenant and attempts say which attempt ends.
        status: what it becomes.
        fields: what changes in its payload besides, by the payload's own keys.
        error: why it failed, or None.
        following: queued jobs to add with it, both or neither.
    """

    job: AnyJob
    status: GraphJobStatus
    fields: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    error: str | None = None
    following: tuple[AnyJob, ...] = ()

    @classmethod
    def completed(
        cls,
        job: AnyJob,
        *,
        graph_snapshot_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        following: Iterable[AnyJob] = (),
    ) -> Self:
        """Running to completed.

        Args:
            job: the job as it runs.
            graph_snapshot_id: the graph that was built; a build job needs it, an overlay job takes none.
            metadata: the job's metadata from now on; None leaves it as it is.
            following: queued jobs of the same tenant that follow from it, at most 100.

        Raises:
            InvalidJob: one of these cannot be.
            IllegalTransition: the job does not run.
        """
        fields: dict[str, object] = {}
        if isinstance(job, GraphBuildJob):
            fields["graphSnapshotId"] = require_name(graph_snapshot_id, "graph_snapshot_id")
        elif graph_snapshot_id is not None:
            raise InvalidJob("graph_snapshot_id: an overlay job builds no graph", field="graph_snapshot_id")
        if metadata is not None:
            fields["metadata"] = _checked_metadata(metadata)
        return cls._of(job, _S.COMPLETED, fields, following=_queued_of(job, following))

    @classmethod
    def failed(cls, job: AnyJob, error: str) -> Self:
        """Running to failed. The text is cleaned and cut, never refused, as `GraphJob.fail` does."""
        cleaned = clean_error(error)
        return cls._of(job, _S.FAILED, {"error": cleaned}, error=cleaned)

    @classmethod
    def given_back(cls, job: AnyJob) -> Self:
        """Running to queued: somebody else may take it. Its attempts stay, and rise with the next start."""
        return cls._of(job, _S.QUEUED, {})

    @classmethod
    def _of(
        cls,
        job: AnyJob,
        status: GraphJobStatus,
        fields: dict[str, object],
        *,
        error: str | None = None,
        following: tuple[AnyJob, ...] = (),
    ) -> Self:
        require_job(job).status.require_move_to(status, only_from=_S.RUNNING)
        return cls(job, status, {"status": status, **fields}, error, following)

    @property
    def patch(self) -> str:
        """What is merged into the payload, as JSON."""
        return json_of(self.fields)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim took.

    Attributes:
        jobs: jobs that now run, oldest first.
        unreadable: rows that were taken too and cannot be read; they are failed now, and the error says why.
        cursor: the tenant to go on after, for a claim of all tenants.
    """

    jobs: tuple[AnyJob, ...]
    unreadable: tuple[CorruptRow, ...] = ()
    cursor: str = ""


def _checked_metadata(metadata: object) -> dict[str, str]:
    try:
        return dict(_METADATA.validate_python(metadata))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(("metadata", *(str(part)[:100] for part in first["loc"])))
        problem = f"{where}: {first['msg']}"
    raise InvalidJob(problem, field="metadata")


def _queued_of(parent: AnyJob, following: Iterable[AnyJob]) -> tuple[AnyJob, ...]:
    if not isinstance(following, Iterable):
        raise InvalidJob("following: it should be jobs, as a list", field="following")
    jobs = tuple(require_job(job) for job, _ in zip(following, range(FOLLOWING_MAX + 1), strict=False))
    if len(jobs) > FOLLOWING_MAX:
        raise InvalidJob(f"following: at most {FOLLOWING_MAX} jobs may follow from one", field="following")
    for job in jobs:
        if job.tenant_id != parent.tenant_id:
            raise InvalidJob("following: what follows from a job is of the same tenant", field="following")
        if job.status is not _S.QUEUED:
            raise InvalidJob(f"following: what follows from a job is queued, not {job.status}", field="following")
    if len({job.id for job in jobs}) < len(jobs):
        raise InvalidJob("following: each should have an id of its own", field="following")
    return jobs
