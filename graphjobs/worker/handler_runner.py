"""The runner of handlers: start them, enforce their time limit, and derive the results of attempts; no database."""

import asyncio
import logging
from abc import abstractmethod
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

from graphjobs.errors import GraphJobsError, JobConflict
from graphjobs.worker.context import ClaimedItem, Context, E, HandlerInterrupted, HandlerNotAsync, J
from graphjobs.worker.error_texts import Redact, error_text, stored_text, type_name
from graphjobs.worker.loop_clock import LoopClock

CANCEL_TIMEOUT: Final = timedelta(seconds=5)
"""The time in which a cancelled handler has to end. After that it is abandoned, and its job ends without it."""

_log = logging.getLogger(__name__)

J_contra = TypeVar("J_contra", bound=ClaimedItem, contravariant=True)


class HandlerOwner(Protocol[J_contra, E]):
    """The worker that a runner of handlers works for."""

    @abstractmethod
    async def run_handler(self, job: J_contra, context: Any) -> E:
        """Run the handler of a job, and return the result of the attempt."""

    @abstractmethod
    def released_result(self, job: J_contra) -> E:
        """Return the result of an attempt that the worker releases."""

    @abstractmethod
    def failed_result(self, job: J_contra, reason: str) -> E:
        """Return the result of an attempt that failed."""

    @abstractmethod
    def describe(self, job: J_contra) -> str:
        """Return the name of a job for log messages."""

    @abstractmethod
    def is_cancelled(self) -> bool:
        """Return whether the worker itself is being cancelled, and its handlers with it."""

    @abstractmethod
    def on_finished(self, job: J_contra, result: E | None) -> None:
        """Take the result of an attempt, in the order of their ends; None if the job is lost."""

    @abstractmethod
    def on_broken(self, error: GraphJobsError) -> None:
        """Stop the worker with an error: from now on its handlers can process no job."""


@dataclass(slots=True, eq=False)
class _RunningHandler(Generic[J, E]):
    """One job with its running handler.

    Attributes:
        override: the result of the attempt if the worker cancels the handler; None means that nothing is stored.
        cancelled: whether the worker has cancelled the handler.

    Both times are those of the clock, which leaves out the time in which the event loop stood still.
    """

    job: J
    context: Context[J]
    task: "asyncio.Task[E] | None" = None
    deadline: float = 0.0
    abandon_at: float = 0.0
    abandon_timer: "asyncio.TimerHandle | None" = None
    override: E | None = None
    cancelled: bool = False


