"""Requests to a scheduler: a build, an overlay, the completion of a job. Frozen values, no database here."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID, uuid5

from immutabledict import immutabledict
from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from graphjobs.core.fields import Digest, FrozenModel, Id, Name, NameSet, Reason
from graphjobs.core.metadata import Metadata
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.errors import InvalidJob
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphOverlayJob

_ID_NAMESPACE = UUID("5b1b7a4e-6c0f-4a53-9f5e-0f6f1f6f9a01")


def idempotent_id(tenant_id: str, key: str) -> UUID:
    """Return the id of the job that a tenant requests with a key: always the same, so that only one job is made."""
    # Neither has a control character, so that the two parts stay distinct.
    return uuid5(_ID_NAMESPACE, f"{tenant_id}\n{key}")


class GraphBuildRequest(FrozenModel):
    """Request for the dependency graph of one version of one SBOM."""

    sbom_id: Name
    sbom_version_id: Name
    sbom_digest: Digest
    trigger: Literal["sbom-version", "backfill", "manual"] = "manual"
    correlation_id: Name | None = None
    metadata: Metadata = Field(default_factory=immutabledict)

    def to_job(self, tenant_id: str, **fields: Any) -> GraphBuildJob:
        """Return the queued job of this request."""
        return GraphBuildJob(tenant_id=tenant_id, **self.__dict__, **fields)


class GraphOverlayRequest(FrozenModel):
    """Request for an overlay of findings on a built graph."""

    graph_snapshot_id: Name
    build_job_id: Id | None = None
    overlay_kind: Literal["policy", "advisory", "vex"]
    overlay_key: Name
    subjects: NameSet = ()
    trigger: Literal["policy", "advisory", "vex", "sbom-version", "manual"] = "manual"
    correlation_id: Name | None = None
    metadata: Metadata = Field(default_factory=immutabledict)

    def to_job(self, tenant_id: str, **fields: Any) -> GraphOverlayJob:
        """Return the queued job of this request."""
        return GraphOverlayJob(tenant_id=tenant_id, **self.__dict__, **fields)


class GraphJobCompletion(FrozenModel):
    """The completion of a running job: done or failed.

    Attributes:
        job_id: the job, of either type.
        status: completed or failed.
        graph_snapshot_id: the built graph; required for a completed build job.
        error: why it failed; required for a failed job. Any text: it is sanitized, and cut to 4,000 characters.
        attempts: the attempt that ended, as the started job has it. It keeps a lost attempt from finishing the next
            one; None finishes the attempt that runs.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"status": {"const": "failed"}}, "required": ["status"]},
            "then": {"properties": {"error": {"type": "string"}}, "required": ["error"]},
            "else": {"properties": {"error": {"type": "null"}}},
        }
    )

    job_id: Id
    status: Literal["completed", "failed"]
    graph_snapshot_id: Name | None = None
    error: Reason | None = None
    attempts: Annotated[int, Field(ge=1, le=ATTEMPTS_MAX)] | None = None

    @model_validator(mode="after")
    def _check_status_fields(self) -> Self:
        if (self.status == "failed") != (self.error is not None):
            raise PydanticCustomError("completion", "a failed job must have an error, a completed one must not")
        return self

    def apply_to(self, job: AnyJob, *, at: datetime) -> AnyJob:
        """Return the job after its completion.

        Raises:
            InvalidJob: the graph of a completed build job is missing.
            IllegalTransition: the job is not running.
        """
        if self.error is not None:
            return job.fail(at=at, error=self.error)
        if isinstance(job, GraphOverlayJob):
            return job.complete(at=at)
        if self.graph_snapshot_id is None:
            raise InvalidJob("graph_snapshot_id is required for a completed build job", field="graph_snapshot_id")
        return job.complete(at=at, graph_snapshot_id=self.graph_snapshot_id)
