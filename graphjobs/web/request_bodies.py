"""Request bodies: read after the caller is known, bounded in size and time, and checked as our own values."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Request

from graphjobs.core.fields import FrozenModel
from graphjobs.web.auth import Caller, allowed_to
from graphjobs.web.problems import Problem, schema_of

BODY_BYTES_MAX: Final = 1_048_576
_READ_SECONDS: Final = 30.0

Body = TypeVar("Body", bound=FrozenModel)


def body_of(kind: type[Body], scope: str, *, optional: bool = False) -> Callable[..., Coroutine[Any, Any, Body]]:
    """Gives the dependency that reads a value from a request's body, once the caller is known to be allowed.

    FastAPI's own reads the body first, so that a malformed one would be told to whoever has no token.

    Args:
        kind: the value.
        scope: what the caller needs.
        optional: whether an empty body, of any type, says as much as an empty object.
    """

    async def body(request: Request, _caller: Annotated[Caller, Depends(allowed_to(scope))]) -> Body:
        text = await _bounded(request)
        if optional and not text:
            return kind()
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise _refused(415, "unsupported", "content-type", "a body should be application/json")
        return kind.from_json(text)

    return body


def ignored_body(scope: str) -> Callable[..., Coroutine[Any, Any, None]]:
    """Gives the dependency that reads a body that says nothing here, so that it is bounded, too."""

    async def body(request: Request, _caller: Annotated[Caller, Depends(allowed_to(scope))]) -> None:
        await _bounded(request)

    return body


async def _bounded(request: Request) -> bytes:
    if (
        request.headers.get("content-length", "").isdecimal()
        and int(request.headers["content-length"]) > BODY_BYTES_MAX
    ):
        raise _too_large()
    read = bytearray()
    try:
        async with asyncio.timeout(_READ_SECONDS):
            async for chunk in request.stream():
                read += chunk
                if len(read) > BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError:
        raise Problem(408, "timeout", f"the body did not arrive within {_READ_SECONDS:.0f} seconds") from None
    return bytes(read)


def _too_large() -> Problem:
    return _refused(413, "too-large", "", f"a body has at most {BODY_BYTES_MAX:,} bytes")


def _refused(status: int, kind: str, field: str, problem: str) -> Problem:
    return Problem(status, kind, problem, {"errors": [{"field": field, "problem": problem}]})


def documented(kind: type[FrozenModel], *, optional: bool = False) -> dict[str, Any]:
    """Gives the OpenAPI description of a body that `body_of` reads."""
    schema = schema_of(kind)
    return {"requestBody": {"required": not optional, "content": {"application/json": {"schema": schema}}}}
