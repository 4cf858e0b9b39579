"""Types and calls that all workers share: claimed items, handler contexts, and calls of a user's function."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Generic, Protocol, Self, TypeVar
from uuid import UUID

from graphjobs.errors import ConfigurationError, DatabaseUnavailable, OutcomeUnknown
from graphjobs.worker.error_texts import safe_repr
from graphjobs.worker.options import Backoff

T = TypeVar("T")


class ClaimedItem(Protocol):
    """A job or run that a worker holds at one attempt."""

    @property
    def id(self) -> UUID:
        """The key of the row."""
        ...

    @property
    def tenant_id(self) -> str:
        """The tenant that owns the row."""
        ...

    @property
    def attempts(self) -> int:
        """The number of this attempt."""
        ...

    @property
    def updated_at(self) -> datetime | None:
        """The version of the row."""
        ...

    def stored(self, *, updated_at: datetime) -> Self:
        """Return a copy at another version."""
        ...


J = TypeVar("J", bound=ClaimedItem)


class Finishable(Protocol):
    """The result of one attempt."""

    @property
    def job(self) -> Any:
        """The item as it was claimed."""
        ...

    @property
    def status(self) -> str:
        """The next status of the item."""
        ...


E = TypeVar("E", bound=Finishable)


class Context(Generic[J]):
    """The state of one attempt, for its handler.

    Attributes:
        cancelled: True if the result is no longer needed: the job was canceled or is lost, its time limit is exceeded,
            or the grace period of the worker is over. The task of the handler is cancelled, too; this attribute is for
            work that a cancellation does not reach.
        stopping: True after the request to stop. A handler may continue for the grace period.
    """

    def __init__(self, job: J) -> None:
        self._job: Any = job
        self.cancelled = False
        self.stopping = False

    @property
    def job(self) -> J:
        """The current value of the job."""
        job: J = self._job
        return job

    def refresh(self, job: J) -> None:
        """Take over the newer value of the job that a heartbeat returned; the worker calls this method."""
        version = job.updated_at
        if version is not None and (self._job.updated_at is None or version > self._job.updated_at):
            self._job = self._newer(job, version)

    def _newer(self, job: J, version: datetime) -> J:
        """Return the current value at the new version: a heartbeat changes nothing else."""
        newer: J = self._job.stored(updated_at=version)
        return newer


class HandlerInterrupted(RuntimeError):
    """A handler raised an exception that ends a process."""


class HandlerNotAsync(ConfigurationError):
    """A handler is not an `async def` function, so it can process no job."""


def accepts_job_and_context(handler: object) -> bool:
    """Return whether an object can be called with a job and its context."""
    if not callable(handler):
        return False
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # no signature is available, for instance of a function written in C
        return True
    return True


async def call_handler(handler: Callable[[], Any], name: str) -> Any:
    """Call a user's function and await its result.

    Raises:
        HandlerNotAsync: the function is not asynchronous.
        HandlerInterrupted: the function raised SystemExit or KeyboardInterrupt.
        Exception: any exception of the function.
    """
    with interruptions():
        awaitable = handler()
        if not inspect.isawaitable(awaitable):
            raise HandlerNotAsync(f"the {name} handler is not asynchronous: define it with `async def`")
        return await awaitable


@contextmanager
def interruptions() -> Iterator[None]:
    """Turn the exceptions that end a process into `HandlerInterrupted`, around calls of user code.

    asyncio would end the whole process with these; an interrupted process of a pool passes on its own.
    """
    try:
        yield
    except SystemExit as error:
        raise HandlerInterrupted(f"the handler raised SystemExit({safe_repr(error.code)})") from error
    except KeyboardInterrupt as error:
        raise HandlerInterrupted("the handler raised KeyboardInterrupt") from error


async def retry_until_available(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call while the database is unavailable; the time limit of the handler bounds the wait."""
    backoff = Backoff()
    while True:
        try:
            return await call()
        except (DatabaseUnavailable, OutcomeUnknown):
            wait = backoff.next_seconds()
        await asyncio.sleep(wait)
