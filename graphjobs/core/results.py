"""What a queue answers whoever does its work: heartbeats, ends, sightings of who stopped, rescues; values only."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, TypeVar
from uuid import UUID

from graphjobs.core.fields import check_name
from graphjobs.errors import InvalidJob

ATTEMPTS_MAX: Final = 99_999
"""The most attempts anything can have."""

BATCH_MAX: Final = 1_000
"""The most jobs, or tenants, that one call takes."""

LEASE_MAX: Final = timedelta(days=1)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StalledItem:
    """Something under way as it was seen: whoever finds it at the same version later knows that nothing has moved it.

    Attributes:
        job_id: which job.
        tenant_id: whose.
        version: the row's `updated_at`, which each heartbeat raises; None for one that Python cannot hold.
        attempts: the attempt that runs; None where the row does not tell.
        given_back: how many attempts before were given back in order, as the log tells; they do the job no harm.
    """

    job_id: UUID
    tenant_id: str
    version: datetime | None
    attempts: int | None
    released: int = 0


@dataclass(frozen=True, slots=True)
class HeartbeatResult:
    """What a heartbeat found.

    Attributes:
        versions: the new versions, by job; a job whose row somebody else had at the moment is not among them.
        lost: jobs that no longer run at this attempt: nothing the holder does can end them.
    """

    versions: Mapping[UUID, datetime]
    lost: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class FinishResult:
    """What came of endings.

    Attributes:
        versions: the versions of the jobs that were ended by this call, by job.
        lost: those that no longer run at the attempt given, each with one sentence on where a later look found it;
            nothing was changed.
        busy: those whose row somebody else has at the moment, so that nothing was changed either: ask again soon.
    """

    versions: Mapping[UUID, datetime]
    lost: Mapping[UUID, str]
    busy: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class RescueResult:
    """What a rescue did.

    Attributes:
        requeued: jobs that wait again.
        failed: jobs that had no attempt left, or whose row cannot be read.
    """

    requeued: tuple[UUID, ...]
    failed: tuple[UUID, ...]


def exhausted_reason(stalled: StalledItem, attempts_max: int) -> str | None:
    """Says why a job fails that gave no sign of life; None where it may be tried again."""
    if stalled.attempts is None:
        return "its worker gave no sign of life, and its row does not tell the attempt, so it cannot be tried again"
    if stalled.attempts - stalled.released < attempts_max:
        return None
    but = f", of which {stalled.released} were given back in order" if stalled.released else ""
    return (
        f"its worker gave no sign of life at attempt {stalled.attempts}{but}, and {attempts_max} are the most it gets"
    )


def check_actor(actor: str | None) -> str | None:
    """Lets who does it pass, or nobody."""
    return None if actor is None else check_name(actor, "actor")


def check_attempts_max(attempts_max: object) -> int:
    """Lets the most attempts pass.

    Raises:
        InvalidJob: it is no whole number from 1 to 99,999.
    """
    if isinstance(attempts_max, int) and not isinstance(attempts_max, bool) and 1 <= attempts_max <= ATTEMPTS_MAX:
        return attempts_max
    raise InvalidJob(f"attempts_max: it should be a whole number from 1 to {ATTEMPTS_MAX}", field="attempts_max")


def check_wait(wait: object, field: str) -> timedelta:
    """Lets a wait pass.

    Raises:
        InvalidJob: it is no timedelta of more than zero, up to a day.
    """
    if isinstance(wait, timedelta) and timedelta(0) < wait <= LEASE_MAX:
        return wait
    raise InvalidJob(f"{field}: it should be a timedelta of more than zero, up to a day", field=field)


def check_stored_tenant(name: object, field: str) -> str:
    """Lets a tenant pass as the database lists it. Rows written by hand have any name; they are to be set aside.

    Raises:
        InvalidJob: no row can have it.
    """
    if isinstance(name, str) and "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name):
        return name
    raise InvalidJob(f"{field}: it should be text as the database holds it, without NUL", field=field)


def check_batch(items: Iterable[T], field: str) -> list[T]:
    """Lets a list pass that one statement can take.

    Raises:
        InvalidJob: it is none, or longer than 1,000.
    """
    if not isinstance(items, Iterable):
        raise InvalidJob(f"{field}: it should be a list", field=field)
    taken = list(islice(items, BATCH_MAX + 1))
    if len(taken) > BATCH_MAX:
        raise InvalidJob(f"{field}: one call takes at most {BATCH_MAX}", field=field)
    return taken


def check_unique(items: list[T], id_of: Callable[[T], UUID], field: str) -> list[T]:
    """Lets a list pass in which each job is there once."""
    if len({id_of(item) for item in items}) < len(items):
        raise InvalidJob(f"{field}: each job should be there once", field=field)
    return items


def check_item_type(value: object, kind: type[T], field: str) -> T:
    """Lets an item of a list pass."""
    if isinstance(value, kind):
        return value
    raise InvalidJob(f"{field}: it should hold only {kind.__name__}s, not {type(value).__name__}", field=field)


def check_stalled(stalled: Iterable[StalledItem]) -> list[StalledItem]:
    """Lets sightings pass: few enough for one statement, each job once."""
    given = [check_item_type(sighting, StalledItem, "stalled") for sighting in check_batch(stalled, "stalled")]
    return check_unique(given, lambda sighting: sighting.job_id, "stalled")


def key_params(keys: Iterable[tuple[UUID, str]]) -> dict[str, object]:
    """The binds that find jobs by id and tenant."""
    given = list(keys)
    return {
        "p_job_ids": [job_id for job_id, _ in given],
        "p_distinct_tenant_ids": sorted({tenant_id for _, tenant_id in given}),
    }
