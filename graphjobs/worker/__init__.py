"""Workers of queued work: the worker of graph jobs and the dispatcher of policy runs, on one base."""

from graphjobs.worker.graph_job_worker import GraphJobWorker
from graphjobs.worker.handlers import BuildResult, Handlers, JobContext, OverlayResult
from graphjobs.worker.options import WorkerOptions
from graphjobs.worker.policy_run_dispatcher import (
    DispatchContext,
    DispatcherOptions,
    PolicyRunDispatcher,
    PolicyRunRejected,
)

__all__ = [
    "BuildResult",
    "DispatchContext",
    "DispatcherOptions",
    "GraphJobWorker",
    "Handlers",
    "JobContext",
    "OverlayResult",
    "PolicyRunDispatcher",
    "PolicyRunRejected",
    "WorkerOptions",
]