@dataclass(slots=True)
class HandlerRunner(Generic[J, E]):
    """The running handlers of one event loop.

    Attributes:
        owner: the worker.
        time_limit: the maximum duration of a handler.
        redact: changes the text of a handler's exception before it is stored.
        clock: leaves out the time in which a handler blocked the event loop.
    """

    owner: HandlerOwner[J, E]
    time_limit: timedelta
    redact: Redact | None = None
    _handlers: dict[UUID, _RunningHandler[J, E]] = field(default_factory=dict)
    _executor_is_broken: bool = False
    _timer: "asyncio.TimerHandle | None" = None
    _abandoned: "set[asyncio.Task[E]]" = field(default_factory=set)
    clock: LoopClock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = LoopClock(lambda: bool(self._handlers))

    def __len__(self) -> int:
        return len(self._handlers)

    @property
    def abandoned(self) -> int:
        """The number of handlers that still run after their jobs ended without them."""
        return len(self._abandoned)

    @property
    def jobs(self) -> list[J]:
        """The current values of the running jobs."""
        return [running.context.job for running in self._handlers.values()]

    def start(self, job: J, context: Context[J]) -> None:
        """Start the handler of a job. The handler of an earlier attempt, which was lost unnoticed, is cancelled."""
        loop = asyncio.get_running_loop()
        earlier = self._handlers.get(job.id)
        if earlier is not None:
            self._cancel(earlier, None)
            self._detach(earlier)
        running = _RunningHandler[J, E](job, context)
        self._handlers[job.id] = running
        running.task = loop.create_task(self.owner.run_handler(job, context), name=self.owner.describe(job))
        running.task.add_done_callback(partial(self._on_done, running))
        self.clock.start()
        running.deadline = self.clock.time() + self.time_limit.total_seconds()
        if self._timer is None:
            self._timer = self.clock.call_at(running.deadline, self._check_deadlines)

    def refresh(self, job: J) -> None:
        """Pass the newer value of a job to its handler, if it still runs at this attempt."""
        running = self._at_attempt(job)
        if running is not None:
            running.context.refresh(job)

    def cancel_with(self, job: J, result: E | None) -> None:
        """Cancel the handler of a job, if it still runs at this attempt.

        Args:
            job: the job.
            result: the result of the attempt; None if the job is lost, and nothing is to be stored.
        """
        running = self._at_attempt(job)
        if running is not None:
            self._cancel(running, result)

    def notify_stopping(self) -> None:
        """Set `stopping` in the context of each handler."""
        for running in self._handlers.values():
            running.context.stopping = True

    def release_all(self) -> None:
        """Cancel all handlers; their jobs return to the queue."""
        for running in list(self._handlers.values()):
            self._cancel(running, self.owner.released_result(running.job))

    def _at_attempt(self, job: J) -> _RunningHandler[J, E] | None:
        running = self._handlers.get(job.id)
        return running if running is not None and running.job.attempts == job.attempts else None

    def _check_deadlines(self) -> None:
        """Cancel handlers after their time limit. One timer is enough: deadlines have the order of the starts."""
        self._timer = None
        for running in list(self._handlers.values()):
            if running.deadline > self.clock.time():
                self._timer = self.clock.call_at(running.deadline, self._check_deadlines)
                return
            reason = f"the handler exceeded its time limit of {self.time_limit}"
            if not running.cancelled:
                _log.warning("%s: %s", self.owner.describe(running.job), reason, extra=log_fields(running.job))
            self._cancel(running, self.owner.failed_result(running.job, reason))

    def _cancel(self, running: _RunningHandler[J, E], override: E | None) -> None:
        if running.cancelled or running.task is None:
            return
        running.cancelled, running.override = True, override
        running.context.cancelled = True
        running.task.cancel()
        running.abandon_at = self.clock.time() + CANCEL_TIMEOUT.total_seconds()
        running.abandon_timer = self.clock.call_at(running.abandon_at, self._abandon, running)

    def _abandon(self, running: _RunningHandler[J, E]) -> None:
        """End the job of a handler that does not react to its cancellation."""
        if self._handlers.get(running.job.id) is not running:
            return
        if running.abandon_at > self.clock.time():
            running.abandon_timer = self.clock.call_at(running.abandon_at, self._abandon, running)
            return
        _log.error(
            "the handler of %s did not end within %s of its cancellation and was abandoned",
            self.owner.describe(running.job),
            CANCEL_TIMEOUT,
            extra=log_fields(running.job),
        )
        self._detach(running)

    def _detach(self, running: _RunningHandler[J, E]) -> None:
        """End a job without its handler. The task is kept so that it is not garbage-collected while it runs."""
        del self._handlers[running.job.id]
        if running.task is not None:
            self._abandoned.add(running.task)
            running.task.add_done_callback(self._abandoned.discard)
        self.owner.on_finished(running.job, running.override)

    def _on_done(self, running: _RunningHandler[J, E], task: "asyncio.Task[E]") -> None:
        if running.abandon_timer is not None:
            running.abandon_timer.cancel()
        result = self._result_of(running, task)
        if self._handlers.get(running.job.id) is running:
            del self._handlers[running.job.id]
            self.owner.on_finished(running.job, result)

    def _result_of(self, running: _RunningHandler[J, E], task: "asyncio.Task[E]") -> E | None:
        """Return the result of the attempt; None if nothing is to be stored."""
        owner, job = self.owner, running.job
        if task.cancelled():
            if running.cancelled:
                return running.override
            # The end of the event loop cancels all tasks, and the worker with them. Otherwise the attempt failed.
            if owner.is_cancelled():
                return owner.released_result(job)
            reason = "the handler was cancelled, but not by the worker"
            _log.warning("%s failed: %s", owner.describe(job), reason, extra=log_fields(job))
            return owner.failed_result(job, reason)
        error = task.exception()
        if error is None:
            # The handler returned before its cancellation arrived. Its result counts if the fence accepts it.
            return task.result()
        if running.cancelled:
            return running.override
        if isinstance(error, JobConflict) and running.context.cancelled:
            return None  # a call of the context reported that the job is lost
        if isinstance(error, HandlerNotAsync):
            # The job is not the cause: it returns to the queue, for workers with a correct handler.
            owner.on_broken(error)
            return owner.released_result(job)
        if isinstance(error, BrokenExecutor) and (self._executor_is_broken or not running.context.stopping):
            # The executor stays broken, and would fail all jobs that are claimed. The job may be the cause: a rescue
            # counts the attempt, as after a killed worker.
            self._executor_is_broken = True
            message = f"the executor of the handlers is broken, so restart the worker: {error_text(error)}"
            owner.on_broken(GraphJobsError(message))
            return None
        if isinstance(error, HandlerInterrupted | BrokenExecutor) and running.context.stopping:
            # The signal to stop has also reached the processes of the executor.
            return owner.released_result(job)
        try:
            message, name = "the handler of %s raised %s", type_name(error)
            _log.warning(message, owner.describe(job), name, exc_info=error, extra=log_fields(job))
        except BaseException:  # noqa: BLE001  # a traceback calls the class of the user, and the job must end
            _log.warning("the handler of %s raised an exception without a readable traceback", owner.describe(job))
        return owner.failed_result(job, stored_text(error, self.redact))


def log_fields(job: ClaimedItem) -> dict[str, object]:
    """Return the fields of a log record that identify a job."""
    return {"job": str(job.id), "tenant": job.tenant_id, "attempts": job.attempts}
