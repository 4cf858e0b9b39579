"""What queries and answers of every room's routes are made of: times, pages, rows left out, what can fail."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final

from fastapi import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, to_json

from graphjobs.core.fields import FrozenModel, UtcTime
from graphjobs.errors import CorruptRow
from graphjobs.web.problems import problems

READING: Final = problems(401, 403, 404, 422, 500, 503)
LISTING: Final = problems(401, 403, 422, 500, 503)
ASKING: Final = problems(401, 403, 408, 413, 415, 422, 500, 503)
MOVING: Final = problems(401, 403, 404, 408, 409, 413, 415, 422, 500, 503)
"""What routes answer in place of what was asked for: those that read one, list, ask for a new one, move one."""

_JSON: Final = "application/json"
_TIME: Final[TypeAdapter[datetime]] = TypeAdapter(UtcTime)


def _time(text: object) -> object:
    """Reads a time as JSON has it: a query knows text only, and pydantic would take digits for seconds."""
    try:
        return _TIME.validate_json(to_json(text))
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
    raise PydanticCustomError("time", "{problem}", {"problem": problem})


Time = Annotated[UtcTime, BeforeValidator(_time), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time in a query."""


class Camel(BaseModel):
    """What a query holds, or an answer, in the names of JSON; an unknown one is refused."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid")


class Unreadable(Camel):
    """A row that was left out."""

    id: str
    reason: str


def answered(value: FrozenModel, status: int = 200, **headers: str) -> Response:
    """Answers a value, by its own text: FastAPI would validate it once more."""
    return Response(value.to_json(), status, headers=headers, media_type=_JSON)


def answered_list(
    name: str, values: Iterable[FrozenModel], unreadable: Iterable[CorruptRow], **members: object
) -> Response:
    """Answers a list by its values' own text, and the rows that were left out of it.

    Args:
        name: the member that holds the values.
        values: what could be read.
        unreadable: what could not.
        members: what else is told, by its JSON name.
    """
    listed = ",".join(value.to_json() for value in values)
    left_out = [{"id": str(row.row_id), "reason": row.reason} for row in unreadable]
    more = to_json({**members, "unreadable": left_out}).decode()
    return Response(f'{{"{name}":[{listed}],{more[1:]}', media_type=_JSON)
