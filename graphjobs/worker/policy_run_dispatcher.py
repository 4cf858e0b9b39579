"""The dispatcher of policy runs: what it leases, how attempts are tried again, and what it counts; see `engine`."""

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeAlias
from uuid import UUID

from typing_extensions import override

from graphjobs.core.results import RescueResult, StalledItem
from graphjobs.errors import ConfigurationError, JobConflict
from graphjobs.policy_runs.attempt_results import LeaseResult, RetryBackoff, TenantCursors
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.queue import PolicyRunQueue
from graphjobs.policy_runs.status import PolicyRunStatus
from graphjobs.storage import Storage
from graphjobs.worker.base_worker import Engine
from graphjobs.worker.context import Context, awaited, patiently, takes_two
from graphjobs.worker.handler_runner import about, told
from graphjobs.worker.options import WorkerOptions
from graphjobs.worker.rescuer import Rescuer
from graphjobs.worker.stats import DispatchCounts

Status = PolicyRunStatus

_BACKOFF: Final = RetryBackoff()
_log = logging.getLogger(__name__)


class PolicyRunRejected(Exception):  # what has happened, as the errors of graphjobs are named
    """Raised by a user's function: whoever runs policies refuses this run, and no other attempt would help."""


class DispatchContext(Context[PolicyRunJob]):
    """What a user's function knows of its attempt, and can do about it.

    Attributes:
        job: the run as it now is.
        last: whether this is the last attempt: should it fail, the run has failed.
        cancelled: True once nobody waits for the result: its end was asked for, the lease is somebody else's, its time
            is up, or the dispatcher's grace is over. The task is cancelled too; this is for what runs elsewhere.
        stopping: True once the dispatcher was told to stop.
    """

    def __init__(self, job: PolicyRunJob, runs: PolicyRunQueue, lease: timedelta, *, last: bool) -> None:
        super().__init__(job)
        self._runs = runs
        self._lease = lease
        self.last = last

    async def renew(self) -> bool:
        """Tells at once that the run is being dispatched; the dispatcher does so by itself, a few times a lease.

        Returns:
            False where nobody waits for the result: its end was asked for, or the lease is somebody else's.
        """
        renewed = await patiently(lambda: self._runs.renew([self._job], self._lease))
        for job in renewed.runs:
            self._job = job
        self.cancelled = self.cancelled or bool(renewed.lost) or self._job.cancellation_requested
        return not self.cancelled

    @override
    def _newer(self, job: PolicyRunJob, version: datetime) -> PolicyRunJob:
        """It moves the end of the lease, too, and tells whether the end of the run was asked for."""
        return job


