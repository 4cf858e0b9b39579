"""Whether the process lives, and whether it can work: what a load balancer asks."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from graphjobs.database.schema_version import require_revision
from graphjobs.storage import Storage
from graphjobs.web.dependencies import Store, storage
from graphjobs.web.problems import ProblemRoute, problems

health_routes = APIRouter(tags=["health"], route_class=ProblemRoute)


class Health(BaseModel):
    """The process lives."""

    status: str = "ok"


class Readiness(BaseModel):
    """The process can work."""

    status: str = "ready"
    revision: str | None = None
    """The database's revision; None on another store than PostgreSQL's."""


@health_routes.get("/healthz", summary="Whether the process lives")
async def healthz() -> Health:
    """Answers without asking anybody."""
    return Health()


@health_routes.get(
    "/readyz", summary="Whether the database answers, at a revision this code can work on", responses=problems(503)
)
async def readyz(_store: Store, opened: Annotated[Storage | None, Depends(storage)]) -> Readiness:
    """Asks the database for its revision."""
    return Readiness(revision=await require_revision(opened.database) if opened else None)
