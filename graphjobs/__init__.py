"""graphjobs: the asynchronous PostgreSQL data layer of a scheduler of software supply-chain graph jobs.

Example::

    async with open_storage() as storage:
        job = await storage.graph_jobs.add(GraphBuildJob(tenant_id="acme", ...))
"""

from typing import TYPE_CHECKING, Any

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
from graphjobs.graph_jobs.filters import GraphJobCollection, GraphJobQuery
from graphjobs.graph_jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.graph_jobs.service import GraphJobService
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.graph_jobs.store import GraphJobStore, GraphJobUpdateResult
from graphjobs.policy_runs.attempt_results import LeaseResult, RetryBackoff
from graphjobs.policy_runs.filters import PolicyRunCollection, PolicyRunMetrics
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunInputs, PolicyRunJob
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.requests import PolicyRunCompletion, PolicyRunRequest
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus
from graphjobs.storage import open_storage
from graphjobs.worker import (
    BuildResult,
    DispatchContext,
    DispatcherOptions,
    GraphJobWorker,
    OverlayResult,
    PolicyRunDispatcher,
    PolicyRunRejected,
    WorkerOptions,
)

if TYPE_CHECKING:
    from graphjobs.database.migrations.commands import upgrade

__all__ = [
    "BuildResult",
    "ConfigurationError",
    "CorruptRow",
    "DatabaseUnavailable",
    "DispatchContext",
    "DispatcherOptions",
    "GraphBuildJob",
    "GraphJobCollection",
    "GraphJobEvent",
    "GraphJobQuery",
    "GraphJobQueue",
    "GraphJobService",
    "GraphJobStatus",
    "GraphJobStore",
    "GraphJobType",
    "GraphJobUpdateResult",
    "GraphJobWorker",
    "GraphJobsError",
    "GraphOverlayJob",
    "IdempotencyConflict",
    "IllegalTransition",
    "InvalidJob",
    "JobAlreadyExists",
    "JobConflict",
    "JobNotFound",
    "LeaseResult",
    "OutcomeUnknown",
    "OverlayResult",
    "PolicyRunCollection",
    "PolicyRunCompletion",
    "PolicyRunDispatcher",
    "PolicyRunEvent",
    "PolicyRunInputs",
    "PolicyRunJob",
    "PolicyRunMetrics",
    "PolicyRunMode",
    "PolicyRunPriority",
    "PolicyRunRejected",
    "PolicyRunRepository",
    "PolicyRunRequest",
    "PolicyRunService",
    "PolicyRunStatus",
    "RetryBackoff",
    "SchemaOutOfDate",
    "WorkerOptions",
    "open_storage",
    "upgrade",
]


def __getattr__(name: str) -> Any:
    if name != "upgrade":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Alembic takes 0.2 s to import, which no command but a migration needs.
    from graphjobs.database.migrations.commands import upgrade

    return upgrade
