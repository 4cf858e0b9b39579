"""What the queue is asked with: arguments that are let pass, and the binds of its statements; no I/O here."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from uuid_utils.compat import uuid7

from graphjobs.core.fields import require_name
from graphjobs.core.results import StalledItem, check_unique, check_batch, key_params, check_stored_tenant, check_item_type
from graphjobs.core.transitions import RESCUED, Move, entry_of, json_of
from graphjobs.errors import InvalidJob
from graphjobs.graph_jobs.attempt_results import Ending
from graphjobs.graph_jobs.row_mapping import AnyJob, columns_of, require_job
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType

_S = GraphJobStatus


def kind_of(kind: object) -> GraphJobType:
    """Reads a kind given by its word, as an argument of a call.

    Raises:
        InvalidJob: it is none.
    """
    try:
        return GraphJobType.from_word(kind)
    except ValueError:
        words = " or ".join(GraphJobType)
    raise InvalidJob(f"kind: it should be {words}", field="kind")


def tenants_of(tenants: str | Iterable[str], limit: int) -> tuple[str, ...]:
    """Lets the tenants of a claim pass: one, or as many as get a share each."""
    if isinstance(tenants, str):
        return (require_name(tenants, "tenants"),)
    named = tuple(check_stored_tenant(tenant, "tenants") for tenant in check_batch(tenants, "tenants"))
    if len(named) > limit or len(set(named)) < len(named):
        raise InvalidJob(f"tenants: each should be there once, and no more than limit, {limit}", field="tenants")
    return named


def jobs_of(jobs: Iterable[AnyJob]) -> list[AnyJob]:
    """Lets jobs pass: few enough for one statement, each once."""
    return check_unique([require_job(job) for job in check_batch(jobs, "jobs")], lambda job: job.id, "jobs")


def endings_of(endings: Iterable[Ending]) -> list[Ending]:
    """Lets endings pass: few enough for one statement, each job once."""
    given = [check_item_type(ending, Ending, "endings") for ending in check_batch(endings, "endings")]
    return check_unique(given, lambda ending: ending.job.id, "endings")


def shares_of(tenants: Sequence[str], limit: int) -> dict[str, object]:
    """The binds that share a limit out among tenants, as equally as can be; the first get what is left over."""
    share, over = divmod(limit, len(tenants))
    return {"tenants": list(tenants), "shares": [share + 1] * over + [share] * (len(tenants) - over)}


def renewal_of(jobs: Sequence[AnyJob]) -> dict[str, object]:
    """The binds that renew jobs."""
    return {
        **key_params((job.id, job.tenant_id) for job in jobs),
        "tenants": [job.tenant_id for job in jobs],
        "attempts": [job.attempts for job in jobs],
    }


def ends_of(endings: Sequence[Ending], named: UUID, actor: str | None) -> dict[str, object]:
    """The binds that end jobs, and those that add what follows from them where something does."""
    binds = {
        **renewal_of([ending.job for ending in endings]),
        "targets": [ending.status.code for ending in endings],
        "documents": [ending.patch for ending in endings],
        "entries": _entries(endings, named, actor),
    }
    pairs = [(ending.job, job) for ending in endings for job in ending.following]
    if not pairs:
        return binds
    check_unique(pairs, lambda pair: pair[1].id, "following")
    columns = [columns_of(job) for _, job in pairs]
    return {
        **binds,
        "parents": [parent.id for parent, _ in pairs],
        "added": [job.id for _, job in pairs],
        "kinds": [of_job["kind"] for of_job in columns],
        "added_documents": [of_job["document"] for of_job in columns],
        "times": [job.created_at for _, job in pairs],
        "correlations": [job.correlation_id for _, job in pairs],
        "added_entries": [Move.adding(job, uuid7(), actor).entry for _, job in pairs],
    }


def _entries(endings: Sequence[Ending], named: UUID, actor: str | None) -> list[str]:
    # Most of a batch end alike, and so do their events.
    entries: dict[tuple[GraphJobStatus, int, str | None], str] = {}
    for ending in endings:
        alike = (ending.status, ending.job.attempts, ending.error)
        if alike not in entries:
            status, attempts, error = alike
            entries[alike] = entry_of(_S.RUNNING, status, named, actor, attempts=attempts, error=error)
    return [entries[ending.status, ending.job.attempts, ending.error] for ending in endings]


def takings_of(
    sightings: Sequence[StalledItem],
    reasons: Sequence[str | None],
    named: UUID,
    actor: str | None,
    *,
    rescued: bool,
) -> dict[str, object]:
    """The binds that take jobs from whoever ran them: failed for a reason, else queued again."""
    targets = [_S.QUEUED if reason is None else _S.FAILED for reason in reasons]
    told = list(zip(sightings, targets, reasons, strict=True))
    return {
        **key_params((sighting.job_id, sighting.tenant_id) for sighting in sightings),
        "tenants": [sighting.tenant_id for sighting in sightings],
        "versions": [sighting.version for sighting in sightings],
        "targets": [target.code for target in targets],
        "documents": [
            json_of({"status": target} if reason is None else {"status": target, "error": reason})
            for _, target, reason in told
        ],
        "entries": [
            entry_of(
                _S.RUNNING, target, named, actor, attempts=sighting.attempts, error=reason, **{RESCUED: rescued or None}
            )
            for sighting, target, reason in told
        ],
    }
