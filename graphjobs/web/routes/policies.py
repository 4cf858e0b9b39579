"""The HTTP routes of policy runs. They know the repository and the service only by their protocols.

A run id of a caller may contain any character that has a meaning in a path. In a path it is one percent-encoded
segment. Servers decode paths, so a run id is matched as everything between `/runs/` and the end or the verb.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import quote, unquote

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from graphjobs.core.fields import ErrorText, FrozenModel, Name, Reason, UtcTime
from graphjobs.core.pagination import CURSOR_LENGTH_MAX, PAGE_DEFAULT, PAGE_MAX
from graphjobs.errors import JobNotFound
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.models import PolicyRunJob, PolicyRunSpec
from graphjobs.policy_runs.requests import PolicyRunRequest
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus
from graphjobs.web import examples
from graphjobs.web.auth import Caller, check_scope, event_actor, require_scope
from graphjobs.web.dependencies import ListPlaces, RunService
from graphjobs.web.operations import operation
from graphjobs.web.problems import Problem, ProblemRoute, ProblemTerms
from graphjobs.web.request_bodies import body_of
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
from graphjobs.web.tokens import POLICY_EMERGENCY, POLICY_READ, POLICY_RUN

PublicStatus: TypeAlias = Literal["queued", "running", "succeeded", "failed", "canceled"]
"""The values of `PolicyRunStatus.public_status`."""


class PolicyRoute(ProblemRoute):
    """A route with the terms of policy runs in its problems."""

    terms = ProblemTerms("policy run", "runId", lambda name: PolicyRunStatus.parse(name).public_status)


policy_routes = APIRouter(prefix="/policy", tags=["policy"], route_class=PolicyRoute)


def _check_priority(caller: Caller, priority: PolicyRunPriority) -> None:
    """Answer 403 for an emergency of a caller without its scope: emergencies delay the runs of all tenants."""
    if priority is PolicyRunPriority.EMERGENCY:
        check_scope(caller, POLICY_EMERGENCY)


def _check_simulate(mode: object) -> object:
    if mode == PolicyRunMode.SIMULATE:
        return PolicyRunMode.SIMULATE
    raise PydanticCustomError("mode", "mode must be simulate, or absent")


class PolicyRunBody(PolicyRunSpec):
    """A request for a policy run of the caller's tenant.

    Attributes:
        run_id: an id of the caller. Repeated requests with one run id add one run.
        queued_at: when the run was requested; now if absent.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"mode": {"const": "incremental"}}, "required": ["mode"]},
            "then": {
                "properties": {"inputs": {"properties": {"sbomSet": {"minItems": 1}}, "required": ["sbomSet"]}},
                "required": ["inputs"],
            },
        }
    )

    run_id: Name | None = None
    queued_at: UtcTime | None = None

    def to_request(self, caller: Caller) -> PolicyRunRequest:
        """Return the request of the caller's tenant; `requested_by` defaults to the name of the caller.

        Raises:
            Problem: 403 for an emergency of a caller without its scope.
        """
        _check_priority(caller, self.priority)
        spec = {**self.spec(), "requested_by": self.requested_by or caller.name[:128] or None}
        return PolicyRunRequest(tenant_id=caller.tenant_id, run_id=self.run_id, queued_at=self.queued_at, **spec)


class PolicySimulationBody(PolicyRunBody):
    """A request for a simulation."""

    mode: Annotated[Literal[PolicyRunMode.SIMULATE], BeforeValidator(_check_simulate)] = PolicyRunMode.SIMULATE


class PolicyRunCancelBody(FrozenModel):
    """The reason of a cancellation: any text. It is sanitized and cut to 4,000 characters."""

    reason: Reason | None = None


class PolicyRunRetryBody(FrozenModel):
    """The run id of the new run. Repeated requests with one run id add one run."""

    run_id: Name | None = None


