"""What a scheduler is asked for: a build, an overlay, the end of a job; frozen values, no database here."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID, uuid5

from immutabledict import immutabledict
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from graphjobs.core.fields import Digest, FrozenModel, Id, Metadata, Name, NameSet, Reason
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.errors import InvalidJob
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphOverlayJob

_ID_NAMESPACE = UUID("5b1b7a4e-6c0f-4a53-9f5e-0f6f1f6f9a01")


def idempotent_id(tenant_id: str, key: str) -> UUID:
    """Gives the id of the job a tenant asks for under a key: always the same, so that two at once make one job."""
    # Neither holds a control character, so the two cannot run into one another.
    return uuid5(_ID_NAMESPACE, f"{tenant_id}\n{key}")


class GraphBuildRequest(FrozenModel):
    """Asks for the dependency graph of one version of one SBOM."""

    sbom_id: Name
    sbom_version_id: Name
    sbom_digest: Digest
    trigger: Literal["sbom-version", "backfill", "manual"] = "manual"
    correlation_id: Name | None = None
    metadata: Metadata = Field(default_factory=immutabledict)

    def to_job(self, tenant_id: str, **fields: Any) -> GraphBuildJob:
        """Gives the queued job this asks for."""
        return GraphBuildJob(tenant_id=tenant_id, **self.__dict__, **fields)


class GraphOverlayRequest(FrozenModel):
    """Asks for findings to be laid over a built graph."""

    graph_snapshot_id: Name
    build_job_id: Id | None = None
    overlay_kind: Literal["policy", "advisory", "vex"]
    overlay_key: Name
    subjects: NameSet = ()
    trigger: Literal["policy", "advisory", "vex", "sbom-version", "manual"] = "manual"
    correlation_id: Name | None = None
    metadata: Metadata = Field(default_factory=immutabledict)

    def to_job(self, tenant_id: str, **fields: Any) -> GraphOverlayJob:
        """Gives the queued job this asks for."""
        return GraphOverlayJob(tenant_id=tenant_id, **self.__dict__, **fields)


class GraphJobCompletion(FrozenModel):
    """Tells that a running job is done or has failed.

    Attributes:
        job_id: which job, of either kind.
        status: completed or failed.
        graph_snapshot_id: the graph that was built; a completed build job needs it.
        error: why it failed; a failed job needs it. Any text: it is cleaned, and cut to 4,000 characters.
        attempts: the attempt that ended, as the job that was started has it. Given, it keeps one that was lost from
            ending the next; without it, whatever attempt runs is ended.
    """

    job_id: Id
    status: Literal["completed", "failed"]
    graph_snapshot_id: Name | None = None
    error: Reason | None = None
    attempts: Annotated[int, Field(ge=1, le=ATTEMPTS_MAX)] | None = None

    @model_validator(mode="after")
    def _check_status_fields(self) -> Self:
        if (self.status == "failed") != (self.error is not None):
            raise PydanticCustomError("completion", "a failed job needs an error, a completed one takes none")
        return self

    def apply_to(self, job: AnyJob, *, at: datetime) -> AnyJob:
        """Gives the job as it ends.

        Raises:
            InvalidJob: a completed build job needs a graph.
            IllegalTransition: the job does not run.
        """
        if self.error is not None:
            return job.fail(at=at, error=self.error)
        if isinstance(job, GraphOverlayJob):
            return job.complete(at=at)
        if self.graph_snapshot_id is None:
            raise InvalidJob(
                "graph_snapshot_id: a completed build job needs the graph that was built", field="graph_snapshot_id"
            )
        return job.complete(at=at, graph_snapshot_id=self.graph_snapshot_id)
