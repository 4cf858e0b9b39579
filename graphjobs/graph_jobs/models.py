"""What a graph job and its event are: frozen values, their invariants, and pure moves; no database here.

Source of the fields: the payloads the .NET scheduler wrote. A value that exists is valid: what is wrong raises
`InvalidJob`, which names the field, when the value is made from Python or from JSON.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, TypeVar

from immutabledict import immutabledict
from pydantic import Field, model_validator
from uuid_utils.compat import uuid7

from graphjobs.core.event_log import Event
from graphjobs.core.fields import (
    Digest,
    ErrorText,
    FrozenModel,
    Id,
    Metadata,
    Name,
    NameSet,
    UtcTime,
    invariant_error,
    sanitize_error,
)
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.errors import InvalidJob
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

Status = GraphJobStatus


def _now() -> datetime:
    return datetime.now(UTC)


class GraphJob(FrozenModel):
    """What build and overlay jobs have in common: whose it is, where it stands, and the moves.

    A move is pure: it gives a new value and stores nothing. It raises `IllegalTransition` where the transition table
    does not hold it, and `InvalidJob` where the new value could not be. A move that keeps the status keeps
    `updated_at` too, for that is the version it changes; any other gives a value that was never stored.
    Two jobs are equal when their payloads are.
    """

    type: ClassVar[GraphJobType]

    id: Id = Field(default_factory=uuid7)
    tenant_id: Name
    status: Annotated[GraphJobStatus, Field(strict=False)] = Status.QUEUED
    attempts: Annotated[int, Field(ge=0, le=ATTEMPTS_MAX)] = 0
    correlation_id: Name | None = None
    created_at: UtcTime = Field(default_factory=_now)
    started_at: UtcTime | None = None
    completed_at: UtcTime | None = None
    error: ErrorText | None = None
    metadata: Metadata = Field(default_factory=immutabledict)
    updated_at: UtcTime | None = Field(default=None, exclude=True)
    """The row's version, as it was read; no part of the payload, and None on a value that was never stored."""

    @classmethod
    def from_json(cls, text: str | bytes, *, updated_at: datetime | None = None) -> Self:
        """Reads a payload, and gives it the version of the row it comes from; see `Value.from_json`."""
        job = super().from_json(text)
        if job.updated_at is not None:
            raise InvalidJob(f"{cls.__name__}.updated_at: Extra inputs are not permitted", field="updated_at")
        job.__dict__["updated_at"] = updated_at  # nobody has seen the value yet, so this is still its making
        return job

    def stored(self, *, updated_at: datetime | None) -> Self:
        """Gives this value as the database now holds it, at a version."""
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
        # Times are not compared with one another: the clocks that made them differ.
        status = self.status
        if status is Status.RUNNING or status is Status.COMPLETED:
            if self.started_at is None:
                raise invariant_error(f"a {status} job should have started_at")
            if self.attempts < 1:
                raise invariant_error(f"a {status} job should have attempts of 1 or more")
        if status.is_final and self.completed_at is None:
            raise invariant_error(f"a {status} job should have completed_at")
        if self.completed_at is not None and not status.is_final:
            raise invariant_error(f"a {status} job should not have completed_at")
        if status is Status.FAILED and self.error is None:
            raise invariant_error("a failed job should have an error")
        if status is Status.COMPLETED and self.error is not None:
            raise invariant_error("a completed job should not have an error")
        return self

    def start(self, *, at: datetime) -> Self:
        """Queued to running: the next attempt begins."""
        return self._transition(
            Status.RUNNING,
            from_status=Status.QUEUED,
            attempts=self.attempts + 1,
            started_at=at,
            error=None,
        )

    def requeue(self, *, at: datetime | None = None) -> Self:
        """Running to queued: given back, or rescued. `started_at` stays, of the attempt that was.

        Every move takes `at`; no field of the payload holds this one, the row's `updated_at` tells.
        """
        del at
        return self._transition(Status.QUEUED, from_status=Status.RUNNING)

    def fail(self, *, at: datetime, error: str) -> Self:
        """Queued or running to failed. The text is cleaned and cut, never refused: a traceback is welcome."""
        return self._transition(Status.FAILED, completed_at=at, error=sanitize_error(error))

    def cancel(self, *, at: datetime) -> Self:
        """Queued or running to canceled."""
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
    """A job that asks for the dependency graph of one version of one SBOM."""

    type: ClassVar[GraphJobType] = GraphJobType.BUILD

    schema_version: Literal["scheduler.graph-build-job@1"] = "scheduler.graph-build-job@1"
    sbom_id: Name
    sbom_version_id: Name
    sbom_digest: Digest
    graph_snapshot_id: Name | None = None
    trigger: Literal["sbom-version", "backfill", "manual"]
    cartographer_job_id: Name | None = None

    def edit(self, *, correlation_id: str | None = None, metadata: Mapping[str, str] | None = None) -> Self:
        """Changes a job that is still queued; None leaves a field as it is."""
        return self._update_in_place(Status.QUEUED, {"correlation_id": correlation_id, "metadata": metadata})

    def renew(
        self,
        *,
        at: datetime | None = None,
        cartographer_job_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Self:
        """Notes progress of a running job; None leaves a field as it is. No field holds `at`, as with `requeue`."""
        del at
        return self._update_in_place(Status.RUNNING, {"cartographer_job_id": cartographer_job_id, "metadata": metadata})

    def complete(self, *, at: datetime, graph_snapshot_id: str) -> Self:
        """Running to completed, with the graph that was built."""
        return self._transition(Status.COMPLETED, completed_at=at, graph_snapshot_id=graph_snapshot_id, error=None)


class GraphOverlayJob(GraphJob):
    """A job that lays policy, advisory or VEX findings over a built graph."""

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
        """Changes a job that is still queued; None leaves a field as it is."""
        return self._update_in_place(
            Status.QUEUED, {"correlation_id": correlation_id, "metadata": metadata, "subjects": subjects}
        )

    def renew(self, *, at: datetime | None = None, metadata: Mapping[str, str] | None = None) -> Self:
        """Notes progress of a running job; None leaves a field as it is. No field holds `at`, as with `requeue`."""
        del at
        return self._update_in_place(Status.RUNNING, {"metadata": metadata})

    def complete(self, *, at: datetime) -> Self:
        """Running to completed."""
        return self._transition(Status.COMPLETED, completed_at=at, error=None)


AnyJob: TypeAlias = GraphBuildJob | GraphOverlayJob
Job = TypeVar("Job", bound=GraphJob)


class GraphJobEvent(Event):
    """One entry of a job's log; see `Event`."""

    status: Annotated[GraphJobStatus, Field(strict=False)]
