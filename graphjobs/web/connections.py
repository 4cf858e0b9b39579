"""The HTTP protocol of the service: uvicorn's own, with deadlines for headers, bodies, idle clients and slow readers.

uvicorn closes a connection that is idle after a response. It waits without end for the first header, for the rest of a
header or body, and for a client that does not read.
"""

import asyncio
import resource
from typing import Any, Final

from typing_extensions import override
from uvicorn.protocols.http.auto import AutoHTTPProtocol

RECEIVE_SECONDS: Final = 10.0
"""The time that a client has for a header, for a body, and until its next request."""
SEND_SECONDS: Final = 10.0
"""The time that a client has to read `_SEND_BYTES_MIN` of a response."""

_SEND_BYTES_MIN: Final = 65_536
_HEADER_BYTES_MAX: Final = 65_536
_UNREAD_BYTES_MAX: Final = 8 * 1_048_576
# A body that is late is answered 408 first.
_BODY_SECONDS: Final = RECEIVE_SECONDS + 2
_SWEEP_SECONDS: Final = 0.5
_CONNECTIONS_MAX: Final = 10_000
# The files of the process that are not connections of clients: the database, the log, the libraries.
_FILES_RESERVED: Final = 200


def connection_limit() -> int:
    """Raise the limit of open files as far as the system permits, and return how many clients may be connected."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _CONNECTIONS_MAX + _FILES_RESERVED
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return _CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else max(min(_CONNECTIONS_MAX, soft - _FILES_RESERVED), 1)


class BoundedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # chosen at run time: httptools, or h11
    """A connection with a deadline for all that its client sends and reads.

    Attributes:
        limit: how many clients may be connected. One more closes the connection that has waited longest without a
            complete header, so that such connections never keep out others.
        waiting: the connections without a request, the longest waiting first.
    """

    limit: int = _CONNECTIONS_MAX
    waiting: dict["BoundedProtocol", None]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: float | None = None
        self._unfinished = 0
        self._unsent = 0
        self._send_deadline = 0.0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._await_header()
        if len(self.connections) > self.limit:
            oldest = next(iter(self.waiting))
            del self.waiting[oldest]
            oldest.transport.abort()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.pop(self, None)
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        cycle = self.cycle
        super().data_received(data)
        if self.cycle is not cycle and not self.cycle.response_complete:
            self.waiting.pop(self, None)
            self._deadline = self._in(_BODY_SECONDS) if self.cycle.more_body else None
        elif self in self.waiting:
            self._check_unfinished(len(data))
        elif self.cycle is not None and not self.cycle.more_body:
            self._deadline = None

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent = 0

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:
            self._await_header()

    def close_if_late(self, now: float) -> None:
        """Close the connection if its client has missed a deadline."""
        unsent = self.transport.get_write_buffer_size()
        if not self._unsent or unsent <= self._unsent - _SEND_BYTES_MIN:
            self._unsent = unsent
            self._send_deadline = now + SEND_SECONDS
        deadline = self._send_deadline if unsent else self._deadline
        if deadline is not None and now > deadline:
            self.transport.abort()

    def _check_unfinished(self, received: int) -> None:
        """Bound the bytes of a header, and of a body that was refused before its end."""
        if not self._unfinished:
            self._deadline = self._in(RECEIVE_SECONDS)
        self._unfinished += received
        is_refused = self.cycle is not None and self.cycle.more_body
        if self._unfinished > (_UNREAD_BYTES_MAX if is_refused else _HEADER_BYTES_MAX):
            self.transport.abort()

    def _await_header(self) -> None:
        self._unfinished = 0
        self._deadline = self._in(RECEIVE_SECONDS)
        self.waiting[self] = None

    def _in(self, seconds: float) -> float:
        return self.loop.time() + seconds  # type: ignore[no-any-return]  # the base class is Any


def bounded_protocol(limit: int) -> type[BoundedProtocol]:
    """Return the protocol of one server."""
    return type("_ServerProtocol", (BoundedProtocol,), {"limit": limit, "waiting": {}})


async def close_late_connections(connections: set[BoundedProtocol]) -> None:
    """Close the connections of clients that have missed a deadline, until the task is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        now = loop.time()
        for connection in tuple(connections):
            connection.close_if_late(now)
