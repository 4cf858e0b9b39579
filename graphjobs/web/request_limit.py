"""Bound the requests that an application works on at the same time. The routes of health are exempt."""

from typing import Final

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from graphjobs.web.problems import RETRY_HEADERS, Problem, handle_error

REQUESTS_MAX: Final = 1_000
"""The requests that are worked on at the same time; further requests are answered 503."""

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
            detail = f"the service works on {REQUESTS_MAX:,} requests already: try again later"
            response = await handle_error(Request(scope), Problem(503, "overloaded", detail, headers=RETRY_HEADERS))
            await response(scope, receive, send)
        else:
            self._running += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._running -= 1
