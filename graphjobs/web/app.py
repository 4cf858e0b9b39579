"""Joins an application to a storage: a host's own FastAPI application, or the one `graphjobs serve` runs."""

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
from graphjobs.web.problems import Problem, answer_problem
from graphjobs.web.routes.graphs import graph_routes
from graphjobs.web.routes.health import health_routes
from graphjobs.web.routes.policies import policy_routes
from graphjobs.web.tokens import TokenFile


def add_scheduler_postgres_storage(
    app: FastAPI, settings: Settings | None = None, *, observers: Iterable[Observer] = ()
) -> None:
    """Gives an application its storage: opened before it serves, closed after, around the lifespan it has.

    Routes then get by `Depends` what `dependencies` gives: `graph_job_store`, `policy_run_service` and so on.

    Args:
        app: the application; it has not started yet.
        settings: where and how long; None means those of the environment.
        observers: see `GraphJobService`.
    """
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: FastAPI) -> AsyncIterator[Any]:
        async with open_storage(settings) as opened:
            use_storage(app, opened)
            async with inner(started) as state:
                yield state

    app.router.lifespan_context = lifespan
    app.state.graphjobs_observers = tuple(observers)


def use_storage(app: FastAPI, storage: Storage) -> None:
    """Gives an application a storage that somebody else opened, and closes after it."""
    use_graph_job_store(app, storage.graph_jobs)
    use_policy_runs(app, storage.policy_runs)
    app.state.graphjobs_storage = storage


def use_graph_job_store(app: FastAPI, store: GraphJobStore) -> None:
    """Gives an application any implementation of the store: the line to change for the way back to another one."""
    app.state.graphjobs_store = store


def use_policy_runs(app: FastAPI, runs: PolicyRunRepository) -> None:
    """Gives an application any implementation of the repository of policy runs; without one their routes answer 503."""
    app.state.graphjobs_policy_runs = runs


def create_app(tokens: TokenFile | None = None) -> FastAPI:
    """Makes the application `graphjobs serve` runs: the routes, health, and nothing else.

    Args:
        tokens: who may call; None answers 401 to every call that needs a token.
    """
    app = FastAPI(
        title="graphjobs",
        summary="Graph jobs and policy runs of a scheduler, on PostgreSQL.",
        version="1",
    )
    app.state.graphjobs_tokens = tokens
    app.include_router(graph_routes)
    app.include_router(policy_routes)
    app.include_router(health_routes)
    for kind in (HTTPException, RequestValidationError, Problem, GraphJobsError):
        app.add_exception_handler(kind, answer_problem)
    return app
