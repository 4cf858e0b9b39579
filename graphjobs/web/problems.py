"""Errors as problem documents (RFC 9457), and the request id every answer carries; the one place that maps them."""

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
from pydantic import BaseModel, Field
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Receive, Scope, Send
from typing_extensions import override

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

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 1
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")

_log = logging.getLogger(__name__)


@dataclass
class Problem(Exception):  # RFC 9457's word
    """A problem to answer with, raised from anywhere below a route.

    Attributes:
        status: the HTTP status.
        kind: the last part of the problem's `type`.
        detail: one sentence for people; no secret, no payload.
        members: further members of the document.
        headers: further headers of the answer.
    """

    status: int
    kind: str
    detail: str
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Words:
    """What problems with one kind of thing are told in.

    Attributes:
        noun: what it is.
        key: what a request calls the name that makes it one thing, however often it is asked for.
        status: gives the word the outside sees for the wire word of a status.
    """

    noun: str
    key: str
    status: Callable[[str], str] = str


JOBS: Final = Words("job", "Idempotency-Key")


class FieldProblem(BaseModel):
    """One field at fault."""

    field: str = Field(description="Its name as the request spells it; empty where the request as a whole is at fault.")
    problem: str


class ProblemDocument(BaseModel):
    """A problem document, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str = Field(alias="requestId")
    errors: list[FieldProblem] | None = Field(None, description="The fields at fault, of a 400, 413, 415 or 422.")
    job_status: str | None = Field(
        None, alias="jobStatus", description="The actual status of the job or run, of a 409."
    )


def request_id(request: Request) -> str:
    """Gives the request's id: the caller's `X-Request-ID` where it is a sound one, else one of our own."""
    known: str | None = getattr(request.state, "graphjobs_request_id", None)
    if known is None:
        given = request.headers.get("x-request-id", "")
        known = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        request.state.graphjobs_request_id = known
    return known


class ProblemRoute(APIRoute):
    """A route whose errors become problem documents, whatever handlers the host's application has.

    Attributes:
        words: what they are told in.
    """

    words: ClassVar[Words] = JOBS
    _methods: ClassVar[dict[str, set[str]]] = {}

    def __init__(self, path: str, *arguments: Any, **options: Any) -> None:
        super().__init__(path, *arguments, **options)
        self._methods.setdefault(path, set()).update(self.methods or ())

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.methods and scope["method"] not in self.methods:
            # Starlette would name the methods of this route only, where a path has several.
            error = StarletteHTTPException(405, headers={"Allow": ", ".join(sorted(self._methods[self.path]))})
            response = await answer_problem(Request(scope), error)
            await response(scope, receive, send)
        else:
            await super().handle(scope, receive, send)

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_problems(request: Request) -> Response:
            try:
                response = await handle(request)
            except (Problem, GraphJobsError, RequestValidationError, StarletteHTTPException) as error:
                response = answer(request, problem_of(error, self.words))
            except Exception:  # noqa: BLE001  # a bug of ours is a problem document, too
                _log.exception("request %s failed", request_id(request))
                response = answer(request, Problem(500, "internal", "something went wrong here; its log says more"))
            response.headers["x-request-id"] = request_id(request)
            return response

        return handle_with_problems


async def answer_problem(request: Request, error: Exception) -> Response:
    """Answers an error that no call of ours met, such as an unknown path; an application's exception handler."""
    response = answer(request, problem_of(error))
    response.headers["x-request-id"] = request_id(request)
    return response


def answer(request: Request, problem: Problem) -> Response:
    """Writes the document."""
    document = {
        "type": f"urn:graphjobs:problem:{problem.kind}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "requestId": request_id(request),
        **problem.members,
    }
    return JSONResponse(document, problem.status, headers=dict(problem.headers), media_type=MEDIA_TYPE)


def problem_of(error: Exception, words: Words = JOBS) -> Problem:
    """Maps an error to its problem."""
    match error:
        case Problem():
            return error
        case InvalidJob():
            return _unprocessable(str(error), error.problems)
        case RequestValidationError():
            found = [(".".join(map(str, one["loc"][1:])), str(one["msg"])) for one in error.errors()]
            return _unprocessable("the request is not as it should be", found)
        case JobNotFound():
            # The same for one that is not there, and for another tenant's.
            return Problem(404, "not-found", f"there is no such {words.noun}")
        case JobConflict():
            status = words.status(error.status)
            # The sentence names the status, too, by the word of the inside.
            return Problem(409, "job-conflict", str(error).replace(error.status, status), {"jobStatus": status})
        case IdempotencyConflict():
            fields = [{"field": words.key, "problem": "it was used for another request"}]
            return Problem(422, "idempotency-conflict", str(error), {"errors": fields})
        case OutcomeUnknown():
            detail = (
                f"it is not known whether this was done: read the {words.noun}, or ask again with the same {words.key}"
            )
            return Problem(503, "outcome-unknown", detail, headers=_RETRY)
        case ConfigurationError():
            _log.error("%s", error)
            detail = "the service is not set up for this now; its log says more"
            return Problem(503, "unavailable", detail, headers=_RETRY)
        case DatabaseUnavailable() | SchemaOutOfDate():
            _log.warning("the database is not available: %s", error)
            return Problem(503, "unavailable", "the database is not available now; try again", headers=_RETRY)
        case CorruptRow():
            _log.error("%s", error)
            detail = f"the {words.noun} is stored, and cannot be read; its operator has to look at it"
            return Problem(500, "corrupt-row", detail)
        case StarletteHTTPException():
            headers = error.headers or {}
            return Problem(error.status_code, "http", str(error.detail), headers=headers)
    _log.error("%s", error)
    return Problem(500, "internal", "something went wrong here; its log says more")


_RETRY: Final = {"Retry-After": str(RETRY_AFTER_SECONDS)}


def _unprocessable(detail: str, problems: Iterable[tuple[str, str]]) -> Problem:
    fields = [{"field": _spelt(name), "problem": problem} for name, problem in problems]
    return Problem(422, "invalid", detail, {"errors": fields})


def _spelt(name: str) -> str:
    """The field as JSON and the query spell it."""
    return ".".join(to_camel(part) for part in name.split(".")) if name else ""


def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    """Gives a model's JSON schema with its parts in their places, as it can stand anywhere in an OpenAPI document."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(part: Any) -> Any:
        match part:
            case {"$ref": str(name), **beside}:
                return {**whole(parts[name.rpartition("/")[2]]), **beside}
            case dict():
                return {key: whole(value) for key, value in part.items()}
            case list():
                return [whole(value) for value in part]
        return part

    given: dict[str, Any] = whole(schema)
    return given


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Gives the documentation of a route's problems, by their HTTP status."""
    # Written out: FastAPI would list a model under application/json, too.
    schema = schema_of(ProblemDocument)
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }
