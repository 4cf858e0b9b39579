"""What a route asks for by `Depends`: the store, the service on it, the storage; set by the functions of `app`."""

from typing import Annotated, TypeAlias

from fastapi import Depends, FastAPI, Request

from graphjobs.errors import ConfigurationError
from graphjobs.jobs.service import GraphJobService
from graphjobs.jobs.store import GraphJobStore
from graphjobs.storage import Storage

_MISSING = (
    "the application has no graph job store: call add_scheduler_postgres_storage(app) before it starts, and start it "
    "with its lifespan"
)


# Coroutines all, though none awaits: FastAPI runs plain functions in threads, which costs more than they do.
async def graph_job_store(request: Request) -> GraphJobStore:
    """Gives the application's store."""
    return store_of(request.app)


async def graph_job_service(store: "Store", request: Request) -> GraphJobService:
    """Gives the use cases on the application's store, with its observers."""
    return GraphJobService(store, observers=getattr(request.app.state, "graphjobs_observers", ()))


async def storage(request: Request) -> Storage | None:
    """Gives the application's storage, or None where it runs on another store."""
    found: Storage | None = getattr(request.app.state, "graphjobs_storage", None)
    return found


def store_of(app: FastAPI) -> GraphJobStore:
    """Gives an application's store.

    Raises:
        ConfigurationError: it has none.
    """
    found: GraphJobStore | None = getattr(app.state, "graphjobs_store", None)
    if found is None:
        raise ConfigurationError(_MISSING)
    return found


Store: TypeAlias = Annotated[GraphJobStore, Depends(graph_job_store)]
Service: TypeAlias = Annotated[GraphJobService, Depends(graph_job_service)]
