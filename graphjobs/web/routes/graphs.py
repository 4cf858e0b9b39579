"""The HTTP routes of graph jobs. They know the store and the service only by their protocols."""

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
from graphjobs.web.auth import Caller, event_actor, require_scope
from graphjobs.web.dependencies import ListPlaces, Service, Store
from graphjobs.web.problems import ProblemRoute
from graphjobs.web.request_bodies import body_of, ignored_body
from graphjobs.web.responses import (
    LIST_PROBLEMS,
    READ_PROBLEMS,
    UPDATE_PROBLEMS,
    CamelModel,
    Time,
    UnreadableRow,
    client_path,
    create_options,
    json_response,
    list_response,
    update_options,
)
from graphjobs.web.tokens import GRAPH_COMPLETE, GRAPH_READ, GRAPH_WRITE

graph_routes = APIRouter(prefix="/graphs", tags=["graphs"], route_class=ProblemRoute)

_LAG_SECONDS_MAX: Final = 366 * 86_400

ReadCaller: TypeAlias = Annotated[Caller, Depends(require_scope(GRAPH_READ))]
WriteCaller: TypeAlias = Annotated[Caller, Depends(require_scope(GRAPH_WRITE))]
CompleteCaller: TypeAlias = Annotated[Caller, Depends(require_scope(GRAPH_COMPLETE))]
BuildBody: TypeAlias = Annotated[GraphBuildRequest, Depends(body_of(GraphBuildRequest, GRAPH_WRITE))]
OverlayBody: TypeAlias = Annotated[GraphOverlayRequest, Depends(body_of(GraphOverlayRequest, GRAPH_WRITE))]
CompletionBody: TypeAlias = Annotated[GraphJobCompletion, Depends(body_of(GraphJobCompletion, GRAPH_COMPLETE))]
IdempotencyKey = Annotated[
    Name | None,
    Header(description="A key of the caller. Repeated requests with one key add one job."),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": NAME_LENGTH_MAX}),
]


class JobListParams(CamelModel):
    """The query of a list of jobs; see `GraphJobQuery`."""

    type: GraphJobType | None = None
    status: list[GraphJobStatus] = Field([], max_length=len(GraphJobStatus))
    correlation_id: Name | None = Field(None, description="Not together with type or status.")
    created_from: Time | None = Field(None, description="Inclusive.")
    created_to: Time | None = Field(None, description="Exclusive.")
    limit: int = Field(PAGE_DEFAULT, ge=1, le=PAGE_MAX)
    cursor: str | None = Field(None, max_length=CURSOR_LENGTH_MAX, description="nextCursor of the previous page.")

    def to_query(self) -> GraphJobQuery:
        """Return the query of the store."""
        filters = self.__dict__.copy()
        return GraphJobQuery(statuses=tuple(filters.pop("status")), **filters)


class EventListParams(CamelModel):
    """The query of a list of events."""

    after: int = Field(0, ge=0, lt=2**63, description="List events with a larger id than this.")
    limit: int = Field(PAGE_MAX, ge=1, le=PAGE_MAX)


class LagParams(CamelModel):
    """The query of the overlay lag."""

    window_seconds: int = Field(86_400, ge=1, le=_LAG_SECONDS_MAX, description="Maximum age of the measured jobs.")


class JobPage(CamelModel):
    """A page of jobs, newest first."""

    jobs: list[GraphBuildJob | GraphOverlayJob]
    next_cursor: str | None = Field(description="Null after the last job.")
    unreadable: list[UnreadableRow]


class EventPage(CamelModel):
    """The events of a job, oldest first."""

    events: list[GraphJobEvent]
    unreadable: list[UnreadableRow]
    truncated: bool = Field(
        description="Whether the list ended before its limit, at 8 MiB of payload: continue after the last event."
    )


class Count(CamelModel):
    """A number of jobs; a lower bound if it is not exact."""

    value: int
    exact: bool


class Lag(CamelModel):
    """Counts, ages and latencies of overlay jobs; ages and latencies are in seconds."""

    counts: dict[GraphJobStatus, Count]
    oldest_queued_seconds: float | None
    p50_seconds: float | None
    p95_seconds: float | None
    completed: int = Field(description="The number of jobs that the percentiles are calculated from.")
    window_seconds: float


