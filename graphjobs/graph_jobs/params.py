"""Arguments of the queue of graph jobs: checked, and as the parameters of its statements."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from uuid_utils.compat import uuid7

from graphjobs.core.fields import check_name
from graphjobs.core.queue_flow import key_params, stalled_params
from graphjobs.core.results import StalledItem
from graphjobs.core.transitions import RESCUED, Transition, dump_json, event_payload
from graphjobs.core.validation import check_batch, check_items, check_stored_tenant, check_unique
from graphjobs.errors import InvalidJob
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import AnyJob, GraphJob
from graphjobs.graph_jobs.row_mapping import check_job, job_params
from graphjobs.graph_jobs.status import GraphJobStatus

Status = GraphJobStatus


def check_tenants(tenants: str | Iterable[str], limit: int) -> tuple[str, ...]:
    """Return the tenants of a claim: one, or at most as many as get a share each."""
    if isinstance(tenants, str):
        return (check_name(tenants, "tenants"),)
    names = tuple(check_stored_tenant(tenant, "tenants") for tenant in check_batch(tenants, "tenants"))
    if len(names) > limit or len(set(names)) < len(names):
        raise InvalidJob(f"tenants must be unique, and at most limit, {limit}", field="tenants")
    return names


def check_jobs(jobs: Iterable[AnyJob]) -> list[AnyJob]:
    """Return a batch of jobs, each id once."""
    return check_unique([check_job(job) for job in check_batch(jobs, "jobs")], lambda job: job.id, "jobs")


def check_results(results: Iterable[AttemptResult]) -> list[AttemptResult]:
    """Return a batch of results, each job once."""
    return check_items(results, AttemptResult, lambda result: result.job.id, "results")


def tenant_share_params(tenants: Sequence[str], limit: int) -> dict[str, object]:
    """Return the parameters that divide a limit among tenants as equally as possible; the first get the remainder."""
    share, remainder = divmod(limit, len(tenants))
    return {
        "p_tenant_ids": list(tenants),
        "p_shares": [share + 1] * remainder + [share] * (len(tenants) - remainder),
    }


def insert_many_params(jobs: Sequence[GraphJob], actor: str | None, prefix: str = "p_") -> dict[str, object]:
    """Return the parameters that insert many jobs with their events; all but the shared ones begin with the prefix."""
    columns = [job_params(job) for job in jobs]
    return {
        f"{prefix}payloads": [column["p_payload"] for column in columns],
        f"{prefix}event_payloads": [Transition.for_insert(job, uuid7(), actor).event_payload for job in jobs],
        "p_types": [column["p_type"] for column in columns],
        "p_created_ats": [job.created_at for job in jobs],
        "p_correlation_ids": [job.correlation_id for job in jobs],
    }


def heartbeat_params(jobs: Sequence[AnyJob]) -> dict[str, object]:
    """Return the parameters that find running jobs at their attempts."""
    return {
        **key_params(jobs),
        "p_tenant_ids": [job.tenant_id for job in jobs],
        "p_attempts": [job.attempts for job in jobs],
    }


def finish_params(results: Sequence[AttemptResult], transition_id: UUID, actor: str | None) -> dict[str, object]:
    """Return the parameters that finish attempts, and those that insert follow-up jobs where there are any."""
    params = {
        **heartbeat_params([result.job for result in results]),
        "p_new_statuses": [result.status.code for result in results],
        "p_payloads": [result.patch for result in results],
        "p_event_payloads": _event_payloads(results, transition_id, actor),
    }
    pairs = [(result.job, job) for result in results for job in result.followups]
    if not pairs:
        return params
    followups = check_unique([job for _, job in pairs], lambda job: job.id, "followups")
    return {
        **params,
        "p_parent_ids": [parent.id for parent, _ in pairs],
        "p_followup_ids": [job.id for job in followups],
        **insert_many_params(followups, actor, "p_followup_"),
    }


def _event_payloads(results: Sequence[AttemptResult], transition_id: UUID, actor: str | None) -> list[str]:
    # Most results of a batch are alike, and so are their events.
    payloads: dict[tuple[GraphJobStatus, int, str | None], str] = {}
    for result in results:
        key = (result.status, result.job.attempts, result.error)
        if key not in payloads:
            status, attempts, error = key
            payloads[key] = event_payload(Status.RUNNING, status, transition_id, actor, attempts=attempts, error=error)
    return [payloads[result.status, result.job.attempts, result.error] for result in results]


def take_over_params(
    stalled: Sequence[StalledItem],
    reasons: Sequence[str | None],
    transition_id: UUID,
    actor: str | None,
    *,
    rescued: bool = False,
) -> dict[str, object]:
    """Return the parameters that take jobs from their workers: failed with a reason, or queued again without one."""
    targets = [Status.QUEUED if reason is None else Status.FAILED for reason in reasons]
    patches = [
        {"status": target} if reason is None else {"status": target, "error": reason}
        for target, reason in zip(targets, reasons, strict=True)
    ]
    return {
        **stalled_params(stalled),
        "p_new_statuses": [target.code for target in targets],
        "p_payloads": [dump_json(patch) for patch in patches],
        "p_event_payloads": [
            event_payload(
                Status.RUNNING,
                target,
                transition_id,
                actor,
                attempts=item.attempts,
                error=reason,
                **{RESCUED: rescued or None},
            )
            for item, target, reason in zip(stalled, targets, reasons, strict=True)
        ],
    }
