"""The routes of graph jobs: HTTP in, HTTP out; they know the store and the service by their protocols only."""

from datetime import timedelta
from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import Field, WithJsonSchema

from graphjobs.core.fields import NAME_LENGTH_MAX, Name
from graphjobs.core.pagination import CURSOR_LENGTH_MAX, PAGE_DEFAULT, PAGE_MAX, BoundedCount
from graphjobs.errors import JobNotFound
from graphjobs.graph_jobs.filters import GraphJobQuery
from graphjobs.graph_jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob
from graphjobs.graph_jobs.requests import GraphBuildRequest, GraphJobCompletion, GraphOverlayRequest
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.web.auth import Caller, actor_of, allowed_to
from graphjobs.web.dependencies import Service, Store
from graphjobs.web.problems import ProblemRoute
from graphjobs.web.request_bodies import body_of, documented, ignored_body
from graphjobs.web.responses import ASKING, LISTING, MOVING, READING, Camel, Time, Unreadable, answered, answered_list
from graphjobs.web.tokens import GRAPH_READ, GRAPH_WRITE

graph_routes = APIRouter(prefix="/graphs", tags=["graphs"], route_class=ProblemRoute)

_LAG_SECONDS_MAX: Final = 366 * 86_400

Reader: TypeAlias = Annotated[Caller, Depends(allowed_to(GRAPH_READ))]
Writer: TypeAlias = Annotated[Caller, Depends(allowed_to(GRAPH_WRITE))]
IdempotencyKey = Annotated[
    Name | None,
    Header(description="The caller's own name of this request: asked for again with it, there still is one job."),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": NAME_LENGTH_MAX}),
]


class JobsAsked(Camel):
    """The query of a list; see `GraphJobQuery`."""

    type: GraphJobType | None = None
    status: list[GraphJobStatus] = Field([], max_length=len(GraphJobStatus))
    correlation_id: Name | None = Field(None, description="Not together with type or status.")
    created_from: Time | None = Field(None, description="Inclusive.")
    created_to: Time | None = Field(None, description="Exclusive.")
    limit: int = Field(PAGE_DEFAULT, ge=1, le=PAGE_MAX)
    cursor: str | None = Field(None, max_length=CURSOR_LENGTH_MAX, description="nextCursor of the page before.")

    def query(self) -> GraphJobQuery:
        """Gives the store's query."""
        given = self.__dict__.copy()
        return GraphJobQuery(statuses=tuple(given.pop("status")), **given)


class EventsAsked(Camel):
    """The query of a log."""

    after: int = Field(0, ge=0, lt=2**63, description="The id of the event to go on from.")
    limit: int = Field(PAGE_MAX, ge=1, le=PAGE_MAX)


class LagAsked(Camel):
    """The query of the lag."""

    window_seconds: int = Field(86_400, ge=1, le=_LAG_SECONDS_MAX, description="Of jobs created at most so long ago.")


class JobPage(Camel):
    """One page of jobs, newest first."""

    jobs: list[GraphBuildJob | GraphOverlayJob]
    next_cursor: str | None = Field(description="Null where no more jobs were there.")
    unreadable: list[Unreadable]


class EventPage(Camel):
    """A job's log, oldest first."""

    events: list[GraphJobEvent]
    unreadable: list[Unreadable]


class Count(Camel):
    """How many there are; not exact where there are more."""

    value: int
    exact: bool


class Lag(Camel):
    """How far behind the overlays are; ages and latencies are seconds."""

    counts: dict[GraphJobStatus, Count]
    oldest_queued_seconds: float | None
    p50_seconds: float | None
    p95_seconds: float | None
    completed: int = Field(description="How many jobs the percentiles are of.")
    window_seconds: float


