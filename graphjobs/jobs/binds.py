"""What the queue is asked with: arguments that are let pass, and the binds of its statements; no I/O here."""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from itertools import islice
from typing import Final, TypeVar
from uuid import UUID

from uuid_utils.compat import uuid7

from graphjobs.errors import InvalidJob
from graphjobs.jobs.endings import Ending, Sighting, entry_of, json_of
from graphjobs.jobs.moves import Move
from graphjobs.jobs.parts import RESCUED
from graphjobs.jobs.rows import AnyJob, columns_of, require_job
from graphjobs.jobs.status import GraphJobStatus, GraphJobType
from graphjobs.values import require_name

BATCH_MAX: Final = 1_000
"""The most jobs, or tenants, that one call takes."""

SILENCE_MAX: Final = timedelta(days=1)

_S = GraphJobStatus
T = TypeVar("T")


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


def actor_of(actor: str | None) -> str | None:
    """Lets who does it pass, or nobody."""
    return None if actor is None else require_name(actor, "actor")


def silence_of(silence: object) -> timedelta:
    """Lets a time without a sign of life pass."""
    if isinstance(silence, timedelta) and timedelta(0) < silence <= SILENCE_MAX:
        return silence
    raise InvalidJob("silence: it should be a timedelta of more than zero, up to a day", field="silence")


def tenants_of(tenants: str | Iterable[str], limit: int) -> tuple[str, ...]:
    """Lets the tenants of a claim pass: one, or as many as get a share each."""
    if isinstance(tenants, str):
        return (require_name(tenants, "tenants"),)
    named = tuple(listed_name(tenant, "tenants") for tenant in _few(tenants, "tenants"))
    if len(named) > limit or len(set(named)) < len(named):
        raise InvalidJob(f"tenants: each should be there once, and no more than limit, {limit}", field="tenants")
    return named


def listed_name(name: object, field: str) -> str:
    """Lets a tenant pass as `tenants_with` lists it. Rows written by hand have any name; they are to be set aside.

    Raises:
        InvalidJob: no row can have it.
    """
    if isinstance(name, str) and "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name):
        return name
    raise InvalidJob(f"{field}: it should be text as the database holds it, without NUL", field=field)


def jobs_of(jobs: Iterable[AnyJob]) -> list[AnyJob]:
    """Lets jobs pass: few enough for one statement, each once."""
    return _each_once([require_job(job) for job in _few(jobs, "jobs")], lambda job: job.id, "jobs")


def endings_of(endings: Iterable[Ending]) -> list[Ending]:
    """Lets endings pass: few enough for one statement, each job once."""
    given = [_require(ending, Ending, "endings") for ending in _few(endings, "endings")]
    return _each_once(given, lambda ending: ending.job.id, "endings")


def sightings_of(sightings: Iterable[Sighting]) -> list[Sighting]:
    """Lets sightings pass: few enough for one statement, each job once."""
    given = [_require(sighting, Sighting, "sightings") for sighting in _few(sightings, "sightings")]
    return _each_once(given, lambda sighting: sighting.job_id, "sightings")


def _few(items: Iterable[T], field: str) -> list[T]:
    if not isinstance(items, Iterable):
        raise InvalidJob(f"{field}: it should be a list", field=field)
    few = list(islice(items, BATCH_MAX + 1))
    if len(few) > BATCH_MAX:
        raise InvalidJob(f"{field}: one call takes at most {BATCH_MAX}", field=field)
    return few


def _each_once(items: list[T], id_of: Callable[[T], UUID], field: str) -> list[T]:
    if len({id_of(item) for item in items}) < len(items):
        raise InvalidJob(f"{field}: each job should be there once", field=field)
    return items


def _require(value: object, kind: type[T], field: str) -> T:
    if isinstance(value, kind):
        return value
    raise InvalidJob(f"{field}: it should hold only {kind.__name__}s, not {type(value).__name__}", field=field)


def shares_of(tenants: Sequence[str], limit: int) -> dict[str, object]:
    """The binds that share a limit out among tenants, as equally as can be; the first get what is left over."""
    share, over = divmod(limit, len(tenants))
    return {"tenants": list(tenants), "shares": [share + 1] * over + [share] * (len(tenants) - over)}


def keys_of(keys: Iterable[tuple[UUID, str]]) -> dict[str, object]:
    """The binds that find jobs by id and tenant."""
    given = list(keys)
    return {"jobs": [job_id for job_id, _ in given], "whose": sorted({tenant_id for _, tenant_id in given})}


def renewal_of(jobs: Sequence[AnyJob]) -> dict[str, object]:
    """The binds that renew jobs."""
    return {
        **keys_of((job.id, job.tenant_id) for job in jobs),
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
    _each_once(pairs, lambda pair: pair[1].id, "following")
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
    sightings: Sequence[Sighting],
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
        **keys_of((sighting.job_id, sighting.tenant_id) for sighting in sightings),
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
