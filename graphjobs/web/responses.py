"""Query parameters, responses and decorator options that the routes of both domains share."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Final, Protocol
from urllib.parse import quote

from fastapi import Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, to_json

from graphjobs.core.fields import UtcTime
from graphjobs.core.time_slices import in_slices
from graphjobs.errors import CorruptRow
from graphjobs.web.problems import problem_responses
from graphjobs.web.request_limit import LargeResponse

READ_PROBLEMS: Final = problem_responses(400, 401, 403, 404, 422, 500, 503)
LIST_PROBLEMS: Final = problem_responses(400, 401, 403, 422, 500, 503)
CREATE_PROBLEMS: Final = problem_responses(400, 401, 403, 408, 413, 415, 422, 500, 503)
UPDATE_PROBLEMS: Final = problem_responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 500, 503)
"""The problems of routes that read one job or run, list some, create one, or change one."""

_JSON: Final = "application/json"
_TIME: Final[TypeAdapter[datetime]] = TypeAdapter(UtcTime)


def _parse_time(text: object) -> object:
    """Parse a time as in JSON: pydantic accepts digits in a query as seconds."""
    try:
        return _TIME.validate_json(to_json(text))
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
    raise PydanticCustomError("time", "{problem}", {"problem": problem})


Time = Annotated[UtcTime, BeforeValidator(_parse_time), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time in a query."""


class CamelModel(BaseModel):
    """The parameters of a query, or a response, with camel case names. Other names are refused."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid")


class UnreadableRow(CamelModel):
    """A stored row that a page leaves out."""

    id: str
    reason: str


def require_present(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Require the fields that an answer always has: all but those that may be None, which are left out."""
    fields = [field for field in model.model_fields.values() if not field.exclude]
    schema["required"] = [
        field.alias
        for field in fields
        if field.is_required() or field.get_default(call_default_factory=True, validated_data={}) is not None
    ]


def client_path(request: Request, *, parent: str = "") -> str:
    """Return the percent-encoded path of a request as its client sees it, up to `parent` at its end.

    A proxy may strip the root path of the application from paths; clients need it.
    """
    path: str = request.scope["path"]
    root: str = request.scope.get("root_path", "").rstrip("/")
    is_stripped = not (path + "/").startswith(root + "/")
    return quote((root if is_stripped else "") + path.removesuffix(parent))


class JsonValue(Protocol):
    """A value that writes its own JSON object."""

    def to_json(self) -> str:
        """Return the JSON."""
        ...


def json_response(value: JsonValue, status: int = 200, **headers: str) -> Response:
    """Return the JSON of a value as a response; FastAPI would validate the value again."""
    return Response(value.to_json(), status, headers=headers, media_type=_JSON)


async def list_response(
    name: str, values: Iterable[JsonValue], unreadable: Iterable[CorruptRow], **members: object
) -> Response:
    """Return the JSON of a list as a response.

    Args:
        name: the member that contains the values.
        values: the readable values.
        unreadable: the rows that were left out.
        members: further members, by JSON name.
    """
    items = [value.to_json().encode() async for value in in_slices(values)]
    omitted = [{"id": str(row.row_id), "reason": row.reason} for row in unreadable]
    rest = to_json({**members, "unreadable": omitted})
    return LargeResponse(b'{"%b":[%b],%b' % (name.encode(), b",".join(items), rest[1:]), media_type=_JSON)
