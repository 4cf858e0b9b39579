"""graphjobs: the asynchronous PostgreSQL data layer of a scheduler of software supply-chain graph jobs.

async with open_storage() as storage:
job = await storage.graph_jobs.insert(GraphBuildJob(tenant_id="acme", ...))
"""

from graphjobs.database.migrations import upgrade
from graphjobs.errors import (
    ConfigurationError,
    CorruptRow,
    DatabaseUnavailable,
    GraphJobsError,
    IllegalTransition,
    InvalidJob,
    JobAlreadyExists,
    JobNotFound,
    OutcomeUnknown,
    SchemaOutOfDate,
)
from graphjobs.jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob
from graphjobs.jobs.status import GraphJobStatus, GraphJobType
from graphjobs.storage import open_storage

__all__ = [
    "ConfigurationError",
    "CorruptRow",
    "DatabaseUnavailable",
    "GraphBuildJob",
    "GraphJobEvent",
    "GraphJobStatus",
    "GraphJobType",
    "GraphJobsError",
    "GraphOverlayJob",
    "IllegalTransition",
    "InvalidJob",
    "JobAlreadyExists",
    "JobNotFound",
    "OutcomeUnknown",
    "SchemaOutOfDate",
    "open_storage",
    "upgrade",
]
