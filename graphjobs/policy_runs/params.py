"""Arguments of the queue of policy runs: checked, and as the parameters of its statements."""

from collections.abc import Container, Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from graphjobs.core.queue_flow import key_params, stalled_params
from graphjobs.core.results import StalledItem
from graphjobs.core.transitions import RESCUED, event_payload
from graphjobs.core.validation import check_batch, check_items, check_stored_tenant, check_unique
from graphjobs.errors import InvalidJob
from graphjobs.policy_runs.attempt_results import LeaseResult, TenantCursors
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.row_mapping import check_run
from graphjobs.policy_runs.status import PolicyRunStatus

Status = PolicyRunStatus


def check_leased(jobs: Iterable[PolicyRunJob]) -> list[PolicyRunJob]:
    """Return a batch of leased runs, each id once."""
    leased = [check_run(job) for job in check_batch(jobs, "jobs")]
    for job in leased:
        if job.lease_owner is None:
            raise InvalidJob(f"jobs must be leased: run {job.run_id!r} is {job.status}", field="jobs")
    return check_unique(leased, lambda job: job.id, "jobs")


def check_results(results: Iterable[LeaseResult]) -> list[LeaseResult]:
    """Return a batch of results, each run once."""
    return check_items(results, LeaseResult, lambda result: result.job.id, "results")


def cursor_params(cursors: TenantCursors) -> dict[str, object]:
    """Return the parameters that continue the rotation of tenants."""
    return {
        "p_after_emergency_tenant_id": check_stored_tenant(cursors.emergency, "after.emergency"),
        "p_after_tenant_id": check_stored_tenant(cursors.others, "after.others"),
    }


def lease_params(jobs: Sequence[PolicyRunJob]) -> dict[str, object]:
    """Return the parameters that find leases: run, tenant, owner and attempt."""
    return {
        **key_params(jobs),
        "p_tenant_ids": [job.tenant_id for job in jobs],
        "p_lease_attempts": [job.attempts for job in jobs],
        "p_lease_owners": [job.lease_owner for job in jobs],
    }


def finish_params(results: Sequence[LeaseResult], transition_id: UUID, actor: str | None) -> dict[str, object]:
    """Return the parameters that end leases."""
    return {
        **lease_params([result.job for result in results]),
        "p_new_statuses": [result.status.code for result in results],
        "p_delays": [result.delay for result in results],
        "p_last_errors": [result.error for result in results],
        "p_event_payloads": [
            event_payload(
                Status.DISPATCHING,
                result.status,
                transition_id,
                actor,
                attempts=result.job.attempts,
                error=result.error,
            )
            for result in results
        ],
    }


def take_over_params(
    stalled: Sequence[StalledItem],
    targets: Sequence[tuple[PolicyRunStatus, str, timedelta]],
    transition_id: UUID,
    actor: str | None,
    *,
    rescued: bool = False,
    uncounted: Container[UUID] = (),
) -> dict[str, object]:
    """Return the parameters that take runs from their holders: next status, reason, and delay of the next attempt."""
    return {
        **stalled_params(stalled),
        "p_new_statuses": [target.code for target, _, _ in targets],
        "p_delays": [delay for _, _, delay in targets],
        "p_last_errors": [reason for _, reason, _ in targets],
        "p_event_payloads": [
            event_payload(
                Status.DISPATCHING,
                target,
                transition_id,
                actor,
                attempts=item.attempts,
                error=None if target is Status.PENDING and item.job_id in uncounted else reason,
                **{RESCUED: rescued or None},
            )
            for item, (target, reason, _) in zip(stalled, targets, strict=True)
        ],
    }
