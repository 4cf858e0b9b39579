"""Routes for load balancers: whether the process runs, and whether it accepts work."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from graphjobs.database.schema_version import require_revision
from graphjobs.storage import Storage
from graphjobs.web.dependencies import Store, optional_storage
from graphjobs.web.examples import HEALTH, READINESS
from graphjobs.web.operations import operation
from graphjobs.web.problems import ProblemRoute, problem_responses

health_routes = APIRouter(tags=["health"], route_class=ProblemRoute)


class GraphJobsHealth(BaseModel):
    """The process runs."""

    status: str = "ok"


class GraphJobsReadiness(BaseModel):
    """The process accepts work."""

    status: str = "ready"
    revision: str | None = None
    """The revision of the database; None if the store is not the one of PostgreSQL."""


@health_routes.get(
    "/healthz",
    summary="Check that the process runs",
    **operation("get_graphjobs_health", answer=GraphJobsHealth, example=HEALTH, problems={}),
)
async def healthz() -> GraphJobsHealth:
    """Answer without a call to the database."""
    return GraphJobsHealth()


@health_routes.get(
    "/readyz",
    summary="Check that the database answers, at a revision that this code supports",
    **operation(
        "get_graphjobs_readiness", answer=GraphJobsReadiness, example=READINESS, problems=problem_responses(503)
    ),
)
async def readyz(_store: Store, storage: Annotated[Storage | None, Depends(optional_storage)]) -> GraphJobsReadiness:
    """Read the revision of the database."""
    return GraphJobsReadiness(revision=await require_revision(storage.database) if storage else None)
