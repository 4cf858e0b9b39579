"""The loops of whoever does queued work: claims, heartbeats, ends, rescues, the order of the end; of whatever kind."""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from graphjobs.database.executor import wait_ignoring_cancel as waited_for
from graphjobs.errors import ConfigurationError, GraphJobsError
from graphjobs.worker.completer import Queue, Writer
from graphjobs.worker.context import E, J
from graphjobs.worker.handler_runner import Running, about
from graphjobs.worker.options import Backoff, WorkerOptions, batches_of, jittered
from graphjobs.worker.rescuer import Rescuer
from graphjobs.worker.stats import Tally

FAREWELL: Final = timedelta(seconds=10)
"""How long a worker that stops tries to write what has ended."""

_RESTS_TIMES: Final = 9
_JOBS_NAMED_MAX: Final = 100
_RENEWALS_A_LEASE: Final = 4

C = TypeVar("C", bound=Tally)
_log = logging.getLogger(__name__)


class Engine(ABC, Generic[J, E, C]):
    """Runs work for what it claims, each once, beside any number of others; see those that derive from it.

    Args:
        queue: where ends are written.
        options: how it works.
        tally: what it counts; it is shown by `counts`.
        works_on: what it works on, for people.
        work: runs what was claimed, and gives how that ends.
        on_ended: called with each ending once it is in the database.
        listen: calls back whenever something may have been queued.
    """

    def __init__(
        self,
        queue: Queue,
        options: WorkerOptions,
        tally: C,
        *,
        works_on: str,
        work: Callable[[J, Any], Coroutine[Any, Any, E]],
        on_ended: Callable[[E], None],
        listen: Callable[[Callable[[], None]], Coroutine[Any, Any, None]],
    ) -> None:
        self.options = options
        self._tally = tally
        self._works_on = works_on
        self._on_ended = on_ended
        self._listen = listen
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._grace = options.grace
        self._failure: BaseException | None = None
        self._work: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None]
        self._running = Running[J, E](
            work,
            options.time_limit,
            self._handler_is_broken,
            self._torn_down,
            self._job_ended,
            given_back=self._given_back,
            failed=self._failed,
            called=self._called,
        )
        self._writer = Writer[J, E](queue, options.name, options.batch, self._written, failed=self._refused)

    # What differs from one kind of work to another

    @abstractmethod
    async def _claim_some(self) -> int:
        """Claims as much as there is room for, and starts it; gives how much."""

    @abstractmethod
    async def _heartbeat(self, jobs: Sequence[J]) -> tuple[Sequence[J], Collection[UUID]]:
        """Tells that a batch of what it holds is alive; gives what is, as it now is, and the ids of what is lost."""

    @abstractmethod
    def _rescuer(self) -> Rescuer:
        """Gives what looks for the work of those who stopped."""

    @abstractmethod
    def _given_back(self, job: J) -> E:
        """How it ends where the worker stops: somebody else may take it."""

    @abstractmethod
    def _failed(self, job: J, reason: str) -> E:
        """How it ends where its handler has failed."""

    @abstractmethod
    def _refused(self, job: J, reason: str) -> E:
        """How it ends where its end cannot be stored."""

    @abstractmethod
    def _called(self, job: J) -> str:
        """What it is called, for people."""

    @abstractmethod
    def _count(self, ending: E) -> None:
        """Counts an ending that is in the database, and tells of it."""

    @property
    def counts(self) -> C:
        """What it has done so far."""
        return replace(self._tally)

    @property
    def in_hand(self) -> int:
        """How many jobs it holds: they run, or their ends are not written yet."""
        return len(self._running) + len(self._writer)

    @property
    def left_behind(self) -> int:
        """How many handlers swallowed their cancel and run on, though their jobs have ended without them."""
        return self._running.left_behind

    def stop(self, *, grace: timedelta | None = None) -> None:
        """Tells it to stop: it claims no more, lets handlers run for the time of the grace, and gives back the rest.

        Safe to call at any time from its own event loop, more than once, and as a signal's handler there.

        Args:
            grace: instead of the option; the shortest that was given counts.
        """
        self._grace = min(self._grace, self.options.grace if grace is None else grace)
        self._stopping.set()
        self._woken.set()
        self._running.tell_stopping()

    async def run(self, *, until_empty: bool = False) -> None:
        """Works until it is told to stop. Cancelled, it stops at once and in order: it gives back what it holds.

        Args:
            until_empty: return, too, once a look finds nothing queued and nothing is in hand.

        Raises:
            ConfigurationError: it runs already, or has run; a handler cannot be awaited; or what is configured cannot
                work.
            GraphJobsError: the executor that handlers work in is broken; their jobs are left to be rescued.
        """
        if self._work is not None:
            raise ConfigurationError(f"a {type(self).__name__} runs once: make another one")
        self._work = asyncio.ensure_future(self._run(until_empty))
        try:
            await asyncio.shield(self._work)
        except asyncio.CancelledError:
            self.stop(grace=timedelta(0))
            await waited_for(self._work)
            raise

    async def _run(self, until_empty: bool) -> None:
        options = self.options
        _log.info("worker %s works on %s", options.name, self._works_on)
        self._writing = self._aside(self._writer.run())
        aside = [self._aside(self._renew_for_ever())]
        if options.rescue:
            aside.append(self._aside(self._rescuer().run()))
        if options.listen:
            aside.append(self._aside(self._listen(self._heard)))
        try:
            try:
                await self._claim_until_stopped(until_empty)
            finally:
                await self._wind_up()
        finally:
            for task in (self._writing, *aside):
                task.cancel()
            await asyncio.gather(self._writing, *aside, return_exceptions=True)
            _log.info("worker %s has stopped", options.name)
        if self._failure is not None:
            raise self._failure

    def _aside(self, work: Any) -> "asyncio.Task[None]":
        """Runs work beside the claims; what ends it stops the worker."""

        def look(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._failure = self._failure or error
                self.stop()

        task: asyncio.Task[None] = asyncio.ensure_future(work)
        task.add_done_callback(look)
        return task

    # Claims

    async def _claim_until_stopped(self, until_empty: bool) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            self._woken.clear()
            if not self._room():
                await self._wait_for_wake(self.options.poll)
                continue
            # Before the look: what ends during it may add a job that follows, which the look has not seen.
            idle, began = not self.in_hand, time.monotonic()
            try:
                claimed = await self._claim_some()
            except GraphJobsError as error:
                wait = backoff.next_seconds()
                _log.warning("nothing could be claimed, again in %.1f s: %s", wait, error)
                await self._wait_for_stop(wait)
                continue
            if backoff.reset():
                _log.info("the database answers again")
            if claimed:
                continue
            if until_empty and idle:
                return
            # Where very many tenants have to be looked at, looking takes no more than a tenth of the time.
            took = timedelta(seconds=time.monotonic() - began)
            await self._wait_for_wake(max(self.options.poll, _RESTS_TIMES * took))

    def _torn_down(self) -> bool:
        return self._work is not None and self._work.cancelling() > 0

    def _room(self) -> int:
        """How many more it may claim. What waits to be written is bounded too: the database may be away."""
        options = self.options
        if len(self._writer) >= max(options.concurrency, 2 * options.batch):
            return 0
        return options.concurrency - len(self._running)

    def _handler_is_broken(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self.stop(grace=timedelta(0))

    def _job_ended(self, job: J, ending: E | None) -> None:
        self._woken.set()
        if ending is None:
            self._tally.lost += 1
            _log.warning("%s was lost: canceled, or another attempt of it", self._called(job), extra=about(job))
        else:
            self._writer.add(ending)

    def _written(self, ending: E, problem: str | None) -> None:
        job: J = ending.job
        self._woken.set()
        if problem is not None:
            self._tally.lost += 1
            _log.warning("%s was lost: %s", self._called(job), problem, extra=about(job))
            return
        self._count(ending)
        try:
            self._on_ended(ending)
        except Exception:  # noqa: BLE001  # whatever it does, the job has ended, and the others will
            _log.exception("the observer of ended jobs failed at %s", self._called(job), extra=about(job))

    # The end

    async def _wind_up(self) -> None:
        """Lets handlers run for the time of the grace, gives back the rest, and writes how all have ended."""
        loop = asyncio.get_running_loop()
        self._running.tell_stopping()
        if self._torn_down():
            self._grace = timedelta(0)
        began = loop.time()
        while len(self._running) and (left := began + self._grace.total_seconds() - loop.time()) > 0:
            self._woken.clear()
            await self._wait_for_wake(timedelta(seconds=left), exact=True)
        self._running.give_back_all()
        while len(self._running):
            self._woken.clear()
            await self._wait_for_wake(timedelta(seconds=1))
        if self._writing.done():  # cancelled with all else, at the event loop's end
            self._writing = self._aside(self._writer.run())
        if not await self._writer.drained(FAREWELL):
            unwritten = [str(job.id) for job in self._writer.jobs]
            _log.error(
                "worker %s stops, and %s jobs whose ends could not be written are left to be rescued",
                self.options.name,
                len(unwritten),
                extra={"jobs": unwritten[:_JOBS_NAMED_MAX]},
            )

    # Heartbeats

    async def _renew_for_ever(self) -> None:
        every = self.options.lease.total_seconds() / _RENEWALS_A_LEASE
        backoff = Backoff(cap_seconds=every)
        wait = every
        while True:
            began = time.monotonic()
            await asyncio.sleep(wait)
            late = time.monotonic() - began - wait
            if late > every:
                _log.warning(
                    "the event loop stood still for %.1f s, and no heartbeat could be sent: what burns CPU belongs in "
                    "other processes",
                    late,
                )
            try:
                await self._renew()
            except GraphJobsError as error:
                wait = min(every, backoff.next_seconds())
                _log.warning("the heartbeat of %s jobs could not be written: %s", self.in_hand, error)
            else:
                backoff.reset()
                wait = every

    async def _renew(self) -> None:
        # Of a job that was lost unnoticed and claimed again there may be two attempts in hand: the later one counts.
        held = {job.id: job for job in (*self._writer.jobs, *self._running.jobs)}
        for batch in batches_of(list(held.values()), self.options.batch):
            renewed, lost = await self._heartbeat(batch)
            for job in renewed:
                self._running.saw(job)
            for job in batch:
                if job.id in lost:
                    self._running.lose(job)

    # Waking

    def _heard(self) -> None:
        """A notice of queued jobs: a hint, no more."""
        self._woken.set()

    async def _wait_for_wake(self, most: timedelta, *, exact: bool = False) -> None:
        seconds = most.total_seconds()
        await _waited(self._woken.wait(), seconds if exact else jittered(seconds))

    async def _wait_for_stop(self, seconds: float) -> None:
        await _waited(self._stopping.wait(), seconds)


async def _waited(event: Awaitable[object], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event
    except TimeoutError:
        pass
