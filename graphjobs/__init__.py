"""graphjobs: the asynchronous PostgreSQL data layer of a scheduler of software supply-chain graph jobs.

async with open_storage() as storage:
job = await storage.graph_jobs.add(GraphBuildJob(tenant_id="acme", ...))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from graphjobs.database.migrations.commands import upgrade
    from graphjobs.graph_jobs.filters import GraphJobCollection, GraphJobQuery
    from graphjobs.graph_jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob
    from graphjobs.graph_jobs.queue import GraphJobQueue
    from graphjobs.graph_jobs.service import GraphJobService
    from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
    from graphjobs.graph_jobs.store import GraphJobStore, GraphJobUpdateResult
    from graphjobs.policy_runs.attempt_results import LeaseResult, RetryBackoff
    from graphjobs.policy_runs.filters import PolicyRunCollection, PolicyRunMetrics
    from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunInputs, PolicyRunJob, PolicyRunRequest
    from graphjobs.policy_runs.repository import PolicyRunRepository
    from graphjobs.policy_runs.service import PolicyRunCompletion, PolicyRunService
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
else:
    # Imported when asked for: the pytest plugin is loaded into every run, and SQLAlchemy takes most of a second.
    _ROOMS: Final = {
        "BuildResult": "graphjobs.worker",
        "DispatchContext": "graphjobs.worker",
        "DispatcherOptions": "graphjobs.worker",
        "GraphBuildJob": "graphjobs.graph_jobs.models",
        "GraphJobCollection": "graphjobs.graph_jobs.filters",
        "GraphJobEvent": "graphjobs.graph_jobs.models",
        "GraphJobQuery": "graphjobs.graph_jobs.filters",
        "GraphJobQueue": "graphjobs.graph_jobs.queue",
        "GraphJobService": "graphjobs.graph_jobs.service",
        "GraphJobStatus": "graphjobs.graph_jobs.status",
        "GraphJobStore": "graphjobs.graph_jobs.store",
        "GraphJobType": "graphjobs.graph_jobs.status",
        "GraphJobUpdateResult": "graphjobs.graph_jobs.store",
        "GraphJobWorker": "graphjobs.worker",
        "GraphOverlayJob": "graphjobs.graph_jobs.models",
        "OverlayResult": "graphjobs.worker",
        "PolicyRunCollection": "graphjobs.policy_runs.filters",
        "PolicyRunCompletion": "graphjobs.policy_runs.service",
        "PolicyRunDispatcher": "graphjobs.worker",
        "PolicyRunEvent": "graphjobs.policy_runs.models",
        "PolicyRunInputs": "graphjobs.policy_runs.models",
        "PolicyRunJob": "graphjobs.policy_runs.models",
        "PolicyRunMetrics": "graphjobs.policy_runs.filters",
        "PolicyRunMode": "graphjobs.policy_runs.status",
        "PolicyRunPriority": "graphjobs.policy_runs.status",
        "PolicyRunRejected": "graphjobs.worker",
        "PolicyRunRepository": "graphjobs.policy_runs.repository",
        "PolicyRunRequest": "graphjobs.policy_runs.models",
        "PolicyRunService": "graphjobs.policy_runs.service",
        "PolicyRunStatus": "graphjobs.policy_runs.status",
        "RetryBackoff": "graphjobs.policy_runs.attempt_results",
        "LeaseResult": "graphjobs.policy_runs.attempt_results",
        "WorkerOptions": "graphjobs.worker",
        "open_storage": "graphjobs.storage",
        "upgrade": "graphjobs.database.migrations.commands",
    }

    def __getattr__(name: str) -> Any:
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_ROOMS[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


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
