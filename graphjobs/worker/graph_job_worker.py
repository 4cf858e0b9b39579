"""The worker of graph jobs: what it claims, of whom in turns, and what it counts; `engine` has the loops."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from uuid import UUID

from typing_extensions import override

from graphjobs.core.results import RescueResult, StalledItem
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.storage import Storage
from graphjobs.worker.base_worker import Engine
from graphjobs.worker.handler_runner import about
from graphjobs.worker.handlers import BuildHandler, Handlers, JobContext, OverlayHandler, handled
from graphjobs.worker.options import WorkerOptions
from graphjobs.worker.rescuer import Rescuer
from graphjobs.worker.stats import Counts
from graphjobs.worker.tenant_rotation import Rotation

_log = logging.getLogger(__name__)


class GraphJobWorker(Engine[AnyJob, AttemptResult, Counts]):
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
        on_ended: Callable[[AttemptResult], None] = lambda _ending: None,
    ) -> None:
        given = options or WorkerOptions()
        self._storage = storage
        self._queue = storage.graph_job_queue
        self._handlers = Handlers(build=build, overlay=overlay)
        super().__init__(
            self._queue,
            given,
            Counts(),
            works_on=", ".join(self._handlers.kinds),
            work=partial(handled, self._handlers),
            on_ended=on_ended,
            listen=storage.listen,
        )
        self._rotations = {kind: Rotation(self._queue, kind, given.tenant) for kind in self._handlers.kinds}
        self._first = 0
        self._plenty: set[GraphJobType] = set()
        self._looked_to: dict[GraphJobType, str] = {}

    @override
    async def _claim_some(self) -> int:
        return await self._claim_of_each_kind()

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
        self._tally.claimed += number
        self._tally.unreadable += len(claimed.unreadable)
        for error in claimed.unreadable:
            _log.error("a claimed job cannot be read, and was failed: %s", error, extra={"job": str(error.row_id)})
        for job in claimed.jobs:
            if self._stopping.is_set():
                self._writer.add(AttemptResult.released(job))
            else:
                context = JobContext(job, self._storage.graph_jobs, self._queue, options.name)
                self._running.start(job, context)
        return number

    @override
    async def _heartbeat(self, jobs: Sequence[AnyJob]) -> tuple[Sequence[AnyJob], Collection[UUID]]:
        renewed = await self._queue.renew(jobs)
        versions = renewed.versions
        return [job.stored(updated_at=versions[job.id]) for job in jobs if job.id in versions], renewed.lost

    @override
    def _rescuer(self) -> Rescuer:
        looks = [partial(self._stalled, kind) for kind in self._handlers.kinds]
        return Rescuer(looks, self._rescue, self.options, self._tally, self._woken.set)

    async def _stalled(self, kind: GraphJobType) -> tuple[StalledItem, ...]:
        options, after = self.options, self._looked_to.get(kind, "")
        seen, self._looked_to[kind] = await self._queue.stalled(options.tenant, kind, lease=options.lease, after=after)
        return seen

    async def _rescue(self, sightings: Sequence[StalledItem]) -> RescueResult:
        options = self.options
        return await self._queue.rescue(sightings, attempts_max=options.attempts_max, actor=options.name)

    @override
    def _given_back(self, job: AnyJob) -> AttemptResult:
        return AttemptResult.released(job)

    @override
    def _failed(self, job: AnyJob, reason: str) -> AttemptResult:
        return AttemptResult.failed(job, reason)

    @override
    def _refused(self, job: AnyJob, reason: str) -> AttemptResult:
        return AttemptResult.failed(job, reason)

    @override
    def _called(self, job: AnyJob) -> str:
        return f"{job.type} job {job.id}"

    @override
    def _count(self, ending: AttemptResult) -> None:
        called = self._called(ending.job)
        match ending.status:
            case GraphJobStatus.COMPLETED:
                self._tally.completed += 1
            case GraphJobStatus.FAILED:
                self._tally.failed += 1
                _log.info("%s failed: %.200s", called, ending.error, extra=about(ending.job))
            case _:
                self._tally.given_back += 1
                _log.info("%s was given back", called, extra=about(ending.job))
