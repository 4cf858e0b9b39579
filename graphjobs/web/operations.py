"""The OpenAPI description of routes: operation ids, bodies, examples and tags, also in the document of a host.

FastAPI writes every reference, so that its names of components are right in any application.
"""

from collections.abc import Mapping
from typing import Any, Final

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from graphjobs.web.problems import ModelContent

openapi_tags: Final[list[dict[str, str]]] = [
    {"name": "graphs", "description": "Jobs that build dependency graphs of SBOMs, and overlay findings on them."},
    {"name": "policy", "description": "Runs of policies over SBOMs, and simulations without effects."},
    {"name": "health", "description": "Whether the process runs, and whether it accepts work. No token is needed."},
]
"""The tags of the routes with their descriptions, for `FastAPI(openapi_tags=...)` of a host."""

_JSON: Final = "application/json"


def operation(
    operation_id: str,
    *,
    answer: object,
    example: Mapping[str, Any],
    problems: Mapping[int | str, dict[str, Any]],
    status: int = 200,
    body: type[BaseModel] | None = None,
    body_example: Mapping[str, Any] | None = None,
    body_required: bool = True,
) -> dict[str, Any]:
    """Return the decorator options of a route.

    Args:
        operation_id: a verb and a noun that the operations of a host do not have.
        answer: the type of the answer.
        example: an example of the answer.
        problems: see `problem_responses`.
        status: the HTTP status of the answer.
        body: the type that `request_bodies.body_of` reads.
        body_example: an example of the body.
        body_required: whether a request must have the body.
    """
    responses = dict(problems)
    described: dict[str, Any] = {"responses": {str(status): {"content": {_JSON: {"example": dict(example)}}}}}
    if body is not None:
        content = {"schema": {}, "example": body_example}
        described["requestBody"] = {"required": body_required, "content": {_JSON: content}}
        responses[status] = {"model": body, "content": ModelContent(content)}
    return {
        "operation_id": operation_id,
        "response_model": answer,
        "response_class": JSONResponse,
        "responses": responses,
        "status_code": status,
        "openapi_extra": described,
    }