Dispatch: TypeAlias = Callable[[PolicyRunJob, DispatchContext], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherOptions(WorkerOptions):
    """How a dispatcher works; see `WorkerOptions` for what it has in common with a worker.

    Attributes:
        name: who it is: the owner of its leases, and in the events of runs.
        attempts_max: a run that has failed at this attempt has failed; attempts that were given back in order do not
            count.
        backoff: how long a run waits for its next attempt.

    Raises:
        ConfigurationError: an option is out of its bounds; it is named.
    """

    attempts_max: int = 5
    time_limit: timedelta = timedelta(minutes=1)
    backoff: RetryBackoff = field(default=_BACKOFF)

    def __post_init__(self) -> None:
        WorkerOptions.__post_init__(self)  # super() knows no class made anew with slots
        if not isinstance(self.backoff, RetryBackoff):
            raise ConfigurationError("backoff: it should be a RetryBackoff")


class PolicyRunDispatcher(Engine[PolicyRunJob, LeaseResult, DispatchCounts]):
    """Leases pending policy runs, and hands each to a function of yours, beside any number of other dispatchers.

    A run that it leases is its own until the lease ends, and it renews that a few times before. A function that returns
    has handed the run over: it is submitted. One that raises, or takes too long, has failed this attempt: the run is
    given back and leased again later, each time after a longer wait, until its attempts are used up. A run whose end is
    asked for is canceled with the next heartbeat: the function's task is cancelled. One that was told so, or that its
    time is up, by its cancel or its context, and returns all the same, has handed nothing over.

    Args:
        storage: where the runs are.
        dispatch: awaited with each run and its context; what it returns is not looked at.
        options: how it works; the defaults are `DispatcherOptions()`.
        on_ended: called with each ending once it is in the database; it should return at once. What it raises is only
            logged.

    Raises:
        ConfigurationError: `dispatch` cannot be called with a run and its context, or an option is out of its bounds.
    """

    options: DispatcherOptions

    def __init__(
        self,
        storage: Storage,
        dispatch: Dispatch,
        *,
        options: DispatcherOptions | None = None,
        on_ended: Callable[[LeaseResult], None] = lambda _ending: None,
    ) -> None:
        if not takes_two(dispatch):
            raise ConfigurationError("dispatch: it should be an `async def` that takes a run and its context")
        self._queue = storage.policy_run_queue
        self._turns = TenantCursors()
        self._last: set[tuple[UUID, int]] = set()
        super().__init__(
            self._queue,
            options or DispatcherOptions(),
            DispatchCounts(),
            works_on="policy runs",
            work=partial(_dispatched, dispatch),
            on_ended=on_ended,
            listen=storage.listen,
        )

    @override
    async def _claim_some(self) -> int:
        options = self.options
        leased = await self._queue.lease(
            options.name,
            options.lease,
            attempts_max=options.attempts_max,
            limit=min(self._room(), options.batch),
            tenant_id=options.tenant,
            after=self._turns,
        )
        self._turns = leased.cursors
        number = len(leased.runs) + len(leased.exhausted) + len(leased.unreadable)
        self._tally.leased += number
        self._tally.exhausted += len(leased.exhausted)
        self._tally.unreadable += len(leased.unreadable)
        for error in leased.unreadable:
            _log.error("a leased run cannot be read, and was failed: %s", error, extra={"job": str(error.row_id)})
        for run in leased.runs:
            if self._stopping.is_set():
                self._writer.add(LeaseResult.released(run))
                continue
            last = run.id in leased.final_attempt_ids
            if last:
                self._last.add((run.id, run.attempts))
            self._running.start(run, DispatchContext(run, self._queue, options.lease, last=last))
        return number

    @override
    async def _heartbeat(self, jobs: Sequence[PolicyRunJob]) -> tuple[Sequence[PolicyRunJob], Collection[UUID]]:
        renewed = await self._queue.renew(jobs, self.options.lease)
        for run in renewed.runs:
            if run.cancellation_requested:
                self._running.end_instead(run, LeaseResult.canceled(run))
        return renewed.runs, renewed.lost

    @override
    def _rescuer(self) -> Rescuer:
        return Rescuer([self._expired], self._rescue, self.options, self._tally, self._woken.set)

    async def _expired(self) -> tuple[StalledItem, ...]:
        return await self._queue.expired(tenant_id=self.options.tenant)

    async def _rescue(self, sightings: Sequence[StalledItem]) -> RescueResult:
        options = self.options
        return await self._queue.rescue(
            sightings, attempts_max=options.attempts_max, backoff=options.backoff, actor=options.name
        )

    @override
    def _given_back(self, job: PolicyRunJob) -> LeaseResult:
        return LeaseResult.released(job)

    @override
    def _failed(self, job: PolicyRunJob, reason: str) -> LeaseResult:
        if (job.id, job.attempts) in self._last:
            return LeaseResult.failed(job, reason)
        return LeaseResult.released(job, delay=self.options.backoff.after(job.attempts), error=reason)

    @override
    def _refused(self, job: PolicyRunJob, reason: str) -> LeaseResult:
        return LeaseResult.failed(job, reason)

    @override
    def _called(self, job: PolicyRunJob) -> str:
        return f"policy run {job.run_id!r}"

    @override
    def _job_ended(self, job: PolicyRunJob, ending: LeaseResult | None) -> None:
        self._last.discard((job.id, job.attempts))
        super()._job_ended(job, ending)

    @override
    def _count(self, ending: LeaseResult) -> None:
        called, extra = self._called(ending.job), about(ending.job)
        match ending.status:
            case Status.SUBMITTED:
                self._tally.submitted += 1
            case Status.CANCELED:
                self._tally.canceled += 1
                _log.info("%s was canceled", called, extra=extra)
            case Status.FAILED:
                self._tally.failed += 1
                _log.warning("%s failed: %.200s", called, ending.error, extra=extra)
            case _ if ending.error is not None:
                self._tally.retried += 1
                seconds = ending.delay.total_seconds()
                _log.info("%s is tried again in %.1f s: %.200s", called, seconds, ending.error, extra=extra)
            case _:
                self._tally.given_back += 1
                _log.info("%s was given back", called, extra=extra)


async def _dispatched(dispatch: Dispatch, job: PolicyRunJob, context: DispatchContext) -> LeaseResult:
    """Runs a user's function, and gives how the lease ends by what becomes of it.

    Raises:
        Exception: whatever it raises, but for `PolicyRunRejected`.
    """
    if job.cancellation_requested:
        return LeaseResult.canceled(job)
    try:
        await awaited(lambda: dispatch(job, context), "dispatch")
    except PolicyRunRejected as error:
        return LeaseResult.failed(job, told(error))
    # Told to end, it returned: that is no word that anybody has the run. Handed over twice it does no harm; never, it
    # would be submitted for good.
    if context.job.cancellation_requested:
        return LeaseResult.canceled(job)
    if context.cancelled:
        gone = f"{job.run_id!r} was called off before it was handed over"
        raise JobConflict(gone, job_id=job.id, status=job.status)
    return LeaseResult.submitted(job)
