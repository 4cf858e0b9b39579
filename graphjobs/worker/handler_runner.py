"""The handlers that run: starts them, holds them to their time limit, and tells how each job ends; no database here."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Final, Generic
from uuid import UUID

from graphjobs.errors import GraphJobsError, JobConflict
from graphjobs.worker.context import Context, E, Held, Interrupted, J, NotAwaitable

PATIENCE: Final = timedelta(seconds=5)
"""How long a cancelled handler may take to end; after that it is left behind, and its job ends without it."""

_ERROR_CHARACTERS_MAX: Final = 100_000
_INNER_MAX: Final = 5
_INNER_CHARACTERS_MAX: Final = 500

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Hold(Generic[J, E]):
    """One job in hand.

    Attributes:
        instead: how the job ends if the handler is cancelled by us; None means that nothing is to be written.
        cut: whether we cancelled it.
    """

    job: J
    context: Context[J]
    task: "asyncio.Task[E] | None" = None
    deadline: float = 0.0
    patience: "asyncio.TimerHandle | None" = None
    instead: E | None = None
    cut: bool = False


@dataclass(slots=True)
class Running(Generic[J, E]):
    """The handlers that run, in one event loop.

    Attributes:
        work: runs a handler, and gives how its job ends.
        time_limit: the longest one may take.
        broken: called with an error that says why no handler can do any job from now on.
        torn_down: tells whether the worker itself is being cancelled, and its handlers with it.
        ended: called with how a job ends, in the order in which they do; with None and the job where nobody waits for
            it any more.
        given_back: gives how a job ends where the worker stops.
        failed: gives how it ends where its handler has failed.
        called: what a job is called, for people.
    """

    work: Callable[[J, Any], Coroutine[Any, Any, E]]
    time_limit: timedelta
    broken: Callable[[GraphJobsError], None]
    torn_down: Callable[[], bool]
    ended: Callable[[J, E | None], None]
    given_back: Callable[[J], E]
    failed: Callable[[J, str], E]
    called: Callable[[J], str]
    _holds: dict[UUID, _Hold[J, E]] = field(default_factory=dict)
    _pool_is_broken: bool = False
    _timer: "asyncio.TimerHandle | None" = None
    _left_behind: "set[asyncio.Task[E]]" = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._holds)

    @property
    def left_behind(self) -> int:
        """How many handlers run on though their jobs have ended without them."""
        return len(self._left_behind)

    @property
    def jobs(self) -> list[J]:
        """The jobs that run, as they now are."""
        return [hold.context.job for hold in self._holds.values()]

    def start(self, job: J, context: Context[J]) -> None:
        """Starts a job's handler. One of an attempt before, which was lost unnoticed, is cut: nobody waits for it."""
        loop = asyncio.get_running_loop()
        older = self._holds.get(job.id)
        if older is not None:
            self._cut(older, None)
            self._let_go(older)
        hold = _Hold[J, E](job, context)
        self._holds[job.id] = hold
        hold.task = loop.create_task(self.work(job, context), name=self.called(job))
        hold.task.add_done_callback(partial(self._done, hold))
        hold.deadline = loop.time() + self.time_limit.total_seconds()
        if self._timer is None:
            self._timer = loop.call_at(hold.deadline, self._look_at_deadlines)

    def saw(self, job: J) -> None:
        """Takes note of a job as a heartbeat found it, if it still runs at this attempt."""
        hold = self._holds.get(job.id)
        if hold is not None and hold.job.attempts == job.attempts:
            hold.context.saw(job)

    def lose(self, job: J) -> None:
        """Cancels the handler of a job that is somebody else's, or ended; nothing is written of it."""
        hold = self._holds.get(job.id)
        if hold is not None and hold.job.attempts == job.attempts:
            self._cut(hold, None)

    def end_instead(self, job: J, ending: E) -> None:
        """Cancels the handler of a job that ends otherwise, if it still runs at this attempt."""
        hold = self._holds.get(job.id)
        if hold is not None and hold.job.attempts == job.attempts:
            self._cut(hold, ending)

    def tell_stopping(self) -> None:
        """Lets the handlers know that the worker stops."""
        for hold in self._holds.values():
            hold.context.stopping = True

    def give_back_all(self) -> None:
        """Cancels all handlers; their jobs go back to the queue."""
        for hold in list(self._holds.values()):
            self._cut(hold, self.given_back(hold.job))

    def _look_at_deadlines(self) -> None:
        """Cuts what is out of time. One timer for all: they end in the order in which they began."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for hold in list(self._holds.values()):
            if hold.deadline > loop.time():
                self._timer = loop.call_at(hold.deadline, self._look_at_deadlines)
                return
            reason = f"it took longer than {self.time_limit}, which is the most it gets"
            if not hold.cut:
                _log.warning("%s is cut: %s", self.called(hold.job), reason, extra=about(hold.job))
            self._cut(hold, self.failed(hold.job, reason))

    def _cut(self, hold: _Hold[J, E], instead: E | None) -> None:
        if hold.cut or hold.task is None:
            return
        hold.cut, hold.instead = True, instead
        hold.context.cancelled = True
        hold.task.cancel()
        hold.patience = asyncio.get_running_loop().call_later(PATIENCE.total_seconds(), self._leave_behind, hold)

    def _leave_behind(self, hold: _Hold[J, E]) -> None:
        """Ends the job of a handler that does not end: it swallows its cancel, or waits for something that cannot."""
        if self._holds.get(hold.job.id) is not hold:
            return
        _log.error(
            "the handler of %s did not end within %s of its cancel, and was left behind",
            self.called(hold.job),
            PATIENCE,
            extra=about(hold.job),
        )
        self._let_go(hold)

    def _let_go(self, hold: _Hold[J, E]) -> None:
        """Ends a job without its handler, which is kept only so that it is not collected while it runs."""
        del self._holds[hold.job.id]
        if hold.task is not None:
            self._left_behind.add(hold.task)
            hold.task.add_done_callback(self._left_behind.discard)
        self.ended(hold.job, hold.instead)

    def _done(self, hold: _Hold[J, E], task: "asyncio.Task[E]") -> None:
        if hold.patience is not None:
            hold.patience.cancel()
        ending = self._ending_of(hold, task)
        if self._holds.get(hold.job.id) is hold:
            del self._holds[hold.job.id]
            self.ended(hold.job, ending)

    def _ending_of(self, hold: _Hold[J, E], task: "asyncio.Task[E]") -> E | None:
        if task.cancelled():
            if hold.cut:
                return hold.instead
            # By the event loop's own end, perhaps, which cancels whatever there is; else it has failed like any other.
            if self.torn_down():
                return self.given_back(hold.job)
            _log.warning(
                "%s failed: its handler was cancelled from within",
                self.called(hold.job),
                extra=about(hold.job),
            )
            return self.failed(hold.job, "the handler was cancelled from within")
        error = task.exception()
        if error is None:
            # It was faster than its cancel, and what it has done counts; whether it may, the fence decides.
            return task.result()
        if hold.cut:
            return hold.instead
        if isinstance(error, JobConflict) and hold.context.cancelled:
            return None  # it was told that the job is lost
        if isinstance(error, NotAwaitable):
            # No fault of the job's: it goes back to those who can do it.
            self.broken(error)
            return self.given_back(hold.job)
        if isinstance(error, BrokenExecutor) and (self._pool_is_broken or not hold.context.stopping):
            # It stays so, and would fail whatever else is claimed. The job may have broken it: as with a worker that is
            # killed, a rescue counts the attempt.
            self._pool_is_broken = True
            self.broken(GraphJobsError(f"the handlers' executor is broken, so start the worker anew: {told(error)}"))
            return None
        if isinstance(error, Interrupted | BrokenExecutor) and hold.context.stopping:
            # The word to stop reached the processes it works in, too.
            return self.given_back(hold.job)
        _log.warning(
            "the handler of %s raised %s",
            self.called(hold.job),
            type(error).__name__,
            exc_info=error,
            extra=about(hold.job),
        )
        return self.failed(hold.job, told(error))


def about(job: Held) -> dict[str, object]:
    """What a line of the log tells of a job, for programs."""
    return {"job": str(job.id), "tenant": job.tenant_id, "attempts": job.attempts}


def told(error: BaseException) -> str:
    """Gives an exception as the error of a job: its type, and what it says, which is no more to be trusted than it."""
    name = type(error).__name__
    try:
        said = str(error)[:_ERROR_CHARACTERS_MAX]
    except Exception:  # noqa: BLE001  # its own __str__ may do anything
        return f"{name}, which could not be told"
    if isinstance(error, BaseExceptionGroup):
        said = "; ".join([said, *(told(inner)[:_INNER_CHARACTERS_MAX] for inner in error.exceptions[:_INNER_MAX])])
    if not said:
        return name
    return said if isinstance(error, GraphJobsError) else f"{name}: {said}"
