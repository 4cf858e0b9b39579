"""Dependencies of routes: stores, services and the storage, set by the functions of `app`."""

from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Request

from graphjobs.errors import ConfigurationError
from graphjobs.graph_jobs.service import GraphJobService
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.storage import Storage
from graphjobs.web.request_limit import TenantPlaces, places_of

_START_WITH_STORAGE = "call add_scheduler_postgres_storage(app) before it starts, and start it with its lifespan"
_NO_STORE = f"the application has no graph job store: {_START_WITH_STORAGE}"
_NO_RUNS = (
    "the application has no policy run repository: set one with use_policy_runs(app, repository), "
    f"or {_START_WITH_STORAGE}"
)


def _from_state(request: Request, name: str, problem: str) -> Any:
    value = getattr(request.app.state, name, None)
    if value is None:
        raise ConfigurationError(problem)
    return value


# Coroutines, although none awaits: FastAPI runs plain functions in threads, which costs more than their work.
async def graph_job_store(request: Request) -> GraphJobStore:
    """Return the graph job store of the application; raise `ConfigurationError` where it has none."""
    store: GraphJobStore = _from_state(request, "graphjobs_store", _NO_STORE)
    return store


async def graph_job_service(store: "Store", request: Request) -> GraphJobService:
    """Return the service on the store of the application, with its observers."""
    return GraphJobService(store, observers=getattr(request.app.state, "graphjobs_observers", ()))


async def policy_run_repository(request: Request) -> PolicyRunRepository:
    """Return the policy run repository of the application; raise `ConfigurationError` where it has none."""
    runs: PolicyRunRepository = _from_state(request, "graphjobs_policy_runs", _NO_RUNS)
    return runs


async def policy_run_service(runs: "Runs") -> PolicyRunService:
    """Return the service on the policy run repository of the application."""
    return PolicyRunService(runs)


async def list_places(request: Request) -> TenantPlaces:
    """Return the places of lists that are read and written at the same time: each may hold a page of 8 MiB."""
    return places_of(request.scope).lists


async def optional_storage(request: Request) -> Storage | None:
    """Return the storage of the application, or None if the application uses another store."""
    storage: Storage | None = getattr(request.app.state, "graphjobs_storage", None)
    return storage


ListPlaces: TypeAlias = Annotated[TenantPlaces, Depends(list_places)]
Store: TypeAlias = Annotated[GraphJobStore, Depends(graph_job_store)]
Service: TypeAlias = Annotated[GraphJobService, Depends(graph_job_service)]
Runs: TypeAlias = Annotated[PolicyRunRepository, Depends(policy_run_repository)]
RunService: TypeAlias = Annotated[PolicyRunService, Depends(policy_run_service)]
