"""The use cases of policy runs: ask for one, cancel, end, retry, simulate, tell how the queue stands; knows no HTTP."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self

from pydantic import model_validator

from graphjobs.core.fields import METADATA_ENTRIES_MAX, REASON_LENGTH_MAX, FrozenModel, Name, Reason, invariant_error
from graphjobs.core.pagination import PAGE_DEFAULT, BoundedCount
from graphjobs.errors import IdempotencyConflict, InvalidJob, JobConflict, JobNotFound
from graphjobs.policy_runs.filters import METRICS_WINDOW, PolicyRunCollection, PolicyRunMetrics
from graphjobs.policy_runs.models import PolicyRunJob, PolicyRunRequest
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunStatus

Status = PolicyRunStatus

RETRY_OF: Final = "retryOf"
"""In the metadata of a run: the name of the one it is a retry of."""

_CAS_RETRIES_MAX: Final = 8


def _utc_now() -> datetime:
    return datetime.now(UTC)


class PolicyRunCompletion(FrozenModel):
    """Tells how a submitted run has ended.

    Attributes:
        run_id: the asker's own name of the run.
        status: completed, failed, or canceled.
        error: why it failed; a failed run needs it. Any text: it is cleaned, and cut to 4,000 characters.
    """

    run_id: Name
    status: Literal["completed", "failed", "canceled"]
    error: Reason | None = None

    @model_validator(mode="after")
    def _check_status_fields(self) -> Self:
        if (self.status == "failed") != (self.error is not None):
            raise invariant_error("a failed run needs an error, and no other takes one")
        return self

    def apply_to(self, run: PolicyRunJob, *, at: datetime) -> PolicyRunJob:
        """Gives the run as it ends.

        Raises:
            IllegalTransition: it is not submitted.
        """
        if self.error is not None:
            return run.fail(at=at, error=self.error)
        return run.complete(at=at) if self.status == "completed" else run.cancel(at=at)


class PolicyRunService:
    """What a scheduler's services ask of policy runs, on any `PolicyRunRepository`.

    A run is named by its asker's `run_id`. Every method raises `InvalidJob` for an argument that cannot be, and what
    the repository raises; `OutcomeUnknown` says that the same call can be made again: none does anything twice, if it
    is given a `run_id` where it takes one.

    Args:
        runs: where the runs are.
        now: the clock of what a move says of time.
    """

    def __init__(self, runs: PolicyRunRepository, *, now: Callable[[], datetime] = _utc_now) -> None:
        self._runs = runs
        self._now = now

    async def enqueue(self, request: PolicyRunRequest, *, actor: str | None = None) -> PolicyRunJob:
        """Adds a pending run; with a `run_id`, once, however often and by however many it is asked for.

        Args:
            request: what for.
            actor: who asked, for the event.

        Returns:
            The run: as it was added, or as it now is where the tenant has one of this `run_id`.

        Raises:
            IdempotencyConflict: the `run_id` was used for another request; who it was requested by does not matter.
        """
        asked = _require(request, PolicyRunRequest, "request")
        now = self._now()
        made = dict.fromkeys(("created_at", "available_at", "updated_at"), now)
        run = asked.to_run(**made, queued_at=asked.queued_at or now)
        found = await self._runs.insert(run, actor=actor)
        # Whoever asks, and under whose name, it is the same that is asked for.
        same = {**found.spec(), "requested_by": None} == {**run.spec(), "requested_by": None}
        if not (same and asked.queued_at in (None, found.queued_at)):
            raise IdempotencyConflict(run.run_id, what="run id")
        return found

    async def get(self, tenant_id: str, run_id: str) -> PolicyRunJob | None:
        """Reads a run; None where the tenant has none of this name."""
        return await self._runs.get_by_run_id(tenant_id, run_id)

    async def list(
        self,
        tenant_id: str,
        policy_id: str | None = None,
        mode: PolicyRunMode | str | None = None,
        statuses: Iterable[PolicyRunStatus | str] = (),
        queued_after: datetime | None = None,
        limit: int = PAGE_DEFAULT,
        cursor: str | None = None,
    ) -> PolicyRunCollection:
        """Reads one page of a tenant's runs, newest first; see `PolicyRunRepository.list`."""
        return await self._runs.list(tenant_id, policy_id, mode, statuses, queued_after, limit, cursor)

    async def count(
        self,
        tenant_id: str,
        policy_id: str | None = None,
        mode: PolicyRunMode | str | None = None,
        statuses: Iterable[PolicyRunStatus | str] = (),
        queued_after: datetime | None = None,
    ) -> BoundedCount:
        """Counts a tenant's runs; see `PolicyRunRepository.count`."""
        return await self._runs.count(tenant_id, policy_id, mode, statuses, queued_after)

    async def request_cancellation(
        self, tenant_id: str, run_id: str, *, reason: str | None = None, actor: str | None = None
    ) -> PolicyRunJob:
        """Asks for the end of a run, as often as one likes; the first time counts.

        A pending run is canceled at once. One that is dispatched is when its holder next asks, at the latest with his
        next heartbeat; one that was submitted when whoever runs it looks, and says so by `complete`.

        Args:
            tenant_id: whose run.
            run_id: which.
            reason: why; any text of up to 1,048,576 characters, which is cleaned and cut to 4,000.
            actor: who asks, for the event.

        Returns:
            The run as it now is.

        Raises:
            JobNotFound: the tenant has no such run.
            JobConflict: the run is completed or failed.
        """
        why = _check_reason(reason)
        for _ in range(_CAS_RETRIES_MAX):
            run = await self._read(tenant_id, run_id)
            if run.status is Status.CANCELED or (run.cancellation_requested and not run.status.is_final):
                return run
            if run.status.is_final:
                raise JobConflict(
                    f"the run is {run.status} already, so it cannot be canceled", job_id=run.id, status=run.status
                )
            asked = run.request_cancellation(at=self._now(), reason=why)
            result = await self._runs.replace(asked, run.lease_owner, actor=actor)
            if result.job is not None and result.applied:
                return result.job
        raise _contention_error(run)

    async def complete(
        self, tenant_id: str, completion: PolicyRunCompletion, *, actor: str | None = None
    ) -> PolicyRunJob:
        """Takes the word of whoever runs a run that it has ended. Repeated, late and early calls are harmless.

        An early one comes before its dispatcher has noted the hand-over: the run is submitted by this word, and ended.

        Returns:
            The run as it ended; one that was final before is given as it is, whatever the call says.

        Raises:
            JobNotFound: the tenant has no such run.
            JobConflict: the run is pending: nobody has taken it, or it has been given back, and is handed over again.
        """
        given = _require(completion, PolicyRunCompletion, "completion")
        for _ in range(_CAS_RETRIES_MAX):
            run = await self._read(tenant_id, given.run_id)
            if run.status.is_final:
                return run
            if run.status is Status.PENDING:
                raise JobConflict(
                    "the run is pending: it is handed over first, or again, so say it then",
                    job_id=run.id,
                    status=run.status,
                )
            early = run.status is Status.DISPATCHING
            moved = run.submit(at=self._now()) if early else given.apply_to(run, at=self._now())
            result = await self._runs.replace(moved, run.lease_owner, actor=actor)
            if result.job is not None and result.applied and not early:
                return result.job
        raise _contention_error(run)

    async def retry(
        self, tenant_id: str, run_id: str, *, new_run_id: str | None = None, actor: str | None = None
    ) -> PolicyRunJob:
        """Asks again for what a run that has ended was asked for: a new run, whose metadata name the old one.

        Args:
            tenant_id: whose run.
            run_id: which.
            new_run_id: the new one's name; asked again with it, there is one. None makes a new run each time.
            actor: who asks, for the event.

        Raises:
            JobNotFound: the tenant has no such run.
            JobConflict: it has not ended; or it has 64 metadata, so that none more can name it.
            IdempotencyConflict: the new name was used for another request.
        """
        run = await self._read(tenant_id, run_id)
        if not run.status.is_final:
            raise JobConflict(
                f"the run is {run.status}: it can be retried once it has ended", job_id=run.id, status=run.status
            )
        metadata = {**run.metadata, RETRY_OF: run.run_id}
        if len(metadata) > METADATA_ENTRIES_MAX:
            raise JobConflict(
                f"the run has {len(run.metadata)} metadata, and a retry needs one more to name it: ask for a new run",
                job_id=run.id,
                status=run.status,
            )
        spec = {**run.spec(), "metadata": metadata}
        return await self.enqueue(PolicyRunRequest(tenant_id=tenant_id, run_id=new_run_id, **spec), actor=actor)

    async def simulate(self, request: PolicyRunRequest, *, actor: str | None = None) -> PolicyRunJob:
        """As `enqueue`, whatever the request's mode: nothing that counts comes of it."""
        return await self.enqueue(
            _require(request, PolicyRunRequest, "request").replace(mode=PolicyRunMode.SIMULATE), actor=actor
        )

    async def metrics(self, tenant_id: str, *, window: timedelta = METRICS_WINDOW) -> PolicyRunMetrics:
        """Tells how a tenant's queue stands, and how long runs take; see `PolicyRunRepository.metrics`."""
        return await self._runs.metrics(tenant_id, window=window)

    async def _read(self, tenant_id: str, run_id: str) -> PolicyRunJob:
        run = await self._runs.get_by_run_id(tenant_id, run_id)
        if run is None:
            raise JobNotFound(tenant_id, run_id, what="policy run")
        return run


def _require(value: Any, kind: type[Any], field: str) -> Any:
    if isinstance(value, kind):
        return value
    raise InvalidJob(f"{field}: it should be a {kind.__name__}, not {type(value).__name__}", field=field)


def _check_reason(reason: object) -> str | None:
    if reason is None or (isinstance(reason, str) and len(reason) <= REASON_LENGTH_MAX):
        return reason
    raise InvalidJob(f"reason: it should be text of up to {REASON_LENGTH_MAX:,} characters", field="reason")


def _contention_error(run: PolicyRunJob) -> JobConflict:
    return JobConflict(
        f"the run changed {_CAS_RETRIES_MAX} times while it was looked at; ask again", job_id=run.id, status=run.status
    )
