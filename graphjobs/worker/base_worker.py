"""The loops that both workers share: claims, heartbeats, attempt results, rescues and the shutdown."""

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from typing_extensions import override

from graphjobs.database.executor import wait_ignoring_cancel
from graphjobs.errors import ConfigurationError, GraphJobsError
from graphjobs.worker.completer import BatchCompleter, ResultSink
from graphjobs.worker.context import E, J
from graphjobs.worker.handler_runner import HandlerOwner, HandlerRunner, log_fields
from graphjobs.worker.options import POLL_COST_FACTOR, Backoff, WorkerOptions, batched, jittered
from graphjobs.worker.refusals import apply_in_halves
from graphjobs.worker.rescuer import Rescuer
from graphjobs.worker.stats import BaseStats

FLUSH_TIMEOUT: Final = timedelta(seconds=10)
"""The time in which a worker that stops tries to store attempt results."""

_LOGGED_JOBS_MAX: Final = 100
_HEARTBEATS_PER_LEASE: Final = 4

C = TypeVar("C", bound=BaseStats)
_log = logging.getLogger(__name__)


class BaseWorker(HandlerOwner[J, E], Generic[J, E, C]):
    """The base of both workers. It claims items, runs a handler for each, and stores the results.

    Args:
        sink: stores attempt results.
        options: the options of the worker.
        stats: the counters; `stats` returns a copy.
        queue_name: the name of the queue, for log messages.
        on_ended: called with each attempt result after it is stored.
        listen: calls its argument at each notification of queued items.
    """

    def __init__(
        self,
        sink: ResultSink,
        options: WorkerOptions,
        stats: C,
        *,
        queue_name: str,
        on_ended: Callable[[E], None],
        listen: Callable[[Callable[[], None]], Coroutine[Any, Any, None]],
    ) -> None:
        self.options = options
        self._stats = stats
        self._queue_name = queue_name
        self._on_ended = on_ended
        self._listen = listen
        self._apart: dict[Hashable, Callable[[], Awaitable[int]]] = {}
        self._runs_alone = False
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._grace = options.grace
        self._failure: BaseException | None = None
        self._main_task: asyncio.Task[None] | None = None
        self._completer_task: asyncio.Task[None]
        self._runner = HandlerRunner[J, E](self, options.time_limit, options.redact)
        self._completer = BatchCompleter[J, E](sink, options.name, options.batch, self._on_written, self._unstorable)

    @abstractmethod
    async def _claim_batch(self) -> int:
        """Claim items for the free slots and start their handlers. Return how many were claimed.

        Items that lost their attempts but the last are left, and the claims that find them are added to `_apart`: what
        runs beside an item that ends the process loses its attempt, too, so those get their last attempt alone.
        """

    @abstractmethod
    async def _heartbeat(self, jobs: Sequence[J]) -> tuple[Sequence[J], Collection[UUID]]:
        """Send the heartbeats of a batch. Return the live items at their new versions, and the ids of lost items."""

    @abstractmethod
    def _rescuer(self) -> Rescuer:
        """Build the rescuer of stalled items."""

    def _unstorable(self, job: J, reason: str) -> E:
        """Return the result of an item if the database refuses its own result."""
        return self.failed_result(job, reason)

    @abstractmethod
    def _count(self, result: E) -> None:
        """Count and log a result that is stored."""

    @property
    def stats(self) -> C:
        """A copy of the counters."""
        return replace(self._stats)

    @property
    def in_flight(self) -> int:
        """The number of items that run, or have no stored result yet."""
        return len(self._runner) + len(self._completer)

    @property
    def abandoned(self) -> int:
        """The number of handlers that ignored their cancellation and still run; their jobs ended without them."""
        return self._runner.abandoned

    def stop(self, *, grace: timedelta | None = None) -> None:
        """Request the end: claim no more, allow handlers the grace period, and release the rest.

        It may be called at any time in the worker's event loop, more than once, and as a signal handler of the loop.

        Args:
            grace: replaces the option; of several calls the shortest grace period counts.
        """
        self._grace = min(self._grace, self.options.grace if grace is None else grace)
        self._stopping.set()
        self._wake.set()
        self._runner.notify_stopping()

    async def run(self, *, until_empty: bool = False) -> None:
        """Work until `stop` is called. If cancelled, stop without a grace period and release all items.

        Args:
            until_empty: return, too, when a claim finds nothing queued and nothing is in flight.

        Raises:
            ConfigurationError: the worker runs already or has run, a handler is not asynchronous, or the configuration
                does not work: another event loop, a wrong password, a missing privilege. A retry would not help.
            GraphJobsError: the executor of the handlers is broken; their jobs will be rescued.
        """
        if self._main_task is not None:
            raise ConfigurationError(f"a {type(self).__name__} runs only once: create another one")
        self._main_task = asyncio.ensure_future(self._run(until_empty))
        try:
            await asyncio.shield(self._main_task)
        except asyncio.CancelledError:
            self.stop(grace=timedelta(0))
            await wait_ignoring_cancel(self._main_task)
            raise

    async def _run(self, until_empty: bool) -> None:
        options = self.options
        _log.info("worker %s works on %s", options.name, self._queue_name)
        self._completer_task = self._spawn(self._completer.run())
        background = [self._spawn(self._send_heartbeats())]
        if options.rescue:
            background.append(self._spawn(self._rescuer().run()))
        if options.listen:
            background.append(self._spawn(self._listen(self._on_notify)))
        try:
            try:
                await self._claim_until_stopped(until_empty)
            finally:
                await self._shutdown()
        finally:
            for task in (self._completer_task, *background):
                task.cancel()
            await asyncio.gather(self._completer_task, *background, return_exceptions=True)
            _log.info("worker %s has stopped", options.name)
        if self._failure is not None:
            raise self._failure

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Start a background task. An error of the task stops the worker."""

        def on_done(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._failure = self._failure or error
                self.stop()

        task = asyncio.ensure_future(work)
        task.add_done_callback(on_done)
        return task

    # Claims

    async def _claim_until_stopped(self, until_empty: bool) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            self._wake.clear()
            if not self._free_slots():
                await self._wait_for_wake(self.options.poll)
                continue
            # Read before the claim: an attempt that ends during the claim may add followups that the claim misses.
            was_idle, started = not self.in_flight, self._runner.clock.time()
            try:
                claimed = await (self._claim_apart() if self._apart else self._claim_batch())
            except ConfigurationError:
                raise
            except GraphJobsError as error:
                wait = backoff.next_seconds()
                _log.warning("the claim failed, next try in %.1f s: %s", wait, error)
                await _wait(self._stopping, wait)
                continue
            if backoff.reset():
                _log.info("the database is available again")
            if claimed or self._apart:
                continue
            if until_empty and was_idle:
                return
            # With very many tenants a claim is slow: claims that find nothing take at most a tenth of the time.
            elapsed = timedelta(seconds=self._runner.clock.time() - started)
            await self._wait_for_wake(max(self.options.poll, POLL_COST_FACTOR * elapsed))

    async def _claim_apart(self) -> int:
        """Claim one item alone, by the first of the claims that finds one; then all others have their turn again."""
        claimed = 0
        self._runs_alone = True
        while self._apart and not claimed:
            claimed = await self._apart.pop(next(iter(self._apart)))()
        self._apart.clear()
        return 1

    def _free_slots(self) -> int:
        """Return how many more items may be claimed.

        It is 0 while too many results wait for the database, and while an item runs alone or is about to.
        """
        options = self.options
        if self._apart or self._runs_alone:
            if len(self._runner) or self._completer.unwritten:
                return 0
            self._runs_alone = False
            return 1 if self._apart else options.concurrency
        if len(self._completer) >= max(options.concurrency, 2 * options.batch):
            return 0
        return options.concurrency - len(self._runner)

    @override
    def is_cancelled(self) -> bool:
        return self._main_task is not None and self._main_task.cancelling() > 0

    @override
    def on_broken(self, error: GraphJobsError) -> None:
        self._failure = self._failure or error
        self.stop(grace=timedelta(0))

    @override
    def on_finished(self, job: J, result: E | None) -> None:
        self._wake.set()
        if result is None:
            self._count_lost(job, "it was canceled, or another attempt runs")
        else:
            self._completer.add(result)

    def _on_written(self, result: E, lost: str | None) -> None:
        job: J = result.job
        self._wake.set()
        if lost is not None:
            self._count_lost(job, lost)
            return
        self._count(result)
        try:
            self._on_ended(result)
        except Exception:  # noqa: BLE001  # the job has ended, and an error of the observer must not stop the worker
            _log.exception("the observer of ended jobs failed at %s", self.describe(job), extra=log_fields(job))

    def _count_lost(self, job: J, reason: str) -> None:
        self._stats.lost += 1
        _log.warning("%s is lost: %s", self.describe(job), reason, extra=log_fields(job))

    def _count_lost_claims(self, job_ids: Collection[UUID]) -> None:
        self._stats.lost += len(job_ids)
        for job_id in job_ids:
            message = "%s was claimed, and lost before the answer of the claim was known"
            _log.warning(message, job_id, extra={"job": str(job_id)})

    # Shutdown

    async def _shutdown(self) -> None:
        """Wait for handlers during the grace period, release the rest, and store all results."""
        loop = asyncio.get_running_loop()
        self._runner.notify_stopping()
        if self.is_cancelled():
            self._grace = timedelta(0)
        started = loop.time()
        while len(self._runner) and (remaining := started + self._grace.total_seconds() - loop.time()) > 0:
            self._wake.clear()
            await _wait(self._wake, remaining)
        self._runner.release_all()
        while len(self._runner):
            self._wake.clear()
            await self._wait_for_wake(timedelta(seconds=1))
        if self._completer_task.done():  # cancelled with all other tasks, at the end of the event loop
            self._completer_task = self._spawn(self._completer.run())
        if not await self._completer.drained(FLUSH_TIMEOUT):
            unwritten = [str(job.id) for job in self._completer.jobs]
            message = "worker %s stops without storing %s attempt results; those jobs will be rescued"
            _log.error(message, self.options.name, len(unwritten), extra={"jobs": unwritten[:_LOGGED_JOBS_MAX]})

    # Heartbeats

    async def _send_heartbeats(self) -> None:
        interval = self.options.lease.total_seconds() / _HEARTBEATS_PER_LEASE
        backoff = Backoff(cap_seconds=interval)
        wait = interval
        while True:
            started = time.monotonic()
            await asyncio.sleep(wait)
            delay = time.monotonic() - started - wait
            if delay > interval:
                _log.warning(
                    "the event loop was blocked for %.1f s, without heartbeats: run CPU-bound work in other processes",
                    delay,
                )
            try:
                await self._renew()
            except ConfigurationError:
                raise
            except GraphJobsError as error:
                wait = min(interval, backoff.next_seconds())
                _log.warning("the heartbeat of %s jobs failed: %s", self.in_flight, error)
            else:
                backoff.reset()
                wait = interval

    async def _renew(self) -> None:
        # Of a job that was lost unnoticed and claimed again, two attempts may be in flight: the later one is renewed.
        in_flight = {job.id: job for job in (*self._completer.jobs, *self._runner.jobs)}
        for batch in batched(list(in_flight.values()), self.options.batch):
            await apply_in_halves(batch, self._renew_batch)

    async def _renew_batch(self, batch: Sequence[J]) -> None:
        renewed, lost = await self._heartbeat(batch)
        for job in renewed:
            self._runner.refresh(job)
        for job in (job for job in batch if job.id in lost):
            self._runner.cancel_with(job, None)

    # Waking

    def _on_notify(self) -> None:
        """Wake up at a notification of queued items. A notification is only a hint."""
        self._wake.set()

    async def _wait_for_wake(self, timeout: timedelta) -> None:
        await _wait(self._wake, jittered(timeout.total_seconds()))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
