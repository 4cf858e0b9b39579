"""Read request bodies after authentication, bounded in size, time and number, and validate them."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Request

from graphjobs.core.fields import FrozenModel
from graphjobs.web.auth import Caller, require_scope
from graphjobs.web.problems import Problem
from graphjobs.web.request_limit import overloaded, places_of

BODY_BYTES_MAX: Final = 1_048_576
_READ_SECONDS: Final = 10.0
_LARGE_BYTES: Final = 65_536
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
            content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if content_type != "application/json":
                raise _body_problem(415, "unsupported", "content-type", "the content type must be application/json")
            if len(content) <= _LARGE_BYTES:
                return model.from_json(content)
            return await asyncio.get_running_loop().run_in_executor(_threads, model.from_json, content)

    return read_body


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
