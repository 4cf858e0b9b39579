"""The use cases of policy runs: enqueue, cancel, complete, retry, simulate, read the metrics. No HTTP here."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from graphjobs.core.fields import REASON_LENGTH_MAX, utc_now
from graphjobs.core.metadata import METADATA_BYTES_MAX, METADATA_ENTRIES_MAX, metadata_bytes
from graphjobs.core.pagination import BoundedCount
from graphjobs.core.update_retry import conflict, update_until_applied
from graphjobs.core.validation import check_type
from graphjobs.errors import IdempotencyConflict, InvalidJob, JobNotFound
from graphjobs.policy_runs.filters import METRICS_WINDOW, PolicyRunCollection, PolicyRunMetrics, PolicyRunQuery
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.requests import PolicyRunCompletion, PolicyRunRequest
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunStatus

Status = PolicyRunStatus

RETRY_OF: Final = "retryOf"
"""Key in the metadata of a retry: the run id of the earlier run."""


class PolicyRunService:
    """The use cases of policy runs, on any `PolicyRunRepository`.

    Runs are addressed by `run_id`. Every method raises `InvalidJob` for an invalid argument, and what the repository
    raises. After an `OutcomeUnknown` the same call can be repeated: no call does anything twice, if it is given a
    `run_id` where it takes one.

    Args:
        runs: the repository of the runs.
        now: the clock of the times of transitions.
    """

    def __init__(self, runs: PolicyRunRepository, *, now: Callable[[], datetime] = utc_now) -> None:
        self._runs = runs
        self._now = now

    async def enqueue(self, request: PolicyRunRequest, *, actor: str | None = None) -> PolicyRunJob:
        """Add a pending run; with a `run_id`, only once, however many callers request it.

        Args:
            request: the request.
            actor: who requests the run, for the event.

        Returns:
            The run as it was added, or as it is now where the tenant had a run of this `run_id`.

        Raises:
            IdempotencyConflict: the `run_id` was used for another request; `requested_by` is not compared.
        """
        check_type(request, PolicyRunRequest, "request")
        now = self._now()
        times = dict.fromkeys(("created_at", "available_at", "updated_at"), now)
        run = request.to_run(**times, queued_at=request.queued_at or now)
        stored = await self._runs.insert(run, actor=actor)
        is_same = {**stored.spec(), "requested_by": None} == {**run.spec(), "requested_by": None}
        if not (is_same and request.queued_at in (None, stored.queued_at)):
            raise IdempotencyConflict(run.run_id, what="run id")
        return stored

    async def get(self, tenant_id: str, run_id: str) -> PolicyRunJob | None:
        """Return a run; None where the tenant has no run of this `run_id`."""
        return await self._runs.get_by_run_id(tenant_id, run_id)

    async def list(self, tenant_id: str, query: PolicyRunQuery | None = None) -> PolicyRunCollection:
        """List one page of a tenant's runs, newest first; see `PolicyRunRepository.list`."""
        return await self._runs.list(tenant_id, query)

    async def count(self, tenant_id: str, query: PolicyRunQuery | None = None) -> BoundedCount:
        """Count a tenant's runs; see `PolicyRunRepository.count`."""
        return await self._runs.count(tenant_id, query)

    async def request_cancellation(
        self, tenant_id: str, run_id: str, *, reason: str | None = None, actor: str | None = None
    ) -> PolicyRunJob:
        """Request the cancellation of a run; a repeated request changes nothing.

        A pending run is canceled at once. A dispatching run is canceled when its holder learns of the request, at the
        latest with its next heartbeat. A submitted run is canceled when its policy engine reads the request and reports
        it with `complete`.

        Args:
            tenant_id: the tenant.
            run_id: the run id.
            reason: why; any text of up to 1,048,576 characters, which is sanitized and cut to 4,000.
            actor: who requests the cancellation, for the event.

        Returns:
            The run as it is now.

        Raises:
            JobNotFound: the tenant has no such run.
            JobConflict: the run is completed or failed.
        """
        reason = _check_reason(reason)

        async def request(run: PolicyRunJob) -> PolicyRunJob | None:
            if run.status is Status.CANCELED or (run.cancellation_requested and not run.status.is_final):
                return run
            if run.status.is_final:
                raise conflict(run, f"the run is already {run.status}, and final")
            return await self._replace(run, run.request_cancellation(at=self._now(), reason=reason), actor)

        return await update_until_applied(lambda: self._read(tenant_id, run_id), request)

    async def complete(
        self, tenant_id: str, completion: PolicyRunCompletion, *, actor: str | None = None
    ) -> PolicyRunJob:
        """Finish a submitted run, as the hook of a policy engine. Repeated, late and early calls are harmless.

        An early call arrives before the dispatcher has recorded the submission: it submits the run and finishes it,
        both or neither.

        Returns:
            The finished run. A run that was final before is returned unchanged, whatever the completion says.

        Raises:
            JobNotFound: the tenant has no such run.
            JobConflict: the run is pending: no engine has taken it, or it was released and will be submitted again.
        """
        check_type(completion, PolicyRunCompletion, "completion")

        async def complete(run: PolicyRunJob) -> PolicyRunJob | None:
            if run.status.is_final:
                return run
            if run.status is Status.PENDING:
                raise conflict(run, "the run is pending: complete it after it is submitted")
            now = self._now()
            submitted = run.submit(at=now) if run.status is Status.DISPATCHING else None
            return await self._replace(run, completion.apply_to(submitted or run, at=now), actor, through=submitted)

        return await update_until_applied(lambda: self._read(tenant_id, completion.run_id), complete)

    async def retry(
        self, tenant_id: str, run_id: str, *, new_run_id: str | None = None, actor: str | None = None
    ) -> PolicyRunJob:
        """Request a final run again: a new run with the same request, and the run id of the old one in its metadata.

        Args:
            tenant_id: the tenant.
            run_id: the run id of the final run.
            new_run_id: the run id of the new run; calls with the same one add one run. None adds a new run each time.
            actor: who requests the run, for the event.

        Raises:
            JobNotFound: the tenant has no such run.
            JobConflict: the run is not final; or `retryOf` does not fit its metadata.
            IdempotencyConflict: `new_run_id` was used for another request.
        """
        run = await self._read(tenant_id, run_id)
        if not run.status.is_final:
            raise conflict(run, f"the run is {run.status}: only a final run can be retried")
        metadata = {**run.metadata, RETRY_OF: run.run_id}
        if len(metadata) > METADATA_ENTRIES_MAX:
            problem = f"the run has {len(run.metadata)} metadata entries, and a retry adds one: request a new run"
            raise conflict(run, problem)
        if metadata_bytes(metadata) > METADATA_BYTES_MAX:
            problem = f"the metadata of a retry would exceed {METADATA_BYTES_MAX:,} bytes: request a new run"
            raise conflict(run, problem)
        spec = {**run.spec(), "metadata": metadata}
        return await self.enqueue(PolicyRunRequest(tenant_id=tenant_id, run_id=new_run_id, **spec), actor=actor)

    async def simulate(self, request: PolicyRunRequest, *, actor: str | None = None) -> PolicyRunJob:
        """Add a run of mode simulate, whatever the mode of the request; see `enqueue`."""
        check_type(request, PolicyRunRequest, "request")
        return await self.enqueue(request.replace(mode=PolicyRunMode.SIMULATE), actor=actor)

    async def metrics(self, tenant_id: str, *, window: timedelta = METRICS_WINDOW) -> PolicyRunMetrics:
        """Return the depth of a tenant's queue, and the latency of its runs; see `PolicyRunRepository.metrics`."""
        return await self._runs.metrics(tenant_id, window=window)

    async def _read(self, tenant_id: str, run_id: str) -> PolicyRunJob:
        run = await self._runs.get_by_run_id(tenant_id, run_id)
        if run is None:
            raise JobNotFound(tenant_id, run_id, what="policy run")
        return run

    async def _replace(
        self, run: PolicyRunJob, changed: PolicyRunJob, actor: str | None, *, through: PolicyRunJob | None = None
    ) -> PolicyRunJob | None:
        """Apply a transition to a run as it was read; return None where the run changed since."""
        result = await self._runs.replace(changed, run.lease_owner, through=through, actor=actor)
        return result.job if result.applied else None


def _check_reason(reason: object) -> str | None:
    if reason is None or (isinstance(reason, str) and len(reason) <= REASON_LENGTH_MAX):
        return reason
    raise InvalidJob(f"reason must be text of up to {REASON_LENGTH_MAX:,} characters", field="reason")
