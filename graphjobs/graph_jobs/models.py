"""Graph jobs and their events: frozen values, their invariants, and pure transitions. No database here.

Source of the fields: the payloads that the .NET scheduler wrote. A value that exists is valid: an invalid one raises
`InvalidJob`, which names the field, when it is made from Python or from JSON.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, TypeVar

from immutabledict import immutabledict
from pydantic import Field, model_validator
from uuid_utils.compat import uuid7

from graphjobs.core.event_log import Event
from graphjobs.core.fields import Digest, ErrorText, FrozenModel, Id, Name, NameSet, UtcTime, utc_now
from graphjobs.core.invalid_values import invariant_error
from graphjobs.core.metadata import Metadata
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.core.sanitizing import sanitize_error
from graphjobs.errors import InvalidJob
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

Status = GraphJobStatus


class GraphJob(FrozenModel):
    """The fields and the transitions that build and overlay jobs share.

    A transition is pure: it returns a new value and stores nothing. It raises `IllegalTransition` where the transition
    table does not have it, and `InvalidJob` where the new value is invalid. One that keeps the status keeps
    `updated_at`, the version that it changes; any other returns a value without a version. Two jobs are equal if their
    payloads are.
    """

    type: ClassVar[GraphJobType]

    id: Id = Field(default_factory=uuid7)
    tenant_id: Name
    status: Annotated[GraphJobStatus, Field(strict=False)] = Status.QUEUED
    attempts: Annotated[int, Field(ge=0, le=ATTEMPTS_MAX)] = 0
    correlation_id: Name | None = None
    created_at: UtcTime = Field(default_factory=utc_now)
    started_at: UtcTime | None = None
    completed_at: UtcTime | None = None
    error: ErrorText | None = None
    metadata: Metadata = Field(default_factory=immutabledict)
    updated_at: UtcTime | None = Field(default=None, exclude=True)
    """The version of the row; not part of the payload, and None on a value that was never stored."""

    @classmethod
    def from_json(cls, text: str | bytes, *, stored: bool = False, updated_at: datetime | None = None) -> Self:
        """Parse a payload, with the version of its row; see `FrozenModel.from_json`."""
        job = super().from_json(text, stored=stored)
        if job.updated_at is not None:
            raise InvalidJob(f"{cls.__name__}.updated_at: Extra inputs are not permitted", field="updated_at")
        job.__dict__["updated_at"] = updated_at  # the value is still being made
        return job

    def stored(self, *, updated_at: datetime | None) -> Self:
        """Return this value as stored at a version."""
        twin = self.__copy__()
        twin.__dict__["updated_at"] = updated_at
        return twin

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return {**self.__dict__, "updated_at": None} == {**other.__dict__, "updated_at": None}

    def __hash__(self) -> int:
        return hash((type(self), self.id))

    @model_validator(mode="after")
    def _check_invariants(self) -> Self:
        # Times are not compared with one another, because the clocks that made them differ.
        status = self.status
        if status is Status.RUNNING or status is Status.COMPLETED:
            if self.started_at is None:
                raise invariant_error(f"a {status} job must have started_at")
            if self.attempts < 1:
                raise invariant_error(f"a {status} job must have attempts of 1 or more")
        if status.is_final and self.completed_at is None:
            raise invariant_error(f"a {status} job must have completed_at")
        if self.completed_at is not None and not status.is_final:
            raise invariant_error(f"a {status} job must not have completed_at")
        if status is Status.FAILED and self.error is None:
            raise invariant_error("a failed job must have an error")
        if status is Status.COMPLETED and self.error is not None:
            raise invariant_error("a completed job must not have an error")
        return self

    def start(self, *, at: datetime) -> Self:
        """Start the next attempt: queued to running."""
        return self._transition(
            Status.RUNNING,
            from_status=Status.QUEUED,
            attempts=self.attempts + 1,
            started_at=at,
            error=None,
        )

    def requeue(self, *, at: datetime | None = None) -> Self:
        """Release the job: running to queued. `started_at` stays that of the earlier attempt.

        Every transition takes `at`. No field stores this one; the row's `updated_at` has the time.
        """
        del at
        return self._transition(Status.QUEUED, from_status=Status.RUNNING)

    def fail(self, *, at: datetime, error: str) -> Self:
        """Fail the job: queued or running to failed. The text is sanitized and cut, never refused."""
        return self._transition(Status.FAILED, completed_at=at, error=sanitize_error(error))

    def cancel(self, *, at: datetime) -> Self:
        """Cancel the job: queued or running to canceled."""
        return self._transition(Status.CANCELED, completed_at=at)

    def _transition(self, target: GraphJobStatus, *, from_status: GraphJobStatus | None = None, **fields: Any) -> Self:
        self.status.require_transition(target, from_status=from_status)
        version = self.updated_at if target is self.status else None
        return self.replace(status=target, updated_at=version, **fields)

    def _update_in_place(self, status: GraphJobStatus, fields: Mapping[str, Any]) -> Self:
        return self._transition(
            status, from_status=status, **{name: value for name, value in fields.items() if value is not None}
        )


class GraphBuildJob(GraphJob):
    """A job that builds the dependency graph of one version of one SBOM."""

    type: ClassVar[GraphJobType] = GraphJobType.BUILD

    schema_version: Literal["scheduler.graph-build-job@1"] = "scheduler.graph-build-job@1"
    sbom_id: Name
    sbom_version_id: Name
    sbom_digest: Digest
    graph_snapshot_id: Name | None = None
    trigger: Literal["sbom-version", "backfill", "manual"]
    cartographer_job_id: Name | None = None

    def edit(self, *, correlation_id: str | None = None, metadata: Mapping[str, str] | None = None) -> Self:
        """Change a queued job; None keeps a field."""
        return self._update_in_place(Status.QUEUED, {"correlation_id": correlation_id, "metadata": metadata})

    def renew(
        self,
        *,
        at: datetime | None = None,
        cartographer_job_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Self:
        """Record progress of a running job; None keeps a field. No field stores `at`, as in `requeue`."""
        del at
        return self._update_in_place(Status.RUNNING, {"cartographer_job_id": cartographer_job_id, "metadata": metadata})

    def complete(self, *, at: datetime, graph_snapshot_id: str) -> Self:
        """Complete the job with the built graph: running to completed."""
        return self._transition(Status.COMPLETED, completed_at=at, graph_snapshot_id=graph_snapshot_id, error=None)


class GraphOverlayJob(GraphJob):
    """A job that overlays policy, advisory or VEX findings on a built graph."""

    type: ClassVar[GraphJobType] = GraphJobType.OVERLAY

    schema_version: Literal["scheduler.graph-overlay-job@1"] = "scheduler.graph-overlay-job@1"
    graph_snapshot_id: Name
    build_job_id: Id | None = None
    overlay_kind: Literal["policy", "advisory", "vex"]
    overlay_key: Name
    subjects: NameSet = ()
    trigger: Literal["policy", "advisory", "vex", "sbom-version", "manual"]

    def edit(
        self,
        *,
        correlation_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        subjects: Iterable[str] | None = None,
    ) -> Self:
        """Change a queued job; None keeps a field."""
        return self._update_in_place(
            Status.QUEUED, {"correlation_id": correlation_id, "metadata": metadata, "subjects": subjects}
        )

    def renew(self, *, at: datetime | None = None, metadata: Mapping[str, str] | None = None) -> Self:
        """Record progress of a running job; None keeps a field. No field stores `at`, as in `requeue`."""
        del at
        return self._update_in_place(Status.RUNNING, {"metadata": metadata})

    def complete(self, *, at: datetime) -> Self:
        """Complete the job: running to completed."""
        return self._transition(Status.COMPLETED, completed_at=at, error=None)


AnyJob: TypeAlias = GraphBuildJob | GraphOverlayJob
Job = TypeVar("Job", bound=GraphJob)


class GraphJobEvent(Event):
    """One entry of a job's log; see `Event`."""

    status: Annotated[GraphJobStatus, Field(strict=False)]
