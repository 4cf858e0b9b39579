"""Map errors to problem documents (RFC 9457), and add the request id to each response.

Only this module knows the HTTP status of an error.
"""

import logging
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar, Final
from uuid import uuid4

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from graphjobs.core.invalid_values import PROBLEMS_MAX
from graphjobs.errors import (
    ConfigurationError,
    CorruptRow,
    DatabaseUnavailable,
    GraphJobsError,
    IdempotencyConflict,
    InvalidJob,
    JobConflict,
    JobNotFound,
    OutcomeUnknown,
    SchemaOutOfDate,
)
from graphjobs.web.examples import PROBLEM

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 1
RETRY_HEADERS: Final = {"Retry-After": str(RETRY_AFTER_SECONDS)}
# RFC 9110, section 15.5. Before Python 3.13, http.HTTPStatus has the older phrases of these.
_TITLES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")

_SECURITY_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}

_SINGLE_HEADERS: Final = ("Authorization", "Content-Type", "Content-Encoding", "Host", "Idempotency-Key")

_log = logging.getLogger(__name__)


@dataclass
class Problem(Exception):  # the term of RFC 9457
    """An error with its HTTP status, raised anywhere below a route.

    Attributes:
        status: the HTTP status.
        kind: the last part of the problem's `type`.
        detail: one sentence for people, without secrets and payloads.
        members: further members of the document.
        headers: further headers of the response.
    """

    status: int
    kind: str
    detail: str
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProblemTerms:
    """The terms of one domain in problem documents.

    Attributes:
        noun: the name of the resource.
        key: the field or header that makes a repeated request safe.
        public_status: converts the stored name of a status into the public one.
    """

    noun: str
    key: str
    public_status: Callable[[str], str] = str


JOB_TERMS: Final = ProblemTerms("job", "Idempotency-Key")


class GraphJobsFieldProblem(BaseModel):
    """One invalid field."""

    field: str = Field(description="The name as in the request; empty if the request as a whole is invalid.")
    problem: str


class GraphJobsProblem(BaseModel):
    """A problem document, RFC 9457."""

    model_config = ConfigDict(json_schema_extra={"examples": [PROBLEM]})

    type: str
    title: str
    status: int
    detail: str
    request_id: str = Field(alias="requestId")
    errors: list[GraphJobsFieldProblem] | None = Field(
        None, description="The invalid fields, of a 400, 413, 415 or 422."
    )
    job_status: str | None = Field(
        None, alias="jobStatus", description="The actual status of the job or run, of a 409."
    )


def request_id(request: Request) -> str:
    """Return the id of the request: the `X-Request-ID` of the caller if it is valid, else a generated one."""
    current: str | None = getattr(request.state, "graphjobs_request_id", None)
    if current is None:
        header = request.headers.get("x-request-id", "")
        current = header if _REQUEST_ID.fullmatch(header) else uuid4().hex
        request.state.graphjobs_request_id = current
    return current


class ProblemRoute(APIRoute):
    """A route that answers errors with problem documents, independent of the application's exception handlers.

    Attributes:
        terms: the terms of the documents.
    """

    terms: ClassVar[ProblemTerms] = JOB_TERMS
    _methods: ClassVar[dict[str, set[str]]] = {}

    def __init__(self, path: str, *arguments: Any, **options: Any) -> None:
        super().__init__(path, *arguments, **options)
        self._methods.setdefault(path, set()).update(self.methods or ())

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["path"].endswith("\n") and ":path}" not in self.path:
            return Match.NONE, {}  # `$`, the end of Starlette's patterns, also matches before a last newline
        # HEAD is not in `methods`: OpenAPI would list it.
        is_head = scope["type"] == "http" and scope["method"] == "HEAD" and "GET" in (self.methods or ())
        return super().matches({**scope, "method": "GET"} if is_head else scope)

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD" and "GET" in (self.methods or ()):
            await super().handle({**scope, "method": "GET"}, receive, _without_body(send))
        elif self.methods and scope["method"] not in self.methods:
            # Starlette would list the methods of this route only; a path may have several routes.
            error = StarletteHTTPException(405, headers={"Allow": ", ".join(sorted(self._methods[self.path]))})
            response = await handle_error(Request(scope), error)
            await response(scope, receive, send)
        else:
            await super().handle(scope, receive, send)

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_problems(request: Request) -> Response:
            try:
                _require_single_headers(request)
                response = await handle(request)
            except (Problem, GraphJobsError, RequestValidationError, StarletteHTTPException) as error:
                response = problem_response(request, to_problem(error, self.terms))
            except ClientDisconnect:
                response = problem_response(request, _DISCONNECTED)  # which no caller receives
            except Exception:  # noqa: BLE001  # a defect is a problem document, too
                _log.exception("request %s failed", request_id(request))
                response = problem_response(request, _INTERNAL)
            return _with_headers(response, request)

        return handle_with_problems


