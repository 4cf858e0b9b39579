"""The worker: claims jobs, runs a user's handlers, renews, ends and rescues."""

from graphjobs.worker.handlers import BuildResult, Handlers, JobContext, OverlayResult
from graphjobs.worker.options import WorkerOptions
from graphjobs.worker.worker import GraphJobWorker

__all__ = ["BuildResult", "GraphJobWorker", "Handlers", "JobContext", "OverlayResult", "WorkerOptions"]
