"""Read request bodies after authentication, bounded in size, time and number, and validate them."""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from email.message import Message
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Request

from graphjobs.core.fields import FrozenModel
from graphjobs.core.unique_json import DuplicateKey, unique_object
from graphjobs.web.auth import Caller, require_scope
from graphjobs.web.problems import Problem
from graphjobs.web.request_limit import overloaded, places_of

BODY_BYTES_MAX: Final = 1_048_576
_READ_SECONDS: Final = 10.0
_LARGE_BYTES: Final = 65_536
_LISTS_AND_OBJECTS_MAX: Final = 40_000
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
# A large body is validated in a thread. A request that is cancelled leaves its place in the queue of the threads.
_threads: Final = ThreadPoolExecutor(2, thread_name_prefix="graphjobs-bodies")

Body = TypeVar("Body", bound=FrozenModel)


def body_of(model: type[Body], scope: str, *, required: bool = True) -> Callable[..., Coroutine[Any, Any, Body]]:
    """Return the dependency that validates the request body, once the caller has the scope.

    FastAPI's own body parameters are read first, and would report a malformed body to callers without a token.

    Args:
        model: the type of the body.
        scope: the scope that the caller needs.
        required: False accepts an empty body, of any content type, as an empty object.
    """

    async def read_body(request: Request, caller: Annotated[Caller, Depends(require_scope(scope))]) -> Body:
        async with AsyncExitStack() as place:
            content = await _read_bounded(request, place, caller.tenant_id)
            if not (required or content):
                return model()
            _check_type(request)
            if len(content) <= _LARGE_BYTES:
                return _parse(model, content)
            return await asyncio.get_running_loop().run_in_executor(_threads, _parse, model, content)

    return read_body


def _check_type(request: Request) -> None:
    """Refuse a body that is not JSON in UTF-8 as it is: other bytes could be valid JSON of another meaning."""
    content_type = Message()
    content_type["content-type"] = request.headers.get("content-type", "")
    if content_type.get_content_type() != "application/json" or (
        content_type.get_content_charset("utf-8") not in {"utf-8", "utf8"}
    ):
        problem = "the content type must be application/json, in UTF-8"
        raise _body_problem(415, "unsupported", "content-type", problem)
    for name, plain in (("content-encoding", "identity"), ("transfer-encoding", "chunked")):
        if request.headers.get(name, plain).strip().lower() != plain:
            raise _body_problem(415, "unsupported", name, "the body must not be compressed")


def _parse(model: type[Body], content: bytes) -> Body:
    """Return the value of a body. Readers disagree about which of two equal keys counts, so they are refused."""
    if _has_too_many_items(content):
        problem = f"JSON must have at most {_LISTS_AND_OBJECTS_MAX:,} lists and objects"
        raise _body_problem(422, "invalid", "", problem)
    value = model.from_json(content)
    try:
        json.loads(content, object_pairs_hook=unique_object)
    except DuplicateKey:
        problem = "JSON must not have a key twice in one object"
    else:
        return value
    raise _body_problem(422, "invalid", "", problem)


def _has_too_many_items(content: bytes) -> bool:
    """Return whether JSON has more lists and objects than an environment may: pydantic blocks all threads for them."""
    if content.count(b"{") + content.count(b"[") <= _LISTS_AND_OBJECTS_MAX:
        return False
    unquoted = _STRING.sub(b"", content)
    return unquoted.count(b"{") + unquoted.count(b"[") > _LISTS_AND_OBJECTS_MAX


def ignored_body(scope: str) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return the dependency that reads and drops a body, so that its size and time are bounded, too."""

    async def drop_body(request: Request, caller: Annotated[Caller, Depends(require_scope(scope))]) -> None:
        async with AsyncExitStack() as place:
            await _read_bounded(request, place, caller.tenant_id)

    return drop_body


async def _read_bounded(request: Request, place: AsyncExitStack, tenant_id: str) -> bytes:
    """Read a body. A large one waits for one of few places first, and holds it until the stack is closed."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > BODY_BYTES_MAX:
        raise _too_large()
    content = bytearray()
    is_large = waits = False
    try:
        async with asyncio.timeout(_READ_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > BODY_BYTES_MAX:
                    raise _too_large()
                if len(content) > _LARGE_BYTES and not is_large:
                    is_large = waits = True
                    await place.enter_async_context(places_of(request.scope).bodies.place(tenant_id))
                    waits = False
    except TimeoutError:
        if waits:
            raise overloaded("reads too many large bodies") from None
        raise Problem(408, "timeout", f"the body did not arrive within {_READ_SECONDS:.0f} seconds") from None
    return bytes(content)


def _too_large() -> Problem:
    return _body_problem(413, "too-large", "", f"the body must have at most {BODY_BYTES_MAX:,} bytes")


def _body_problem(status: int, kind: str, field: str, problem: str) -> Problem:
    return Problem(status, kind, problem, {"errors": [{"field": field, "problem": problem}]})