@graph_routes.post("/build", summary="Request a build job", **create_options(GraphBuildRequest, GraphBuildJob))
async def request_build(
    caller: WriteCaller, body: BuildBody, service: Service, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """Add a build job, or return the job that was added with the same key before."""
    job = await service.request_build(caller.tenant_id, body, key=idempotency_key, actor=event_actor(caller, request))
    return json_response(job, 202, location=f"{client_path(request, parent='build')}jobs/{job.id}")


@graph_routes.post(
    "/overlays", summary="Request an overlay job", **create_options(GraphOverlayRequest, GraphOverlayJob)
)
async def request_overlay(
    caller: WriteCaller, body: OverlayBody, service: Service, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """Add an overlay job, or return the job that was added with the same key before."""
    job = await service.request_overlay(caller.tenant_id, body, key=idempotency_key, actor=event_actor(caller, request))
    return json_response(job, 202, location=f"{client_path(request, parent='overlays')}jobs/{job.id}")


@graph_routes.get("/jobs", response_model=JobPage, responses=LIST_PROBLEMS, summary="List jobs, newest first")
async def list_jobs(
    caller: ReadCaller, params: Annotated[JobListParams, Query()], store: Store, places: ListPlaces
) -> Response:
    """List one page of the jobs of the tenant."""
    async with places:
        page = await store.get_jobs(caller.tenant_id, params.to_query())
        return await list_response("jobs", page.jobs, page.unreadable, nextCursor=page.next_cursor)


@graph_routes.get(
    "/jobs/{job_id}", response_model=GraphBuildJob | GraphOverlayJob, responses=READ_PROBLEMS, summary="Read a job"
)
async def get_job(caller: ReadCaller, job_id: str, store: Store) -> Response:
    """Read a build or overlay job."""
    job = await store.get_job(caller.tenant_id, job_id)
    if job is None:
        raise JobNotFound(caller.tenant_id, job_id)
    return json_response(job)


@graph_routes.get(
    "/jobs/{job_id}/events", response_model=EventPage, responses=READ_PROBLEMS, summary="List the events of a job"
)
async def list_events(
    caller: ReadCaller, job_id: str, params: Annotated[EventListParams, Query()], store: Store, places: ListPlaces
) -> Response:
    """List events of a job, oldest first."""
    async with places:
        events = await store.events(caller.tenant_id, job_id, after=params.after, limit=params.limit)
        if not events and not events.unreadable and await store.get_job(caller.tenant_id, job_id) is None:
            raise JobNotFound(caller.tenant_id, job_id)
        return await list_response("events", events, events.unreadable, truncated=events.truncated)


@graph_routes.post(
    "/jobs/{job_id}/cancel",
    response_model=GraphBuildJob | GraphOverlayJob,
    responses=UPDATE_PROBLEMS,
    dependencies=[Depends(ignored_body(GRAPH_WRITE))],
    summary="Cancel a job",
)
async def cancel_job(caller: WriteCaller, job_id: str, service: Service, request: Request) -> Response:
    """Cancel a queued or running job; a canceled job is returned as it is."""
    return json_response(await service.cancel(caller.tenant_id, job_id, actor=event_actor(caller, request)))


@graph_routes.post(
    "/hooks/completed",
    summary="Report that a job is completed or failed",
    **update_options(GraphJobCompletion, GraphBuildJob | GraphOverlayJob),
)
async def complete_job(caller: CompleteCaller, body: CompletionBody, service: Service, request: Request) -> Response:
    """Complete or fail a running job; a final job is returned as it is, after a repeated or late call."""
    return json_response(await service.complete(caller.tenant_id, body, actor=event_actor(caller, request)))


@graph_routes.get("/overlays/lag", responses=LIST_PROBLEMS, summary="Measure the lag of overlay jobs")
async def overlay_lag(caller: ReadCaller, params: Annotated[LagParams, Query()], service: Service) -> Lag:
    """Count overlay jobs by status, and measure how long they are queued and how long they take."""
    lag = await service.overlay_lag(caller.tenant_id, window=timedelta(seconds=params.window_seconds))
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
