"""The dispatcher of policy runs: leases, retries of attempts, and the counters."""

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
from graphjobs.worker.base_worker import BaseWorker
from graphjobs.worker.context import Context, accepts_job_and_context, call_handler, retry_until_available
from graphjobs.worker.error_texts import Redact, logged_text, stored_text
from graphjobs.worker.handler_runner import log_fields
from graphjobs.worker.options import WorkerOptions
from graphjobs.worker.rescuer import Rescuer
from graphjobs.worker.stats import DispatcherStats

_BACKOFF: Final = RetryBackoff()
_log = logging.getLogger(__name__)


class PolicyRunRejected(Exception):  # it says what happened, as the names of the other errors
    """The policy engine rejects the run, and another attempt would not help; raised by a dispatch function."""


class DispatchContext(Context[PolicyRunJob]):
    """The state of one attempt, for a dispatch function.

    Attributes:
        job: the current value of the run.
        is_final_attempt: whether this is the last attempt: if it fails, the run fails.
        cancelled: True if the result is no longer needed: a cancellation was requested, the lease is lost, the time
            limit is exceeded, or the grace period of the dispatcher is over. The task is cancelled, too; this attribute
            is for work that a cancellation does not reach.
        stopping: True after the request to stop.
    """

    def __init__(self, job: PolicyRunJob, queue: PolicyRunQueue, lease: timedelta, *, is_final_attempt: bool) -> None:
        super().__init__(job)
        self._queue = queue
        self._lease = lease
        self.is_final_attempt = is_final_attempt

    async def renew(self) -> bool:
        """Send a heartbeat now; the dispatcher sends four per lease by itself.

        Returns:
            False if the result is no longer needed: a cancellation was requested, or the lease is lost.
        """
        renewed = await retry_until_available(lambda: self._queue.renew([self._job], self._lease))
        for job in renewed.runs:
            self._job = job
        self.cancelled = self.cancelled or bool(renewed.lost) or self._job.cancellation_requested
        return not self.cancelled

    @override
    def _newer(self, job: PolicyRunJob, version: datetime) -> PolicyRunJob:
        """Return the whole new value: a heartbeat also returns the end of the lease and a cancellation request."""
        return job