ReadCaller: TypeAlias = Annotated[Caller, Depends(require_scope(POLICY_READ))]
RunCaller: TypeAlias = Annotated[Caller, Depends(require_scope(POLICY_RUN))]
RunBody: TypeAlias = Annotated[PolicyRunBody, Depends(body_of(PolicyRunBody, POLICY_RUN))]
SimulationBody: TypeAlias = Annotated[PolicySimulationBody, Depends(body_of(PolicySimulationBody, POLICY_RUN))]
CancelBody: TypeAlias = Annotated[
    PolicyRunCancelBody, Depends(body_of(PolicyRunCancelBody, POLICY_RUN, required=False))
]
RetryBody: TypeAlias = Annotated[PolicyRunRetryBody, Depends(body_of(PolicyRunRetryBody, POLICY_RUN, required=False))]


class PolicyRunListParams(CamelModel):
    """The query of a list of runs; see `PolicyRunQuery`."""

    policy_id: Name | None = None
    mode: PolicyRunMode | None = None
    status: list[PublicStatus] = Field([], max_length=len(PolicyRunStatus))
    queued_after: Time | None = Field(None, description="Exclusive.")
    limit: int = Field(PAGE_DEFAULT, ge=1, le=PAGE_MAX)
    cursor: str | None = Field(None, max_length=CURSOR_LENGTH_MAX, description="nextCursor of the previous page.")

    def to_query(self) -> PolicyRunQuery:
        """Return the query of the service."""
        filters = self.__dict__.copy()
        requested = filters.pop("status")
        statuses = tuple(status for status in PolicyRunStatus if status.public_status in requested)
        return PolicyRunQuery(statuses=statuses, **filters)


class PolicyRunView(PolicyRunSpec):
    """The public fields of a policy run: all but those of its lease."""

    model_config = ConfigDict(json_schema_extra=require_present)

    run_id: Name
    tenant_id: Name
    status: PublicStatus
    attempts: int
    queued_at: UtcTime
    submitted_at: UtcTime | None = None
    completed_at: UtcTime | None = None
    canceled_at: UtcTime | None = None
    error: ErrorText | None = None
    cancellation_requested: bool
    cancellation_requested_at: UtcTime | None = None
    cancellation_reason: ErrorText | None = None

    @classmethod
    def of(cls, run: PolicyRunJob) -> "PolicyRunView":
        """Return the view of a run. The values are valid already: to validate them again would double the time."""
        fields = {name: getattr(run, name) for name in cls.model_fields if name != "status"}
        view: PolicyRunView = super(FrozenModel, cls).model_construct(**fields, status=run.status.public_status)
        return view


class PolicyRunPage(CamelModel):
    """A page of runs, newest first."""

    runs: list[PolicyRunView]
    next_cursor: str | None = Field(description="Null after the last run.")
    unreadable: list[UnreadableRow]


def _run_id_from_path(verb: str = "") -> Callable[..., Coroutine[Any, Any, str]]:
    """Return the dependency that reads the run id of a path. The path ends in the verb, or in the run id itself."""

    async def read_run_id(
        request: Request,
        run_id: Annotated[Name, Path(description="The caller's id of the run, percent-encoded: `/` as `%2F`.")],
    ) -> str:
        path: str = request.scope["path"]
        raw: bytes = request.scope.get("raw_path") or path.encode()
        # The end of a pattern also matches before a last newline. And a run id may end like a verb: the encoded path
        # shows the difference, if the server provides it.
        if path.endswith(f"/{run_id}{verb}") and (not verb or unquote(raw.rpartition(b"/")[2]) == verb[1:]):
            return run_id
        raise Problem(404, "not-found", "there is no such path")

    return read_run_id


RunId: TypeAlias = Annotated[str, Depends(_run_id_from_path())]
CancelRunId: TypeAlias = Annotated[str, Depends(_run_id_from_path("/cancel"))]
RetryRunId: TypeAlias = Annotated[str, Depends(_run_id_from_path("/retry"))]


def _run_response(run: PolicyRunJob) -> Response:
    return json_response(PolicyRunView.of(run))


def _accepted(run: PolicyRunJob, runs_path: str) -> Response:
    """Return the response of a requested run, with its location below the path of the runs."""
    segment = quote(run.run_id, safe="")
    if segment in (".", ".."):  # clients would resolve these as relative paths
        segment = segment.replace(".", "%2E")
    return json_response(PolicyRunView.of(run), 202, location=f"{runs_path}/{segment}")


