"""What a route asks for by `Depends`: stores, the services on them, the storage; set by the functions of `app`."""

from typing import Annotated, TypeAlias

from fastapi import Depends, FastAPI, Request

from graphjobs.errors import ConfigurationError
from graphjobs.graph_jobs.service import GraphJobService
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.storage import Storage

_MISSING = (
    "the application has no graph job store: call add_scheduler_postgres_storage(app) before it starts, and start it "
    "with its lifespan"
)
_NO_RUNS = (
    "the application has no policy runs: give it a repository of them by use_policy_runs(app, repository), or call "
    "add_scheduler_postgres_storage(app) before it starts, and start it with its lifespan"
)


# Coroutines all, though none awaits: FastAPI runs plain functions in threads, which costs more than they do.
async def graph_job_store(request: Request) -> GraphJobStore:
    """Gives the application's store."""
    return store_of(request.app)


async def graph_job_service(store: "Store", request: Request) -> GraphJobService:
    """Gives the use cases on the application's store, with its observers."""
    return GraphJobService(store, observers=getattr(request.app.state, "graphjobs_observers", ()))


async def policy_run_repository(request: Request) -> PolicyRunRepository:
    """Gives the application's policy runs.

    Raises:
        ConfigurationError: it has none.
    """
    found: PolicyRunRepository | None = getattr(request.app.state, "graphjobs_policy_runs", None)
    if found is None:
        raise ConfigurationError(_NO_RUNS)
    return found


async def policy_run_service(runs: "Runs") -> PolicyRunService:
    """Gives the use cases on the application's policy runs."""
    return PolicyRunService(runs)


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
Runs: TypeAlias = Annotated[PolicyRunRepository, Depends(policy_run_repository)]
RunService: TypeAlias = Annotated[PolicyRunService, Depends(policy_run_service)]
