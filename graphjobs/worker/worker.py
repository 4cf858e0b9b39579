"""The worker: claims queued jobs, runs handlers, renews what runs, ends what has ended, rescues what has stopped."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from graphjobs.database.executor import ended as waited_for
from graphjobs.errors import ConfigurationError, GraphJobsError
from graphjobs.jobs.endings import Ending
from graphjobs.jobs.rows import AnyJob
from graphjobs.jobs.status import GraphJobStatus, GraphJobType
from graphjobs.storage import Storage
from graphjobs.worker.counts import Counts
from graphjobs.worker.handlers import BuildHandler, Handlers, JobContext, OverlayHandler
from graphjobs.worker.options import Backoff, WorkerOptions, batches_of, jittered
from graphjobs.worker.rescuer import Rescuer
from graphjobs.worker.rotation import Rotation
from graphjobs.worker.running import Running
from graphjobs.worker.writer import Writer

FAREWELL: Final = timedelta(seconds=10)
"""How long a worker that stops tries to write what has ended."""

_RESTS_TIMES: Final = 9
_JOBS_NAMED_MAX: Final = 100
_RENEWALS_A_LEASE: Final = 4

_log = logging.getLogger(__name__)
T = TypeVar("T")


class GraphJobWorker:
    """Runs handlers for queued jobs, each once, beside any number of other workers.

    A job it claims is its own as long as it runs at that attempt: another worker can take it only after its heartbeat
    has stopped for a lease, and then it can no longer end it. What a handler returns completes the job; what it raises
    fails it.

    Args:
        storage: where the jobs are.
        build: awaited with each build job and its context, returns a `BuildResult`. None leaves builds to others.
        overlay: awaited with each overlay job and its context, returns an `OverlayResult` or None.
        options: how it works; the defaults are `WorkerOptions()`.
        on_ended: called with each ending once it is in the database; it should return at once. What it raises is only
            logged.

    Raises:
        ConfigurationError: there is no handler, or an option is out of its bounds.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        build: BuildHandler | None = None,
        overlay: OverlayHandler | None = None,
        options: WorkerOptions | None = None,
        on_ended: Callable[[Ending], None] = lambda _ending: None,
    ) -> None:
        self.options = options or WorkerOptions()
        self._storage = storage
        self._queue = storage.graph_job_queue
        self._handlers = Handlers(build=build, overlay=overlay)
        self._on_ended = on_ended
        self._counts = Counts()
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._grace = self.options.grace
        self._rotations = {kind: Rotation(self._queue, kind, self.options.tenant) for kind in self._handlers.kinds}
        self._first = 0
        self._plenty: set[GraphJobType] = set()
        self._failure: BaseException | None = None
        self._work: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None]
        self._running = Running(
            self._handlers, self.options.time_limit, self._handler_is_broken, self._torn_down, self._job_ended
        )
        self._writer = Writer(self._queue, self.options.name, self.options.batch, self._written)

    @property
    def counts(self) -> Counts:
        """What it has done so far."""
        return replace(self._counts)

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
            raise ConfigurationError("a worker runs once: make another one")
        self._work = asyncio.ensure_future(self._run(until_empty))
        try:
            await asyncio.shield(self._work)
        except asyncio.CancelledError:
            self.stop(grace=timedelta(0))
            await waited_for(self._work)
            raise

    async def _run(self, until_empty: bool) -> None:
        options = self.options
        _log.info("worker %s works on %s", options.name, ", ".join(self._handlers.kinds))
        self._writing = self._aside(self._writer.run())
        aside = [self._aside(self._renew_for_ever())]
        if options.rescue:
            rescuer = Rescuer(self._queue, self.options, self._handlers.kinds, self._counts, self._woken.set)
            aside.append(self._aside(rescuer.run()))
        if options.listen:
            aside.append(self._aside(self._storage.listen(self._heard)))
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
                claimed = await self._claim_of_each_kind()
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

    async def _claim_of_each_kind(self) -> int:
        """Claims of each kind in turns, another one first each time; gives how many."""
        kinds, number = self._handlers.kinds, 0
        self._first = (self._first + 1) % len(kinds)
        for kind in (*kinds[self._first :], *kinds[: self._first]):
            number += await self._claim_of_kind(kind)
        return number

    async def _claim_of_kind(self, kind: GraphJobType) -> int:
        """Claims a batch; two at once where there was plenty last time, for then the server and we both work."""
        room, batch = self._room(), self.options.batch
        limits = [min(room, batch)] if room else []
        if kind in self._plenty and room >= 2 * batch:
            limits.append(batch)
        if self._stopping.is_set():
            return 0
        # Each to its end, whatever becomes of the other: what it takes is ours.
        claims = await asyncio.gather(*(self._claim(kind, limit) for limit in limits), return_exceptions=True)
        numbers: list[int] = []
        for claim in claims:
            if isinstance(claim, BaseException):
                raise claim
            numbers.append(claim)
        if limits and numbers[0] == limits[0]:
            self._plenty.add(kind)
        else:
            self._plenty.discard(kind)
        return sum(numbers)

    async def _claim(self, kind: GraphJobType, limit: int) -> int:
        options, rotation = self.options, self._rotations[kind]
        while True:
            tenants, just_read = await rotation.next_turn(limit)
            if not tenants:
                return 0
            claimed = await self._queue.claim(tenants, kind, limit=limit, actor=options.name)
            number = len(claimed.jobs) + len(claimed.unreadable)
            if number < limit:
                rotation.look_again()
            # Nothing of those who waited a moment ago: somebody else may wait by now, and only a new list tells.
            if number or just_read:
                break
        self._counts.claimed += number
        self._counts.unreadable += len(claimed.unreadable)
        for error in claimed.unreadable:
            _log.error("a claimed job cannot be read, and was failed: %s", error, extra={"job": str(error.row_id)})
        for job in claimed.jobs:
            if self._stopping.is_set():
                self._writer.add(Ending.given_back(job))
            else:
                context = JobContext(job, self._storage.graph_jobs, self._queue, options.name)
                self._running.start(job, context)
        return number

    def _handler_is_broken(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self.stop(grace=timedelta(0))

    def _job_ended(self, job: AnyJob, ending: Ending | None) -> None:
        self._woken.set()
        if ending is None:
            self._counts.lost += 1
            about = {"job": str(job.id), "tenant": job.tenant_id, "attempts": job.attempts}
            _log.warning("%s job %s was lost: canceled, or another attempt of it", job.type, job.id, extra=about)
        else:
            self._writer.add(ending)

    def _written(self, ending: Ending, problem: str | None) -> None:
        job = ending.job
        about = {"job": str(job.id), "tenant": job.tenant_id, "attempts": job.attempts}
        self._woken.set()
        if problem is not None:
            self._counts.lost += 1
            _log.warning("%s job %s was lost: %s", job.type, job.id, problem, extra=about)
            return
        match ending.status:
            case GraphJobStatus.COMPLETED:
                self._counts.completed += 1
            case GraphJobStatus.FAILED:
                self._counts.failed += 1
                _log.info("%s job %s failed: %.200s", job.type, job.id, ending.error, extra=about)
            case _:
                self._counts.given_back += 1
                _log.info("%s job %s was given back", job.type, job.id, extra=about)
        try:
            self._on_ended(ending)
        except Exception:  # noqa: BLE001  # whatever it does, the job has ended, and the others will
            _log.exception("the observer of ended jobs failed at job %s", job.id, extra=about)

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
        self._running.give_back()
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
            renewed = await self._queue.renew(batch)
            for job in batch:
                if job.id in renewed.versions:
                    self._running.saw(job, renewed.versions[job.id])
                elif job.id in renewed.lost:
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