Dispatch: TypeAlias = Callable[[PolicyRunJob, DispatchContext], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherOptions(WorkerOptions):
    """The options of a dispatcher; see `WorkerOptions` for the others.

    Attributes:
        name: the name of the dispatcher: the owner of its leases, and the actor in the events of runs.
        attempts_max: a run that fails at this attempt is failed; released attempts do not count.
        backoff: the wait before the next attempt of a run.

    Raises:
        ConfigurationError: an option is out of its bounds; the error names it.
    """

    attempts_max: int = 5
    time_limit: timedelta = timedelta(minutes=1)
    backoff: RetryBackoff = field(default=_BACKOFF)

    def __post_init__(self) -> None:
        WorkerOptions.__post_init__(self)  # super() fails in a dataclass with slots
        if not isinstance(self.backoff, RetryBackoff):
            raise ConfigurationError("backoff must be a RetryBackoff")


class PolicyRunDispatcher(BaseWorker[PolicyRunJob, LeaseResult, DispatcherStats]):
    """Leases pending policy runs, and calls a dispatch function for each. Any number of dispatchers may run at once.

    A dispatcher owns a run until the lease ends, and renews the lease several times before that. If the dispatch
    function returns, the run is submitted. If it raises or exceeds the time limit, the attempt has failed: the run is
    released and leased again after a wait that grows with each attempt, until no attempt is left. A run with a
    cancellation request is canceled at the next heartbeat: the task of the function is cancelled. A function that
    returns after its cancellation, or after its context reported that the result is not needed, has not submitted the
    run.

    Args:
        storage: the storage of the runs.
        dispatch: awaited with each run and its context; its return value is ignored.
        options: the options; the defaults are `DispatcherOptions()`.
        on_ended: called with each result after it is stored; it should return at once. Its exceptions are only logged.

    Raises:
        ConfigurationError: `dispatch` does not accept a run and its context, or an option is out of its bounds.
    """

    options: DispatcherOptions

    def __init__(
        self,
        storage: Storage,
        dispatch: Dispatch,
        *,
        options: DispatcherOptions | None = None,
        on_ended: Callable[[LeaseResult], None] = lambda _result: None,
    ) -> None:
        if not accepts_job_and_context(dispatch):
            raise ConfigurationError("dispatch must be an `async def` function of a run and its context")
        self._dispatch = dispatch
        self._queue = storage.policy_run_queue
        self._cursors = TenantCursors()
        self._final_attempts: set[tuple[UUID, int]] = set()
        super().__init__(
            self._queue,
            options or DispatcherOptions(),
            DispatcherStats(),
            queue_name="policy runs",
            on_ended=on_ended,
            listen=storage.listen,
        )

    @override
    async def run_handler(self, job: PolicyRunJob, context: DispatchContext) -> LeaseResult:
        return await run_dispatch(self._dispatch, job, context, redact=self.options.redact)

    @override
    async def _claim_batch(self) -> int:
        options = self.options
        limit = min(self._free_slots(), options.batch)
        return await self._claim_of(options.tenant, limit, apart_after=options.apart_after)

    async def _claim_of(self, tenant: str | None, limit: int, *, apart_after: int | None) -> int:
        options = self.options
        batch = await self._queue.lease(
            options.name,
            options.lease,
            attempts_max=options.attempts_max,
            limit=limit,
            tenant_id=tenant,
            after=self._cursors,
            apart_after=apart_after,
        )
        self._cursors = batch.cursors
        for apart in batch.apart:
            self._apart[apart] = partial(self._claim_of, apart, 1, apart_after=None)
        number = len(batch.runs) + len(batch.exhausted) + len(batch.unreadable) + len(batch.lost)
        self._stats.leased += number
        self._stats.exhausted += len(batch.exhausted)
        self._stats.unreadable += len(batch.unreadable)
        self._count_lost_claims(batch.lost)
        for error in batch.unreadable:
            extra = {"job": str(error.row_id)}
            _log.error("a leased run is unreadable and was failed: %s", logged_text(error), extra=extra)
        for run in batch.runs:
            if self._stopping.is_set():
                self._completer.add(LeaseResult.released(run))
                continue
            is_final = run.id in batch.final_attempt_ids
            if is_final:
                self._final_attempts.add((run.id, run.attempts))
            self._runner.start(run, DispatchContext(run, self._queue, options.lease, is_final_attempt=is_final))
        return number

    @override
    async def _heartbeat(self, jobs: Sequence[PolicyRunJob]) -> tuple[Sequence[PolicyRunJob], Collection[UUID]]:
        renewed = await self._queue.renew(jobs, self.options.lease)
        for run in renewed.runs:
            if run.cancellation_requested:
                self._runner.cancel_with(run, LeaseResult.canceled(run))
        return renewed.runs, renewed.lost

    @override
    def _rescuer(self) -> Rescuer:
        return Rescuer(
            [self._find_expired, self._bring_forward], self._rescue, self.options, self._stats, self._wake.set
        )

    async def _find_expired(self, after: str) -> tuple[Sequence[StalledItem], str]:
        return await self._queue.expired(tenant_id=self.options.tenant, after=after)

    async def _bring_forward(self, after: str) -> tuple[Sequence[StalledItem], str]:
        options = self.options
        while True:
            number, cursor = await self._queue.bring_forward(options.lease, tenant_id=options.tenant, after=after)
            if not number:
                return (), cursor
            _log.warning(
                "%s pending runs waited because the server's clock was ahead; they are brought forward", number
            )
            self._wake.set()

    async def _rescue(self, items: Sequence[StalledItem]) -> RescueResult:
        options = self.options
        return await self._queue.rescue(
            items, attempts_max=options.attempts_max, backoff=options.backoff, actor=options.name
        )

    @override
    def released_result(self, job: PolicyRunJob) -> LeaseResult:
        return LeaseResult.released(job)

    @override
    def failed_result(self, job: PolicyRunJob, reason: str) -> LeaseResult:
        if (job.id, job.attempts) in self._final_attempts:
            return LeaseResult.failed(job, reason)
        return LeaseResult.released(job, delay=self.options.backoff.after(job.attempts), error=reason)

    @override
    def _unstorable(self, job: PolicyRunJob, reason: str) -> LeaseResult:
        return LeaseResult.failed(job, reason)

    @override
    def describe(self, job: PolicyRunJob) -> str:
        return f"policy run {job.run_id!r}"

    @override
    def on_finished(self, job: PolicyRunJob, result: LeaseResult | None) -> None:
        self._final_attempts.discard((job.id, job.attempts))
        super().on_finished(job, result)

    @override
    def _count(self, result: LeaseResult) -> None:
        name, extra = self.describe(result.job), log_fields(result.job)
        match result.status:
            case PolicyRunStatus.SUBMITTED:
                self._stats.submitted += 1
            case PolicyRunStatus.CANCELED:
                self._stats.canceled += 1
                _log.info("%s was canceled", name, extra=extra)
            case PolicyRunStatus.FAILED:
                self._stats.failed += 1
                _log.warning("%s failed: %s", name, logged_text(result.error), extra=extra)
            case _ if result.error is not None:
                self._stats.retried += 1
                seconds, reason = result.delay.total_seconds(), logged_text(result.error)
                _log.info("%s gets another attempt in %.1f s: %s", name, seconds, reason, extra=extra)
            case _:
                self._stats.released += 1
                _log.info("%s was released", name, extra=extra)


async def run_dispatch(
    dispatch: Dispatch, job: PolicyRunJob, context: DispatchContext, *, redact: Redact | None = None
) -> LeaseResult:
    """Run a dispatch function, and return the result of the lease.

    Raises:
        Exception: any exception of the function, except `PolicyRunRejected`.
    """
    if job.cancellation_requested:
        return LeaseResult.canceled(job)
    try:
        await call_handler(lambda: dispatch(job, context), "dispatch")
    except PolicyRunRejected as error:
        return LeaseResult.failed(job, stored_text(error, redact))
    # A function that returns after its cancellation may not have submitted the run. A run that is submitted twice does
    # no harm; a run marked as submitted without a submission would never be evaluated.
    if context.job.cancellation_requested:
        return LeaseResult.canceled(job)
    if context.cancelled:
        message = f"the dispatch of {job.run_id!r} was cancelled before it ended"
        raise JobConflict(message, job_id=job.id, status=job.status)
    return LeaseResult.submitted(job)