def _require_single_headers(request: Request) -> None:
    """Refuse a header that occurs twice: a proxy and the service could each read another one."""
    for name in _SINGLE_HEADERS:
        if len(request.headers.getlist(name.lower())) > 1:
            raise Problem(400, "invalid", f"a request must have one {name} header")


def _without_body(send: Send) -> Send:
    """Send the headers of a response, and none of its body."""

    async def send_headers(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_headers


async def handle_error(request: Request, error: Exception) -> Response:
    """Answer an error outside of the routes, such as an unknown path, as an application's exception handler."""
    return _with_headers(problem_response(request, to_problem(error)), request)


def _with_headers(response: Response, request: Request) -> Response:
    """Add the request id, and the headers of an API with responses for its callers only."""
    response.headers.update(_SECURITY_HEADERS)
    response.headers["x-request-id"] = request_id(request)
    return response


def problem_response(request: Request, problem: Problem) -> Response:
    """Return the problem document of a request."""
    document = {
        "type": f"urn:graphjobs:problem:{problem.kind}",
        "title": _title(problem.status),
        "status": problem.status,
        "detail": problem.detail,
        "requestId": request_id(request),
        **problem.members,
    }
    return JSONResponse(document, problem.status, headers=dict(problem.headers), media_type=MEDIA_TYPE)


def _title(status: int) -> str:
    return _TITLES.get(status) or HTTPStatus(status).phrase


def to_problem(error: Exception, terms: ProblemTerms = JOB_TERMS) -> Problem:
    """Return the problem of an error."""
    match error:
        case Problem():
            return error
        case InvalidJob():
            return _unprocessable(str(error), error.problems)
        case RequestValidationError():
            found = error.errors()
            listed = found[:PROBLEMS_MAX]
            problems = [(".".join(map(str, item["loc"][1:])), str(item["msg"])) for item in listed]
            more = f" (and {len(found) - len(listed):,} more)" if len(found) > len(listed) else ""
            return _unprocessable(f"the request is invalid: see errors{more}", problems)
        case JobNotFound():
            # The same for a missing job and for a job of another tenant.
            return Problem(404, "not-found", f"there is no such {terms.noun}")
        case JobConflict():
            status = terms.public_status(error.status)
            # The message contains the stored name of the status.
            return Problem(409, "job-conflict", str(error).replace(error.status, status), {"jobStatus": status})
        case IdempotencyConflict():
            fields = [{"field": terms.key, "problem": "already used for another request"}]
            return Problem(422, "idempotency-conflict", str(error), {"errors": fields})
        case OutcomeUnknown():
            detail = f"the outcome is unknown: read the {terms.noun}, or repeat the request with the same {terms.key}"
            return Problem(503, "outcome-unknown", detail, headers=RETRY_HEADERS)
        case ConfigurationError():
            _log.error("%s", error)
            detail = "the service is not configured for this request: its operator finds the reason in the log"
            return Problem(503, "unavailable", detail, headers=RETRY_HEADERS)
        case DatabaseUnavailable() | SchemaOutOfDate():
            _log.warning("the database is not available: %s", error)
            return Problem(503, "unavailable", "the database is not available: try again later", headers=RETRY_HEADERS)
        case CorruptRow():
            _log.error("%s", error)
            detail = f"the {terms.noun} is stored but unreadable: its operator finds the reason in the log"
            return Problem(500, "corrupt-row", detail)
        case StarletteHTTPException():
            return Problem(error.status_code, "http", str(error.detail), headers=error.headers or {})
    _log.error("%s", error)
    return _INTERNAL


_DISCONNECTED: Final = Problem(400, "disconnected", "the client closed the connection before the end of the body")
_INTERNAL: Final = Problem(500, "internal", "the service failed: its operator finds the reason in the log")


def _unprocessable(detail: str, problems: Iterable[tuple[str, str]]) -> Problem:
    fields = [{"field": _to_json_name(name), "problem": problem} for name, problem in problems]
    return Problem(422, "invalid", detail, {"errors": fields})


def _to_json_name(name: str) -> str:
    """Return the name of a field as in JSON and in queries."""
    return ".".join(to_camel(part) for part in name.split(".")) if name else ""


class ModelContent(dict[str, Any]):
    """The content of a response in OpenAPI, with the schema of the `model` beside it at a place of our choice.

    FastAPI would list the model under the media type of the route's answer. And it documents no body that a
    dependency reads: such a model is listed with a response, and its schema is written to the description of the body.
    """

    def __init__(self, target: dict[str, Any], media_type: str | None = None) -> None:
        super().__init__({media_type: target} if media_type else {})
        self._target = target

    @override
    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the place for the schema; FastAPI asks for the one of the route's media type."""
        return self._target

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModelContent":
        return self


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of a route's problems, by HTTP status."""
    return {
        status: {
            "description": _title(status),
            "model": GraphJobsProblem,
            "content": ModelContent({"schema": {}}, MEDIA_TYPE),
        }
        for status in statuses
    }
