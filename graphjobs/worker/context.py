"""What whoever does queued work holds, and how a user's function for it is called; knows no kind of work."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Generic, Protocol, Self, TypeVar
from uuid import UUID

from graphjobs.errors import ConfigurationError, DatabaseUnavailable, OutcomeUnknown
from graphjobs.worker.options import Backoff

T = TypeVar("T")


class Held(Protocol):
    """What a worker holds at an attempt."""

    @property
    def id(self) -> UUID:
        """Its key."""
        ...

    @property
    def tenant_id(self) -> str:
        """Whose it is."""
        ...

    @property
    def attempts(self) -> int:
        """Which attempt this is."""
        ...

    @property
    def updated_at(self) -> datetime | None:
        """The row's version."""
        ...

    def stored(self, *, updated_at: datetime) -> Self:
        """Gives it at a version."""
        ...


J = TypeVar("J", bound=Held)


class Ends(Protocol):
    """How an attempt ends."""

    @property
    def job(self) -> Any:
        """What ends, as it was claimed."""
        ...

    @property
    def status(self) -> str:
        """What it becomes."""
        ...


E = TypeVar("E", bound=Ends)


class Context(Generic[J]):
    """What a handler knows of its attempt.

    Attributes:
        cancelled: True once nobody waits for the result: the job was canceled, or is somebody else's; its time is up;
            or the worker's grace is over. The handler's task is cancelled too; this is for what runs elsewhere.
        stopping: True once the worker was told to stop. A handler may go on for the time of its grace.
    """

    def __init__(self, job: J) -> None:
        self._job: Any = job
        self.cancelled = False
        self.stopping = False

    @property
    def job(self) -> J:
        """The job as it now is."""
        job: J = self._job
        return job

    def saw(self, job: J) -> None:
        """Takes note of what a heartbeat found; the worker calls it."""
        version = job.updated_at
        if version is not None and (self._job.updated_at is None or version > self._job.updated_at):
            self._job = self._newer(job, version)

    def _newer(self, job: J, version: datetime) -> J:
        """A heartbeat changes no more than the version of the row."""
        newer: J = self._job.stored(updated_at=version)
        return newer


class Interrupted(RuntimeError):
    """A handler raised what would end the process."""


class NotAwaitable(ConfigurationError):
    """A handler that is no `async def`: whatever job it is given, it can do none."""


def takes_two(handler: object) -> bool:
    """Tells whether something can be called with a job and its context."""
    if not callable(handler):
        return False
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # written in C perhaps, it does not tell
        return True
    return True


async def awaited(work: Callable[[], Any], name: str) -> Any:
    """Calls a user's function, and awaits what it gives.

    Raises:
        NotAwaitable: it cannot be awaited.
        Interrupted: it raised SystemExit or KeyboardInterrupt.
        Exception: whatever it raises.
    """
    try:
        begun = work()
        if not inspect.isawaitable(begun):
            raise NotAwaitable(f"{name}: its handler cannot be awaited; write it as `async def`")
        return await begun
    # asyncio would end the whole process with these; a pool's child that was interrupted hands on its own.
    except SystemExit as error:
        raise Interrupted(f"the handler asked the process to exit, with {error.code!r:.200}") from error
    except KeyboardInterrupt as error:
        raise Interrupted("the handler was interrupted") from error


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Waits for a database that is away, as the worker does; the handler's time limit is the end of it."""
    backoff = Backoff()
    while True:
        try:
            return await call()
        except (DatabaseUnavailable, OutcomeUnknown):
            wait = backoff.next_seconds()
        await asyncio.sleep(wait)
