"""graphjobs: the asynchronous PostgreSQL data layer of a scheduler of software supply-chain graph jobs.

Example::

    async with open_storage() as storage:
        job = await storage.graph_jobs.add(GraphBuildJob(tenant_id="acme", ...))
"""

from typing import TYPE_CHECKING, Any

from graphjobs.core.pagination import BoundedCount, PartialList
from graphjobs.core.transitions import AppliedUpdate, RefusedUpdate, UpdateOutcome, UpdateResult
from graphjobs.errors import (
    ConfigurationError,
    CorruptRow,
    DatabaseUnavailable,
    GraphJobsError,
    IdempotencyConflict,
    IllegalTransition,
    InvalidJob,
    JobAlreadyExists,
    JobConflict,
    JobNotFound,
    OutcomeUnknown,
    SchemaOutOfDate,
)
from graphjobs.graph_jobs.attempt_results import AttemptResult, ClaimResult
from graphjobs.graph_jobs.filters import GraphJobCollection, GraphJobQuery, OverlayLag
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphJobEvent, GraphOverlayJob
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.graph_jobs.requests import GraphBuildRequest, GraphJobCompletion, GraphOverlayRequest
from graphjobs.graph_jobs.service import GraphJobService
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.graph_jobs.tables import GraphJobRow
from graphjobs.policy_runs.attempt_results import LeaseBatch, LeaseResult, RetryBackoff
from graphjobs.policy_runs.filters import PolicyRunCollection, PolicyRunMetrics, PolicyRunQuery
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunInputs, PolicyRunJob
from graphjobs.policy_runs.queue import PolicyRunQueue
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.requests import PolicyRunCompletion, PolicyRunRequest
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus
from graphjobs.policy_runs.tables import PolicyRunRow
from graphjobs.settings import Settings
from graphjobs.storage import Storage, open_storage
from graphjobs.worker import (
    BuildResult,
    DispatchContext,
    DispatcherOptions,
    GraphJobWorker,
    Handlers,
    JobContext,
    OverlayResult,
    PolicyRunDispatcher,
    PolicyRunRejected,
    WorkerOptions,
)

if TYPE_CHECKING:
    from graphjobs.database.migrations.commands import upgrade

    __version__: str
    """The version of the installed package."""

__all__ = [
    "AnyJob",
    "AppliedUpdate",
    "AttemptResult",
    "BoundedCount",
    "BuildResult",
    "ClaimResult",
    "ConfigurationError",
    "CorruptRow",
    "DatabaseUnavailable",
    "DispatchContext",
    "DispatcherOptions",
    "GraphBuildJob",
    "GraphBuildRequest",
    "GraphJobCollection",
    "GraphJobCompletion",
    "GraphJobEvent",
    "GraphJobQuery",
    "GraphJobQueue",
    "GraphJobRow",
    "GraphJobService",
    "GraphJobStatus",
    "GraphJobStore",
    "GraphJobType",
    "GraphJobWorker",
    "GraphJobsError",
    "GraphOverlayJob",
    "GraphOverlayRequest",
    "Handlers",
    "IdempotencyConflict",
    "IllegalTransition",
    "InvalidJob",
    "JobAlreadyExists",
    "JobConflict",
    "JobContext",
    "JobNotFound",
    "LeaseBatch",
    "LeaseResult",
    "OutcomeUnknown",
    "OverlayLag",
    "OverlayResult",
    "PartialList",
    "PolicyRunCollection",
    "PolicyRunCompletion",
    "PolicyRunDispatcher",
    "PolicyRunEvent",
    "PolicyRunInputs",
    "PolicyRunJob",
    "PolicyRunMetrics",
    "PolicyRunMode",
    "PolicyRunPriority",
    "PolicyRunQuery",
    "PolicyRunQueue",
    "PolicyRunRejected",
    "PolicyRunRepository",
    "PolicyRunRequest",
    "PolicyRunRow",
    "PolicyRunService",
    "PolicyRunStatus",
    "RefusedUpdate",
    "RetryBackoff",
    "SchemaOutOfDate",
    "Settings",
    "Storage",
    "UpdateOutcome",
    "UpdateResult",
    "WorkerOptions",
    "__version__",
    "open_storage",
    "upgrade",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("graphjobs")
    if name == "upgrade":
        # Alembic takes 0.2 s to import, which no command but a migration needs.
        from graphjobs.database.migrations.commands import upgrade

        return upgrade
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
