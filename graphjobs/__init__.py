"""graphjobs: the asynchronous PostgreSQL data layer of a scheduler of software supply-chain graph jobs.

async with open_storage() as storage:
job = await storage.graph_jobs.insert(GraphBuildJob(tenant_id="acme", ...))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from graphjobs.database.migrations import upgrade
    from graphjobs.jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob
    from graphjobs.jobs.status import GraphJobStatus, GraphJobType
    from graphjobs.storage import open_storage
else:
    # Imported when asked for: the pytest plugin is loaded into every run, and SQLAlchemy takes most of a second.
    _ROOMS: Final = {
        "GraphBuildJob": "graphjobs.jobs.models",
        "GraphJobEvent": "graphjobs.jobs.models",
        "GraphJobStatus": "graphjobs.jobs.status",
        "GraphJobType": "graphjobs.jobs.status",
        "GraphOverlayJob": "graphjobs.jobs.models",
        "open_storage": "graphjobs.storage",
        "upgrade": "graphjobs.database.migrations",
    }

    def __getattr__(name: str) -> Any:
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_ROOMS[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


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
