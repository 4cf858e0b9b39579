"""Connect a FastAPI application to a storage: the application of a host, or the one of `graphjobs serve`."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from graphjobs.errors import GraphJobsError
from graphjobs.graph_jobs.service import Observer
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage, open_storage
from graphjobs.web.docs_page import add_docs_page
from graphjobs.web.operations import openapi_tags
from graphjobs.web.problems import Problem, handle_error
from graphjobs.web.routes.graphs import graph_routes
from graphjobs.web.routes.health import health_routes
from graphjobs.web.routes.policies import policy_routes
from graphjobs.web.tokens import TokenFile


def add_scheduler_postgres_storage(
    app: FastAPI, settings: Settings | None = None, *, observers: Iterable[Observer] = ()
) -> None:
    """Open a storage before the application's lifespan starts, and close it after the lifespan ends.

    Routes get its parts by `Depends`: `graph_job_store`, `policy_run_service` and so on.

    Args:
        app: the application, not started yet.
        settings: connection and timeouts; None means the settings of the environment.
        observers: see `GraphJobService`.
    """
    host_lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: FastAPI) -> AsyncIterator[Any]:
        async with open_storage(settings) as storage:
            use_storage(app, storage)
            async with host_lifespan(started) as state:
                yield state

    app.router.lifespan_context = lifespan
    app.state.graphjobs_observers = tuple(observers)


def use_storage(app: FastAPI, storage: Storage) -> None:
    """Set the storage of an application. The caller opens it before and closes it after the application."""
    use_graph_job_store(app, storage.graph_jobs)
    use_policy_runs(app, storage.policy_runs)
    app.state.graphjobs_storage = storage


def use_graph_job_store(app: FastAPI, store: GraphJobStore) -> None:
    """Set the graph job store of an application, of any implementation: the line to change for a rollback."""
    app.state.graphjobs_store = store


def use_policy_runs(app: FastAPI, runs: PolicyRunRepository) -> None:
    """Set the policy run repository, of any implementation; without one the routes of policy runs answer 503."""
    app.state.graphjobs_policy_runs = runs


def create_app(tokens: TokenFile | None = None) -> FastAPI:
    """Build the application of `graphjobs serve`: the routes of graph jobs, policy runs and health.

    Args:
        tokens: the accepted tokens; with None, every request that needs a token is answered 401.
    """
    app = FastAPI(
        title="graphjobs",
        summary="Graph jobs and policy runs of a scheduler, on PostgreSQL.",
        version="1",
        openapi_tags=openapi_tags,
        docs_url=None,  # FastAPI's own pages load their scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # the redirect would follow the Host header, before the caller is known
    )
    app.state.graphjobs_tokens = tokens
    app.include_router(graph_routes)
    app.include_router(policy_routes)
    app.include_router(health_routes)
    add_docs_page(app)
    for error_type in (HTTPException, RequestValidationError, Problem, GraphJobsError):
        app.add_exception_handler(error_type, handle_error)
    return app
