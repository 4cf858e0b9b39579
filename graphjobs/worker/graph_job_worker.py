"""The worker of graph jobs: claims per job type in tenant rotation, and the counters."""

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
from graphjobs.worker.base_worker import BaseWorker
from graphjobs.worker.error_texts import logged_text
from graphjobs.worker.handler_runner import log_fields
from graphjobs.worker.handlers import BuildHandler, Handlers, JobContext, OverlayHandler, run_handler
from graphjobs.worker.options import WorkerOptions
from graphjobs.worker.rescuer import Rescuer
from graphjobs.worker.stats import WorkerStats
from graphjobs.worker.tenant_rotation import TenantRotation

_log = logging.getLogger(__name__)


class GraphJobWorker(BaseWorker[AnyJob, AttemptResult, WorkerStats]):
    """Runs a handler for each queued job. Any number of workers may share the queue; each job runs in one of them.

    A worker owns a claimed job while the job runs at the claimed attempt. Another worker can take the job only after a
    lease without a heartbeat; then the first worker can no longer finish it. The return value of a handler completes
    the job, an exception fails it.

    Args:
        storage: the storage of the jobs.
        build: awaited with each build job and its context, returns a `BuildResult`. None leaves build jobs to other
            workers.
        overlay: awaited with each overlay job and its context, returns an `OverlayResult` or None. None leaves overlay
            jobs to other workers.
        options: the options; the defaults are `WorkerOptions()`.
        on_ended: called with each attempt result after it is stored; it should return at once. Its exceptions are only
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
        on_ended: Callable[[AttemptResult], None] = lambda _result: None,
    ) -> None:
        self._storage = storage
        self._queue = storage.graph_job_queue
        self._handlers = Handlers(build=build, overlay=overlay)
        job_types = self._handlers.job_types
        super().__init__(
            self._queue,
            options or WorkerOptions(),
            WorkerStats(),
            queue_name=", ".join(job_types),
            on_ended=on_ended,
            listen=storage.listen,
        )
        tenant = self.options.tenant
        self._rotations = {job_type: TenantRotation(self._queue, job_type, tenant) for job_type in job_types}
        self._first = 0
        self._saturated: set[GraphJobType] = set()

    @override
    async def run_handler(self, job: AnyJob, context: JobContext) -> AttemptResult:
        return await run_handler(self._handlers, job, context)

    @override
    async def _claim_batch(self) -> int:
        """Claim jobs of each type in rotation: each time another type is first."""
        job_types, claimed = self._handlers.job_types, 0
        self._first = (self._first + 1) % len(job_types)
        for job_type in (*job_types[self._first :], *job_types[: self._first]):
            claimed += await self._claim_type(job_type)
        return claimed

    async def _claim_type(self, job_type: GraphJobType) -> int:
        """Claim a batch, or two at once after a full one: then the server and the worker process overlap."""
        free, batch = self._free_slots(), self.options.batch
        limits = [min(free, batch)] if free else []
        if job_type in self._saturated and free >= 2 * batch:
            limits.append(batch)
        if self._stopping.is_set():
            return 0
        # If one claim fails, the other still has to finish: its jobs are owned by this worker.
        claims = await asyncio.gather(*(self._claim(job_type, limit) for limit in limits), return_exceptions=True)
        numbers: list[int] = []
        for claim in claims:
            if isinstance(claim, BaseException):
                raise claim
            numbers.append(claim)
        if limits and numbers[0] == limits[0]:
            self._saturated.add(job_type)
        else:
            self._saturated.discard(job_type)
        return sum(numbers)

    async def _claim(self, job_type: GraphJobType, limit: int) -> int:
        options, rotation = self.options, self._rotations[job_type]
        while True:
            tenants, just_read = await rotation.next_turn(limit)
            if not tenants:
                return 0
            number = await self._claim_of(tenants, job_type, limit, apart_after=options.apart_after)
            if number < limit:
                rotation.invalidate()
            # If a cached list of tenants yields no job, other tenants may wait by now: read the list again.
            if number or just_read:
                return number

    async def _claim_of(
        self, tenants: Sequence[str], job_type: GraphJobType, limit: int, *, apart_after: int | None
    ) -> int:
        options = self.options
        result = await self._queue.claim(tenants, job_type, limit=limit, actor=options.name, apart_after=apart_after)
        number = len(result.jobs) + len(result.unreadable) + len(result.lost)
        for tenant in result.apart:
            self._apart[tenant, job_type] = partial(self._claim_of, [tenant], job_type, 1, apart_after=None)
        self._stats.claimed += number
        self._stats.unreadable += len(result.unreadable)
        self._count_lost_claims(result.lost)
        for error in result.unreadable:
            extra = {"job": str(error.row_id)}
            _log.error("a claimed job is unreadable and was failed: %s", logged_text(error), extra=extra)
        for job in result.jobs:
            if self._stopping.is_set():
                self._completer.add(AttemptResult.released(job))
            else:
                context = JobContext(job, self._storage.graph_jobs, self._queue, options.name)
                self._runner.start(job, context)
        return number

    @override
    async def _heartbeat(self, jobs: Sequence[AnyJob]) -> tuple[Sequence[AnyJob], Collection[UUID]]:
        result = await self._queue.renew(jobs)
        versions = result.versions
        return [job.stored(updated_at=versions[job.id]) for job in jobs if job.id in versions], result.lost

    @override
    def _rescuer(self) -> Rescuer:
        scans = [partial(self._find_stalled, job_type) for job_type in self._handlers.job_types]
        return Rescuer(scans, self._rescue, self.options, self._stats, self._wake.set)

    async def _find_stalled(self, job_type: GraphJobType, after: str) -> tuple[Sequence[StalledItem], str]:
        options = self.options
        return await self._queue.stalled(options.tenant, job_type, lease=options.lease, after=after)

    async def _rescue(self, items: Sequence[StalledItem]) -> RescueResult:
        options = self.options
        return await self._queue.rescue(items, attempts_max=options.attempts_max, actor=options.name)

    @override
    def released_result(self, job: AnyJob) -> AttemptResult:
        return AttemptResult.released(job)

    @override
    def failed_result(self, job: AnyJob, reason: str) -> AttemptResult:
        return AttemptResult.failed(job, reason)

    @override
    def describe(self, job: AnyJob) -> str:
        return f"{job.type} job {job.id}"

    @override
    def _count(self, result: AttemptResult) -> None:
        name = self.describe(result.job)
        match result.status:
            case GraphJobStatus.COMPLETED:
                self._stats.completed += 1
            case GraphJobStatus.FAILED:
                self._stats.failed += 1
                _log.info("%s failed: %s", name, logged_text(result.error), extra=log_fields(result.job))
            case _:
                self._stats.released += 1
                _log.info("%s was released", name, extra=log_fields(result.job))