@policy_routes.post(
    "/runs",
    summary="Request a policy run",
    **operation(
        "request_policy_run",
        body=PolicyRunBody,
        body_example=examples.RUN_REQUEST,
        answer=PolicyRunView,
        example=examples.RUN,
        problems=CREATE_PROBLEMS,
        status=202,
    ),
)
async def request_run(caller: RunCaller, body: RunBody, service: RunService, request: Request) -> Response:
    """Add a queued run, or return the run that was added with the same runId before."""
    run = await service.enqueue(body.to_request(caller), actor=event_actor(caller, request))
    return _accepted(run, client_path(request))


@policy_routes.post(
    "/simulations",
    summary="Request a simulation",
    **operation(
        "request_policy_simulation",
        body=PolicySimulationBody,
        body_example=examples.SIMULATION_REQUEST,
        answer=PolicyRunView,
        example=examples.SIMULATION,
        problems=CREATE_PROBLEMS,
        status=202,
    ),
)
async def request_simulation(
    caller: RunCaller, body: SimulationBody, service: RunService, request: Request
) -> Response:
    """Add a queued run without effect, or return the run that was added with the same runId before."""
    run = await service.simulate(body.to_request(caller), actor=event_actor(caller, request))
    return _accepted(run, client_path(request, parent="simulations") + "runs")


@policy_routes.get(
    "/runs",
    summary="List runs, newest first",
    **operation("list_policy_runs", answer=PolicyRunPage, example=examples.RUN_PAGE, problems=LIST_PROBLEMS),
)
async def list_runs(
    caller: ReadCaller, params: Annotated[PolicyRunListParams, Query()], service: RunService, places: ListPlaces
) -> Response:
    """List one page of the runs of the tenant."""
    async with places.place(caller.tenant_id):
        page = await service.list(caller.tenant_id, params.to_query())
        views = map(PolicyRunView.of, page.runs)
        return await list_response("runs", views, page.unreadable, nextCursor=page.next_cursor)


@policy_routes.post(
    "/runs/{run_id:path}/cancel",
    summary="Cancel a run, or request its cancellation",
    **operation(
        "cancel_policy_run",
        body=PolicyRunCancelBody,
        body_example=examples.RUN_CANCELLATION,
        body_required=False,
        answer=PolicyRunView,
        example=examples.CANCELED_RUN,
        problems=UPDATE_PROBLEMS,
    ),
)
async def cancel_run(
    caller: RunCaller, run_id: CancelRunId, body: CancelBody, service: RunService, request: Request
) -> Response:
    """Cancel a queued run; request the cancellation of a running one. A repeated call changes nothing."""
    actor = event_actor(caller, request)
    return _run_response(await service.request_cancellation(caller.tenant_id, run_id, reason=body.reason, actor=actor))


@policy_routes.post(
    "/runs/{run_id:path}/retry",
    summary="Retry a run that has ended",
    **operation(
        "retry_policy_run",
        body=PolicyRunRetryBody,
        body_example=examples.RUN_RETRY,
        body_required=False,
        answer=PolicyRunView,
        example=examples.RETRIED_RUN,
        problems=UPDATE_PROBLEMS,
        status=202,
    ),
)
async def retry_run(
    caller: RunCaller, run_id: RetryRunId, body: RetryBody, service: RunService, request: Request
) -> Response:
    """Add a new run with the request of a run that has ended; its metadata has the old run id as retryOf."""
    actor = event_actor(caller, request)
    if POLICY_EMERGENCY not in caller.scopes and (ended := await service.get(caller.tenant_id, run_id)) is not None:
        _check_priority(caller, ended.priority)
    run = await service.retry(caller.tenant_id, run_id, new_run_id=body.run_id, actor=actor)
    return _accepted(run, client_path(request, parent=f"/{run_id}/retry"))


# The last route: its path also matches the paths with a verb.
@policy_routes.get(
    "/runs/{run_id:path}",
    summary="Read a run",
    **operation("get_policy_run", answer=PolicyRunView, example=examples.RUN, problems=READ_PROBLEMS),
)
async def get_run(caller: ReadCaller, run_id: RunId, service: RunService) -> Response:
    """Read a run by its run id."""
    run = await service.get(caller.tenant_id, run_id)
    if run is None:
        raise JobNotFound(caller.tenant_id, run_id)
    return _run_response(run)
