"""What the queue is asked with: arguments that are let pass, and the binds of its statements; no I/O here."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from uuid_utils.compat import uuid7

from graphjobs.core.fields import check_name
from graphjobs.core.results import (
    StalledItem,
    check_batch,
    check_item_type,
    check_stored_tenant,
    check_unique,
    key_params,
)
from graphjobs.core.transitions import RESCUED, Transition, dump_json, event_payload
from graphjobs.errors import InvalidJob
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.row_mapping import AnyJob, check_job, job_params
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

Status = GraphJobStatus


def parse_type(kind: object) -> GraphJobType:
    """Reads a kind given by its word, as an argument of a call.

    Raises:
        InvalidJob: it is none.
    """
    try:
        return GraphJobType.parse(kind)
    except ValueError:
        words = " or ".join(GraphJobType)
    raise InvalidJob(f"kind: it should be {words}", field="kind")


def check_tenants(tenants: str | Iterable[str], limit: int) -> tuple[str, ...]:
    """Lets the tenants of a claim pass: one, or as many as get a share each."""
    if isinstance(tenants, str):
        return (check_name(tenants, "tenants"),)
    named = tuple(check_stored_tenant(tenant, "tenants") for tenant in check_batch(tenants, "tenants"))
    if len(named) > limit or len(set(named)) < len(named):
        raise InvalidJob(f"tenants: each should be there once, and no more than limit, {limit}", field="tenants")
    return named


def check_jobs(jobs: Iterable[AnyJob]) -> list[AnyJob]:
    """Lets jobs pass: few enough for one statement, each once."""
    return check_unique([check_job(job) for job in check_batch(jobs, "jobs")], lambda job: job.id, "jobs")


def check_results(results: Iterable[AttemptResult]) -> list[AttemptResult]:
    """Lets endings pass: few enough for one statement, each job once."""
    given = [check_item_type(ending, AttemptResult, "results") for ending in check_batch(results, "results")]
    return check_unique(given, lambda ending: ending.job.id, "results")


def tenant_share_params(tenants: Sequence[str], limit: int) -> dict[str, object]:
    """The binds that share a limit out among tenants, as equally as can be; the first get what is left over."""
    share, over = divmod(limit, len(tenants))
    return {"p_tenant_ids": list(tenants), "p_shares": [share + 1] * over + [share] * (len(tenants) - over)}


def heartbeat_params(jobs: Sequence[AnyJob]) -> dict[str, object]:
    """The binds that renew jobs."""
    return {
        **key_params((job.id, job.tenant_id) for job in jobs),
        "p_tenant_ids": [job.tenant_id for job in jobs],
        "p_attempts": [job.attempts for job in jobs],
    }


def finish_params(results: Sequence[AttemptResult], transition_id: UUID, actor: str | None) -> dict[str, object]:
    """The binds that end jobs, and those that add what follows from them where something does."""
    binds = {
        **heartbeat_params([ending.job for ending in results]),
        "p_new_statuses": [ending.status.code for ending in results],
        "p_payloads": [ending.patch for ending in results],
        "p_event_payloads": _event_payloads(results, transition_id, actor),
    }
    pairs = [(ending.job, job) for ending in results for job in ending.followups]
    if not pairs:
        return binds
    check_unique(pairs, lambda pair: pair[1].id, "followups")
    columns = [job_params(job) for _, job in pairs]
    return {
        **binds,
        "p_parent_ids": [parent.id for parent, _ in pairs],
        "p_followup_ids": [job.id for _, job in pairs],
        "p_types": [of_job["p_type"] for of_job in columns],
        "p_followup_payloads": [of_job["p_payload"] for of_job in columns],
        "p_created_ats": [job.created_at for _, job in pairs],
        "p_correlation_ids": [job.correlation_id for _, job in pairs],
        "p_followup_event_payloads": [Transition.for_insert(job, uuid7(), actor).event_payload for _, job in pairs],
    }


def _event_payloads(results: Sequence[AttemptResult], transition_id: UUID, actor: str | None) -> list[str]:
    # Most of a batch end alike, and so do their events.
    entries: dict[tuple[GraphJobStatus, int, str | None], str] = {}
    for ending in results:
        alike = (ending.status, ending.job.attempts, ending.error)
        if alike not in entries:
            status, attempts, error = alike
            entries[alike] = event_payload(Status.RUNNING, status, transition_id, actor, attempts=attempts, error=error)
    return [entries[ending.status, ending.job.attempts, ending.error] for ending in results]


def take_over_params(
    stalled: Sequence[StalledItem],
    reasons: Sequence[str | None],
    transition_id: UUID,
    actor: str | None,
    *,
    rescued: bool,
) -> dict[str, object]:
    """The binds that take jobs from whoever ran them: failed for a reason, else queued again."""
    targets = [Status.QUEUED if reason is None else Status.FAILED for reason in reasons]
    told = list(zip(stalled, targets, reasons, strict=True))
    return {
        **key_params((sighting.job_id, sighting.tenant_id) for sighting in stalled),
        "p_tenant_ids": [sighting.tenant_id for sighting in stalled],
        "p_versions": [sighting.version for sighting in stalled],
        "p_new_statuses": [target.code for target in targets],
        "p_payloads": [
            dump_json({"status": target} if reason is None else {"status": target, "error": reason})
            for _, target, reason in told
        ],
        "p_event_payloads": [
            event_payload(
                Status.RUNNING,
                target,
                transition_id,
                actor,
                attempts=sighting.attempts,
                error=reason,
                **{RESCUED: rescued or None},
            )
            for sighting, target, reason in told
        ],
    }
