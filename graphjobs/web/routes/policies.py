"""The routes of policy runs: HTTP in, HTTP out; they know the repository and the service by their protocols only.

A run is named by its asker, so its name may hold whatever a path gives a meaning to. In a path it is one segment, with
everything percent-encoded; servers hand paths on decoded, so it is matched as all that stands between `/runs/` and the
end, or the verb.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import quote, unquote

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from graphjobs.core.fields import ErrorText, FrozenModel, Name, Reason, UtcTime
from graphjobs.core.pagination import CURSOR_LENGTH_MAX, PAGE_DEFAULT, PAGE_MAX
from graphjobs.errors import JobNotFound
from graphjobs.policy_runs.models import PolicyRunJob, PolicyRunRequest, PolicyRunSpec
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunStatus
from graphjobs.web.auth import Caller, actor_of, allowed_to
from graphjobs.web.dependencies import RunService
from graphjobs.web.problems import Problem, ProblemRoute, Words
from graphjobs.web.request_bodies import body_of, documented
from graphjobs.web.responses import ASKING, LISTING, MOVING, READING, Camel, Time, Unreadable, answered, answered_list
from graphjobs.web.tokens import POLICY_READ, POLICY_RUN

OutsideStatus: TypeAlias = Literal["queued", "running", "succeeded", "failed", "canceled"]
"""The words of `PolicyRunStatus.outside`."""

Reader: TypeAlias = Annotated[Caller, Depends(allowed_to(POLICY_READ))]
Runner: TypeAlias = Annotated[Caller, Depends(allowed_to(POLICY_RUN))]


class PolicyRoute(ProblemRoute):
    """A route whose problems are told in the words of policy runs."""

    words = Words("policy run", "runId", lambda word: PolicyRunStatus.parse(word).public_status)


policy_routes = APIRouter(prefix="/policy", tags=["policy"], route_class=PolicyRoute)


def _simulate(mode: object) -> object:
    if mode == PolicyRunMode.SIMULATE:
        return PolicyRunMode.SIMULATE
    raise PydanticCustomError("mode", "the mode of a simulation is simulate, and need not be told")


class PolicyRunAsked(PolicyRunSpec):
    """Asks for a policy run, as `PolicyRunRequest` does; the tenant comes from who calls.

    Attributes:
        run_id: the asker's own name of the run: asked for again with it, there still is one.
        queued_at: when it was asked for; now if it is not given.
    """

    run_id: Name | None = None
    queued_at: UtcTime | None = None

    def request(self, caller: Caller) -> PolicyRunRequest:
        """Gives the request, for the caller's tenant; by the caller's name, unless it names somebody."""
        asked = {**self.spec(), "requested_by": self.requested_by or caller.name[:128] or None}
        return PolicyRunRequest(tenant_id=caller.tenant_id, run_id=self.run_id, queued_at=self.queued_at, **asked)


class PolicySimulationAsked(PolicyRunAsked):
    """Asks for a simulation."""

    mode: Annotated[Literal[PolicyRunMode.SIMULATE], BeforeValidator(_simulate)] = PolicyRunMode.SIMULATE


class PolicyRunCancelAsked(FrozenModel):
    """Why a run is to end; any text, which is cleaned, and cut to 4,000 characters."""

    reason: Reason | None = None


class PolicyRunRetryAsked(FrozenModel):
    """The name of the new run: asked for again with it, there still is one."""

    run_id: Name | None = None


class PolicyRunsAsked(Camel):
    """The query of a list; see `PolicyRunQuery`."""

    policy_id: Name | None = None
    mode: PolicyRunMode | None = None
    status: list[OutsideStatus] = Field([], max_length=len(PolicyRunStatus))
    queued_after: Time | None = Field(None, description="Exclusive.")
    limit: int = Field(PAGE_DEFAULT, ge=1, le=PAGE_MAX)
    cursor: str | None = Field(None, max_length=CURSOR_LENGTH_MAX, description="nextCursor of the page before.")

    def query(self) -> dict[str, Any]:
        """Gives what `PolicyRunRepository.list` is asked for."""
        given = self.__dict__.copy()
        asked = given.pop("status")
        return {**given, "statuses": [status for status in PolicyRunStatus if status.public_status in asked]}


class PolicyRunView(PolicyRunSpec):
    """What the outside sees of a policy run: nothing of who dispatches it."""

    run_id: Name
    tenant_id: Name
    status: OutsideStatus
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
        """Shows a run. What it holds was validated, and is not once more: a page would take twice as long."""
        seen = {name: getattr(run, name) for name in cls.model_fields}
        return cls.model_construct(**{**seen, "status": run.status.public_status})


class PolicyRunPage(Camel):
    """One page of runs, newest first."""

    runs: list[PolicyRunView]
    next_cursor: str | None = Field(description="Null where no more runs were there.")
    unreadable: list[Unreadable]


def _named(verb: str = "") -> Callable[..., Coroutine[Any, Any, str]]:
    """Gives the dependency that reads which run a path names, where the path ends in a verb or in the name itself."""

    async def named(
        request: Request,
        run_id: Annotated[Name, Path(description="The asker's own name of the run, percent-encoded: `/` as `%2F`.")],
    ) -> str:
        path: str = request.scope["path"]
        raw: bytes = request.scope.get("raw_path") or path.encode()
        # A pattern's end also matches before a last newline. And what looks like a verb may be the end of a name: the
        # path as it was sent tells, where the server hands it on.
        if path.endswith(f"/{run_id}{verb}") and (not verb or unquote(raw.rpartition(b"/")[2]) == verb[1:]):
            return run_id
        raise Problem(404, "not-found", "there is no such path")

    return named


def _view(run: PolicyRunJob) -> Response:
    return answered(PolicyRunView.of(run))


def _accepted(run: PolicyRunJob, runs: str) -> Response:
    """Answers a run that is there now, with where it is: below the path of the runs."""
    name = quote(run.run_id, safe="")
    if name in (".", ".."):  # a path's own words, which a client would resolve
        name = name.replace(".", "%2E")
    return answered(PolicyRunView.of(run), 202, location=f"{quote(runs)}/{name}")


@policy_routes.post(
    "/runs",
    status_code=202,
    response_model=PolicyRunView,
    responses=ASKING,
    openapi_extra=documented(PolicyRunAsked),
    summary="Ask for a policy run",
)
async def request_run(
    caller: Runner,
    asked: Annotated[PolicyRunAsked, Depends(body_of(PolicyRunAsked, POLICY_RUN))],
    service: RunService,
    request: Request,
) -> Response:
    """Adds a queued run, or gives the one that was added under the same runId before."""
    run = await service.enqueue(asked.request(caller), actor=actor_of(caller, request))
    return _accepted(run, request.scope["path"])


@policy_routes.post(
    "/simulations",
    status_code=202,
    response_model=PolicyRunView,
    responses=ASKING,
    openapi_extra=documented(PolicySimulationAsked),
    summary="Ask for a simulation",
)
async def request_simulation(
    caller: Runner,
    asked: Annotated[PolicySimulationAsked, Depends(body_of(PolicySimulationAsked, POLICY_RUN))],
    service: RunService,
    request: Request,
) -> Response:
    """Adds a queued run of which nothing comes that counts; else as a run is asked for."""
    run = await service.simulate(asked.request(caller), actor=actor_of(caller, request))
    return _accepted(run, request.scope["path"].removesuffix("simulations") + "runs")


@policy_routes.get("/runs", response_model=PolicyRunPage, responses=LISTING, summary="A page of runs, newest first")
async def list_runs(caller: Reader, asked: Annotated[PolicyRunsAsked, Query()], service: RunService) -> Response:
    """Reads one page of the caller's tenant's runs."""
    page = await service.list(caller.tenant_id, **asked.query())
    return answered_list("runs", map(PolicyRunView.of, page.runs), page.unreadable, nextCursor=page.next_cursor)


@policy_routes.post(
    "/runs/{run_id:path}/cancel",
    response_model=PolicyRunView,
    responses=MOVING,
    openapi_extra=documented(PolicyRunCancelAsked, optional=True),
    summary="Ask for the end of a run",
)
async def cancel_run(
    caller: Runner,
    run_id: Annotated[str, Depends(_named("/cancel"))],
    asked: Annotated[PolicyRunCancelAsked, Depends(body_of(PolicyRunCancelAsked, POLICY_RUN, optional=True))],
    service: RunService,
    request: Request,
) -> Response:
    """Cancels a queued run; one that is running ends when whoever runs it next asks. Asked again, it is as it is."""
    actor = actor_of(caller, request)
    return _view(await service.request_cancellation(caller.tenant_id, run_id, reason=asked.reason, actor=actor))


@policy_routes.post(
    "/runs/{run_id:path}/retry",
    status_code=202,
    response_model=PolicyRunView,
    responses=MOVING,
    openapi_extra=documented(PolicyRunRetryAsked, optional=True),
    summary="Ask again for what a run was asked for",
)
async def retry_run(
    caller: Runner,
    run_id: Annotated[str, Depends(_named("/retry"))],
    asked: Annotated[PolicyRunRetryAsked, Depends(body_of(PolicyRunRetryAsked, POLICY_RUN, optional=True))],
    service: RunService,
    request: Request,
) -> Response:
    """Adds a new run in place of one that has ended, whose name it keeps in its metadata as retryOf."""
    actor = actor_of(caller, request)
    run = await service.retry(caller.tenant_id, run_id, new_run_id=asked.run_id, actor=actor)
    return _accepted(run, request.scope["path"].removesuffix(f"/{run_id}/retry"))


# After those with a verb, whose paths it would take for runs, too.
@policy_routes.get("/runs/{run_id:path}", response_model=PolicyRunView, responses=READING, summary="One run")
async def get_run(caller: Reader, run_id: Annotated[str, Depends(_named())], service: RunService) -> Response:
    """Reads a run by its asker's name of it."""
    run = await service.get(caller.tenant_id, run_id)
    if run is None:
        raise JobNotFound(caller.tenant_id, run_id)
    return _view(run)
