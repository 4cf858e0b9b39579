"""Bound what an application works on at the same time: requests, lists, large bodies, and the bytes of responses.

One tenant takes at most half of each, so that it never keeps out all others.
"""

from asyncio import Semaphore
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from graphjobs.web.problems import RETRY_HEADERS, Problem, handle_error

REQUESTS_MAX: Final = 1_000
"""The requests that are worked on at the same time; further requests are answered 503."""

LISTS_MAX: Final = 4
"""The lists that are read and written as JSON at the same time; further ones wait."""
LARGE_BODIES_MAX: Final = 32
"""The bodies of more than 64 KiB that are read and validated at the same time; further ones wait."""
UNSENT_BYTES_MAX: Final = 256 * 1_048_576
"""The bytes of large responses that clients have not read yet; further large responses are answered 503."""

_SENT_AT_ONCE: Final = 262_144
_EXEMPT: Final = frozenset({"/healthz", "/readyz"})


class RequestLimit:
    """An ASGI middleware that answers 503 to a request while too many others are worked on.

    A connection without a complete header is no request: it takes no place.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 503."""
        if scope["type"] != "http" or scope["path"] in _EXEMPT:
            await self._app(scope, receive, send)
        elif self._running >= REQUESTS_MAX:
            response = await handle_error(Request(scope), overloaded(f"works on {REQUESTS_MAX:,} requests already"))
            await response(scope, receive, send)
        else:
            self._running += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._running -= 1


def overloaded(reason: str) -> Problem:
    """Return the problem of a request that finds no place."""
    return Problem(503, "overloaded", f"the service {reason}: try again later", headers=RETRY_HEADERS)


def _share(total: int) -> int:
    """Return how much of a total one tenant may take."""
    return max(total // 2, 1)


class TenantPlaces:
    """Places to wait for. Callers of one tenant wait for each other first, and only then for other tenants."""

    def __init__(self, total: int) -> None:
        self._all = Semaphore(total)
        self._share = _share(total)
        self._tenants: WeakValueDictionary[str, Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def place(self, tenant_id: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        share = self._tenants.get(tenant_id)
        if share is None:
            share = self._tenants[tenant_id] = Semaphore(self._share)
        async with share, self._all:
            yield


@dataclass
class Places:
    """The places of one application for what takes much memory or time.

    Attributes:
        lists: the places of lists, until they are JSON.
        bodies: the places of large bodies, until they are validated.
        running: the requests of each tenant that are worked on.
        unsent: the bytes of large responses that are being sent, by tenant.
    """

    lists: TenantPlaces = field(default_factory=lambda: TenantPlaces(LISTS_MAX))
    bodies: TenantPlaces = field(default_factory=lambda: TenantPlaces(LARGE_BODIES_MAX))
    running: Counter[str] = field(default_factory=Counter)
    unsent: Counter[str] = field(default_factory=Counter)


def places_of(scope: Scope) -> Places:
    """Return the places of the application that handles a request."""
    state = scope["app"].state
    if not hasattr(state, "graphjobs_places"):
        state.graphjobs_places = Places()
    places: Places = state.graphjobs_places
    return places


@contextmanager
def tenant_request(request: Request, tenant_id: str) -> Iterator[None]:
    """Count a request as one of its tenant until its response is sent, or answer 503 if the tenant has too many."""
    running = places_of(request.scope).running
    if running[tenant_id] >= _share(REQUESTS_MAX):
        raise overloaded(f"works on {_share(REQUESTS_MAX):,} requests of this tenant already")
    request.state.graphjobs_tenant_id = tenant_id
    with _counted(running, tenant_id, 1):
        yield


@contextmanager
def _counted(counter: Counter[str], tenant_id: str, amount: int) -> Iterator[None]:
    counter[tenant_id] += amount
    try:
        yield
    finally:
        counter[tenant_id] -= amount
        if not counter[tenant_id]:
            del counter[tenant_id]


class LargeResponse(Response):
    """A response of a tenant that may be large: its bytes are counted until the client has read them."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = len(self.body)
        if size <= _SENT_AT_ONCE:
            await super().__call__(scope, receive, send)
            return
        tenant_id = scope["state"]["graphjobs_tenant_id"]
        unsent = places_of(scope).unsent
        if unsent[tenant_id] + size > _share(UNSENT_BYTES_MAX) or unsent.total() + size > UNSENT_BYTES_MAX:
            response = await handle_error(Request(scope), overloaded("sends too many large responses"))
            await response(scope, receive, send)
            return
        with _counted(unsent, tenant_id, size):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            # The server waits before each part until the client has read most of those before.
            for start in range(0, size, _SENT_AT_ONCE):
                end = start + _SENT_AT_ONCE
                part = bytes(self.body[start:end])
                await send({"type": "http.response.body", "body": part, "more_body": end < size})
