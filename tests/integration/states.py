"""Stored jobs and runs in the states that tests need, and what tests compare of them."""

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from graphjobs import PolicyRunJob, PolicyRunRepository
from graphjobs.core.transitions import Transitionable, UpdateResult
from graphjobs.policy_runs.attempt_results import LeaseBatch
from tests.builders import AT, queue_of

MINUTE: Final = timedelta(minutes=1)
MICROSECOND: Final = timedelta(microseconds=1)
OWNER: Final = "owner"

T = TypeVar("T", bound=Transitionable)


def later(step: int) -> datetime:
    """Return a time; the times are in the order of the steps."""
    return AT + timedelta(seconds=step)


def ids(items: Iterable[Any]) -> list[uuid.UUID]:
    """Return the ids of items in order."""
    return [item.id for item in items]


def payloads(events: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the payloads of events, without transition ids and digests."""
    found = [dict(event.payload) for event in events]
    for payload in found:
        assert uuid.UUID(payload.pop("transitionId"))
        payload.pop("digest", None)
    return found


def applied(result: UpdateResult[T]) -> T:
    """Return the new value of an update that must be applied."""
    assert result.applied, result.reason
    assert result.job is not None
    return result.job


async def lease(
    runs: PolicyRunRepository,
    tenant_id: str | None = None,
    *,
    duration: timedelta = MINUTE,
    attempts_max: int = 5,
    **arguments: Any,
) -> LeaseBatch:
    """Lease runs of a tenant, or of all tenants."""
    return await queue_of(runs).lease(OWNER, duration, attempts_max=attempts_max, tenant_id=tenant_id, **arguments)


async def add_leased(runs: PolicyRunRepository, run: PolicyRunJob) -> PolicyRunJob:
    """Store a run and lease it."""
    await runs.insert(run)
    (leased,) = (await lease(runs, run.tenant_id)).runs
    return leased


async def add_submitted(runs: PolicyRunRepository, run: PolicyRunJob) -> PolicyRunJob:
    """Store a run, lease it and submit it."""
    leased = await add_leased(runs, run)
    return applied(await runs.replace(leased.submit(at=AT), OWNER))


async def read(runs: PolicyRunRepository, run: PolicyRunJob) -> PolicyRunJob:
    """Read a run that must be stored."""
    found = await runs.get(run.tenant_id, run.id)
    assert found is not None
    return found