@graph_routes.post(
    "/build",
    status_code=202,
    response_model=GraphBuildJob,
    responses=ASKING,
    openapi_extra=documented(GraphBuildRequest),
    summary="Ask for the graph of an SBOM",
)
async def request_build(
    caller: Writer,
    asked: Annotated[GraphBuildRequest, Depends(body_of(GraphBuildRequest, GRAPH_WRITE))],
    service: Service,
    request: Request,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Adds a build job, or gives the one that was added under the same key before."""
    job = await service.request_build(caller.tenant_id, asked, key=idempotency_key, actor=actor_of(caller, request))
    return answered(job, 202, location=f"{request.url.path.removesuffix('build')}jobs/{job.id}")


@graph_routes.post(
    "/overlays",
    status_code=202,
    response_model=GraphOverlayJob,
    responses=ASKING,
    openapi_extra=documented(GraphOverlayRequest),
    summary="Ask for findings over a built graph",
)
async def request_overlay(
    caller: Writer,
    asked: Annotated[GraphOverlayRequest, Depends(body_of(GraphOverlayRequest, GRAPH_WRITE))],
    service: Service,
    request: Request,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Adds an overlay job, or gives the one that was added under the same key before."""
    job = await service.request_overlay(caller.tenant_id, asked, key=idempotency_key, actor=actor_of(caller, request))
    return answered(job, 202, location=f"{request.url.path.removesuffix('overlays')}jobs/{job.id}")


@graph_routes.get("/jobs", response_model=JobPage, responses=LISTING, summary="A page of jobs, newest first")
async def list_jobs(caller: Reader, asked: Annotated[JobsAsked, Query()], store: Store) -> Response:
    """Reads one page of the caller's tenant's jobs."""
    page = await store.get_jobs(caller.tenant_id, asked.query())
    return answered_list("jobs", page.jobs, page.unreadable, nextCursor=page.next_cursor)


@graph_routes.get(
    "/jobs/{job_id}", response_model=GraphBuildJob | GraphOverlayJob, responses=READING, summary="One job"
)
async def get_job(caller: Reader, job_id: str, store: Store) -> Response:
    """Reads a job of either kind."""
    job = await store.get_job(caller.tenant_id, job_id)
    if job is None:
        raise JobNotFound(caller.tenant_id, job_id)
    return answered(job)


@graph_routes.get("/jobs/{job_id}/events", response_model=EventPage, responses=READING, summary="A job's log")
async def list_events(caller: Reader, job_id: str, asked: Annotated[EventsAsked, Query()], store: Store) -> Response:
    """Reads a job's log, in its order."""
    events = await store.events(caller.tenant_id, job_id, after=asked.after, limit=asked.limit)
    if not events and not events.unreadable and await store.get_job(caller.tenant_id, job_id) is None:
        raise JobNotFound(caller.tenant_id, job_id)
    return answered_list("events", events, events.unreadable)


@graph_routes.post(
    "/jobs/{job_id}/cancel",
    response_model=GraphBuildJob | GraphOverlayJob,
    responses=MOVING,
    dependencies=[Depends(ignored_body(GRAPH_WRITE))],
    summary="Cancel a job",
)
async def cancel_job(caller: Writer, job_id: str, service: Service, request: Request) -> Response:
    """Cancels a job that is queued or running; one that is canceled already stays so."""
    return answered(await service.cancel(caller.tenant_id, job_id, actor=actor_of(caller, request)))


@graph_routes.post(
    "/hooks/completed",
    response_model=GraphBuildJob | GraphOverlayJob,
    responses=MOVING,
    openapi_extra=documented(GraphJobCompletion),
    summary="Tell that a job is done, or has failed",
)
async def complete_job(
    caller: Writer,
    completion: Annotated[GraphJobCompletion, Depends(body_of(GraphJobCompletion, GRAPH_WRITE))],
    service: Service,
    request: Request,
) -> Response:
    """Ends a running job; a repeated or late call is answered with the job as it is."""
    return answered(await service.complete(caller.tenant_id, completion, actor=actor_of(caller, request)))


@graph_routes.get("/overlays/lag", responses=LISTING, summary="How far behind the overlays are")
async def overlay_lag(caller: Reader, asked: Annotated[LagAsked, Query()], service: Service) -> Lag:
    """Counts the overlay jobs by status, and tells how long they wait and take."""
    lag = await service.overlay_lag(caller.tenant_id, window=timedelta(seconds=asked.window_seconds))
    return Lag(
        counts={status: _count(count) for status, count in lag.counts.items()},
        oldest_queued_seconds=lag.oldest_queued,
        p50_seconds=lag.p50,
        p95_seconds=lag.p95,
        completed=lag.completed,
        window_seconds=lag.window.total_seconds(),
    )


def _count(count: BoundedCount) -> Count:
    return Count(value=count.value, exact=count.exact)
