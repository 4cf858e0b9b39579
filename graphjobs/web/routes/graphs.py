"""The HTTP routes of graph jobs. They know the store and the service only by their protocols."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final, Literal, TypeAlias

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import ConfigDict, Field, WithJsonSchema
from typing_extensions import TypeAliasType

from graphjobs.core.fields import NAME_LENGTH_MAX, Name
from graphjobs.core.pagination import CURSOR_LENGTH_MAX, PAGE_DEFAULT, PAGE_MAX, BoundedCount
from graphjobs.errors import JobNotFound
from graphjobs.graph_jobs.filters import GraphJobQuery
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphJobEvent, GraphOverlayJob
from graphjobs.graph_jobs.requests import GraphBuildRequest, GraphJobCompletion, GraphOverlayRequest
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.web import examples
from graphjobs.web.auth import Caller, event_actor, require_scope
from graphjobs.web.dependencies import ListPlaces, Service, Store
from graphjobs.web.operations import operation
from graphjobs.web.problems import ProblemRoute
from graphjobs.web.request_bodies import body_of, ignored_body
from graphjobs.web.responses import (
    CREATE_PROBLEMS,
    LIST_PROBLEMS,
    READ_PROBLEMS,
    UPDATE_PROBLEMS,
    CamelModel,
    Time,
    UnreadableRow,
    client_path,
    json_response,
    list_response,
    require_present,
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


class GraphBuildJobView(GraphBuildJob):
    """A build job."""

    model_config = ConfigDict(json_schema_extra=require_present)

    job_type: Literal["build"] = Field(alias="type")


class GraphOverlayJobView(GraphOverlayJob):
    """An overlay job."""

    model_config = ConfigDict(json_schema_extra=require_present)

    job_type: Literal["overlay"] = Field(alias="type")


GraphJobView = TypeAliasType(
    "GraphJobView", Annotated[GraphBuildJobView | GraphOverlayJobView, Field(discriminator="job_type")]
)
"""A job in answers: its type comes first, which the stored JSON does not contain."""


@dataclass(frozen=True, slots=True)
class _TypedJob:
    """A job, with its type in its JSON. It is not validated again."""

    job: AnyJob

    def to_json(self) -> str:
        return f'{{"type":"{self.job.type}",{self.job.to_json().removeprefix("{")}'


class GraphJobPage(CamelModel):
    """A page of jobs, newest first."""

    jobs: list[GraphJobView]
    next_cursor: str | None = Field(description="Null after the last job.")
    unreadable: list[UnreadableRow]


class GraphJobEventPage(CamelModel):
    """The events of a job, oldest first."""

    events: list[GraphJobEvent]
    unreadable: list[UnreadableRow]
    truncated: bool = Field(
        description="Whether the list ended before its limit, at 8 MiB of payload: continue after the last event."
    )


class GraphJobCount(CamelModel):
    """A number of jobs; a lower bound if it is not exact."""

    value: int
    exact: bool


class GraphOverlayLag(CamelModel):
    """Counts, ages and latencies of overlay jobs; ages and latencies are in seconds."""

    counts: dict[GraphJobStatus, GraphJobCount]
    oldest_queued_seconds: float | None
    p50_seconds: float | None
    p95_seconds: float | None
    completed: int = Field(description="The number of jobs that the percentiles are calculated from.")
    window_seconds: float


@graph_routes.post(
    "/build",
    summary="Request a build job",
    **operation(
        "request_graph_build",
        body=GraphBuildRequest,
        body_example=examples.BUILD_REQUEST,
        answer=GraphBuildJobView,
        example=examples.BUILD_JOB,
        problems=CREATE_PROBLEMS,
        status=202,
    ),
)
async def request_build(
    caller: WriteCaller, body: BuildBody, service: Service, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """Add a build job, or return the job that was added with the same key before."""
    job = await service.request_build(caller.tenant_id, body, key=idempotency_key, actor=event_actor(caller, request))
    return json_response(_TypedJob(job), 202, location=f"{client_path(request, parent='build')}jobs/{job.id}")


@graph_routes.post(
    "/overlays",
    summary="Request an overlay job",
    **operation(
        "request_graph_overlay",
        body=GraphOverlayRequest,
        body_example=examples.OVERLAY_REQUEST,
        answer=GraphOverlayJobView,
        example=examples.OVERLAY_JOB,
        problems=CREATE_PROBLEMS,
        status=202,
    ),
)
async def request_overlay(
    caller: WriteCaller, body: OverlayBody, service: Service, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """Add an overlay job, or return the job that was added with the same key before."""
    job = await service.request_overlay(caller.tenant_id, body, key=idempotency_key, actor=event_actor(caller, request))
    return json_response(_TypedJob(job), 202, location=f"{client_path(request, parent='overlays')}jobs/{job.id}")


@graph_routes.get(
    "/jobs",
    summary="List jobs, newest first",
    **operation("list_graph_jobs", answer=GraphJobPage, example=examples.JOB_PAGE, problems=LIST_PROBLEMS),
)
async def list_jobs(
    caller: ReadCaller, params: Annotated[JobListParams, Query()], store: Store, places: ListPlaces
) -> Response:
    """List one page of the jobs of the tenant."""
    async with places.place(caller.tenant_id):
        page = await store.get_jobs(caller.tenant_id, params.to_query())
        return await list_response("jobs", map(_TypedJob, page.jobs), page.unreadable, nextCursor=page.next_cursor)


@graph_routes.get(
    "/jobs/{job_id}",
    summary="Read a job",
    **operation("get_graph_job", answer=GraphJobView, example=examples.COMPLETED_JOB, problems=READ_PROBLEMS),
)
async def get_job(caller: ReadCaller, job_id: str, store: Store) -> Response:
    """Read a build or overlay job."""
    job = await store.get_job(caller.tenant_id, job_id)
    if job is None:
        raise JobNotFound(caller.tenant_id, job_id)
    return json_response(_TypedJob(job))


@graph_routes.get(
    "/jobs/{job_id}/events",
    summary="List the events of a job",
    **operation("list_graph_job_events", answer=GraphJobEventPage, example=examples.EVENT_PAGE, problems=READ_PROBLEMS),
)
async def list_events(
    caller: ReadCaller, job_id: str, params: Annotated[EventListParams, Query()], store: Store, places: ListPlaces
) -> Response:
    """List events of a job, oldest first."""
    async with places.place(caller.tenant_id):
        events = await store.events(caller.tenant_id, job_id, after=params.after, limit=params.limit)
        if not events and not events.unreadable and await store.get_job(caller.tenant_id, job_id) is None:
            raise JobNotFound(caller.tenant_id, job_id)
        return await list_response("events", events, events.unreadable, truncated=events.truncated)


@graph_routes.post(
    "/jobs/{job_id}/cancel",
    dependencies=[Depends(ignored_body(GRAPH_WRITE))],
    summary="Cancel a job",
    **operation("cancel_graph_job", answer=GraphJobView, example=examples.CANCELED_JOB, problems=UPDATE_PROBLEMS),
)
async def cancel_job(caller: WriteCaller, job_id: str, service: Service, request: Request) -> Response:
    """Cancel a queued or running job; a canceled job is returned as it is."""
    job = await service.cancel(caller.tenant_id, job_id, actor=event_actor(caller, request))
    return json_response(_TypedJob(job))


@graph_routes.post(
    "/hooks/completed",
    summary="Report that a job is completed or failed",
    **operation(
        "complete_graph_job",
        body=GraphJobCompletion,
        body_example=examples.COMPLETION,
        answer=GraphJobView,
        example=examples.COMPLETED_JOB,
        problems=UPDATE_PROBLEMS,
    ),
)
async def complete_job(caller: CompleteCaller, body: CompletionBody, service: Service, request: Request) -> Response:
    """Complete or fail a running job; a final job is returned as it is, after a repeated or late call."""
    job = await service.complete(caller.tenant_id, body, actor=event_actor(caller, request))
    return json_response(_TypedJob(job))


@graph_routes.get(
    "/overlays/lag",
    summary="Measure the lag of overlay jobs",
    **operation("measure_overlay_lag", answer=GraphOverlayLag, example=examples.OVERLAY_LAG, problems=LIST_PROBLEMS),
)
async def overlay_lag(caller: ReadCaller, params: Annotated[LagParams, Query()], service: Service) -> GraphOverlayLag:
    """Count overlay jobs by status, and measure how long they are queued and how long they take."""
    lag = await service.overlay_lag(caller.tenant_id, window=timedelta(seconds=params.window_seconds))
    return GraphOverlayLag(
        counts={status: _count(count) for status, count in lag.counts.items()},
        oldest_queued_seconds=lag.oldest_queued,
        p50_seconds=lag.p50,
        p95_seconds=lag.p95,
        completed=lag.completed,
        window_seconds=lag.window.total_seconds(),
    )


def _count(count: BoundedCount) -> GraphJobCount:
    return GraphJobCount(value=count.value, exact=count.exact)
