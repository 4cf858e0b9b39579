"""The history check: workers that swap at random, the answers that they get, and whether the log agrees with them.

A swap and its event are one transaction, or one call of the store. Workers are cancelled at random awaits and lose
their connections; the answer is then "unknown", and the log may have such a swap once or not at all. The store
can be asked again, until nothing is unknown.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from graphjobs import DatabaseUnavailable, GraphBuildJob, GraphJobEvent, GraphJobStatus, OutcomeUnknown
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.graph_jobs.status import TRANSITIONS
from graphjobs.storage import Storage
from tests.builders import AT, build_job
from tests.faults.cancel_at_await import Cancel, cancelled_at

QUEUED, RUNNING = GraphJobStatus.QUEUED, GraphJobStatus.RUNNING
_JOBS: Final = 4
_SWAPS_A_WORKER: Final = 40
_WORKERS: Final = 6
_CANCELLED_IN_A_HUNDRED: Final = 35
_SUSPENSIONS_MAX: Final = 14
_NEVER: Final = 10**6


class Outcome(Enum):
    """The answer to a swap."""

    APPLIED = "applied"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Swap:
    """One attempt to swap a job: the job as it was read, and the job as it would be."""

    transition: str
    """A UUID, as text."""
    seen: GraphBuildJob
    job: GraphBuildJob

    def event(self) -> GraphJobEvent:
        """Return the event of the swap."""
        return GraphJobEvent(
            job_id=self.job.id,
            tenant_id=self.job.tenant_id,
            status=self.job.status,
            created_at=AT,
            payload={
                "transitionId": self.transition,
                "from": self.seen.status.value,
                "to": self.job.status.value,
                "attempts": self.job.attempts,
            },
        )


Swapper = Callable[[Storage, Swap], Coroutine[Any, Any, bool]]


@dataclass(slots=True)
class History:
    """All swaps with their answers, and the rows and logs at the end."""

    outcomes: dict[str, tuple[Swap, Outcome]] = field(default_factory=dict)
    events: dict[UUID, Sequence[GraphJobEvent]] = field(default_factory=dict)
    jobs: dict[UUID, GraphBuildJob] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> int:
        """Count the swaps with this answer."""
        return sum(1 for _, answer in self.outcomes.values() if answer is outcome)


async def swap_with_event(storage: Storage, swap: Swap) -> bool:
    """Swap a job and append the event in one transaction, as is correct."""
    async with storage.session() as session, session.begin():
        jobs = GraphJobRepository(storage.database.using(session))
        if not await jobs.try_replace(swap.job, swap.seen.status):
            return False
        await jobs.append_event(swap.event())
        return True


async def update_of_store(storage: Storage, swap: Swap) -> bool:
    """Update a job by the store, which appends the event in the same statement."""
    result = await storage.graph_jobs.update(
        swap.job, expected=swap.seen.status, transition_id=UUID(swap.transition), actor="worker"
    )
    return result.applied


async def record(
    storage: Storage, reader: Storage, tenant: str, swapper: Swapper, *, seed: int, repeats: bool = False
) -> History:
    """Let six workers swap few jobs, and return their history.

    Args:
        storage: the storage of the workers; its connections may be killed.
        reader: a storage on the same database that inserts and reads without faults.
        tenant: the tenant of the jobs.
        swapper: the function that swaps.
        seed: the seed of the workers' choices; loop and server decide the order of the workers.
        repeats: whether an unknown swap is repeated with the same arguments until its answer is known.
    """
    history = History()
    open_jobs = [(await reader.graph_job_repository.insert(build_job(tenant))).id for _ in range(_JOBS)]
    ids = set(open_jobs)

    async def work(worker: int) -> None:
        choose = random.Random(seed * 1000 + worker)  # noqa: S311  # no secret
        stale: dict[UUID, GraphBuildJob] = {}
        for step in range(_SWAPS_A_WORKER):
            slot = choose.randrange(_JOBS)
            job_id = open_jobs[slot]
            # Some swaps use an old read of the job, so that attempts and version matter.
            seen = stale.get(job_id) if choose.random() < 0.3 else None
            if seen is None:
                seen = await reader.graph_job_repository.get_build_job(tenant, job_id)
                assert seen is not None
                stale[job_id] = seen
            if seen.status.is_final:
                successor = await reader.graph_job_repository.insert(build_job(tenant))
                ids.add(successor.id)
                open_jobs[slot] = successor.id
                continue
            transition = str(UUID(int=worker * 1000 + step + 1))
            swap = Swap(transition, seen, _moved(seen, transition, choose))
            cancel_at = (
                choose.randrange(_SUSPENSIONS_MAX) if choose.randrange(100) < _CANCELLED_IN_A_HUNDRED else _NEVER
            )
            how = choose.choice(list(Cancel))
            outcome, _ = await _make(storage, swapper, swap, cancel_at, how)
            while outcome is Outcome.UNKNOWN and repeats:
                outcome, failed = await _make(storage, swapper, swap, _NEVER, Cancel.ONCE)
                # A failed call has changed nothing, but the call before it may have.
                outcome = Outcome.UNKNOWN if failed else outcome
            history.outcomes[transition] = (swap, outcome)

    async with asyncio.TaskGroup() as group:
        for worker in range(_WORKERS):
            group.create_task(work(worker))
    for job_id in ids:
        job = await reader.graph_job_repository.get_build_job(tenant, job_id)
        assert job is not None
        history.jobs[job_id] = job
        history.events[job_id] = await reader.graph_job_repository.list_events(tenant, job_id)
    return history


def _moved(seen: GraphBuildJob, transition: str, choose: random.Random) -> GraphBuildJob:
    """Return a transition of the job, in most cases not a final one; its metadata has the transition id."""
    final = choose.random() < 0.1
    if seen.status is QUEUED:
        moved = seen.cancel(at=AT) if final else choose.choice([seen.edit(), seen.start(at=AT), seen.start(at=AT)])
    elif final:
        moved = seen.complete(at=AT, graph_snapshot_id="graph")
    else:
        moved = choose.choice([seen.renew(), seen.requeue(at=AT), seen.requeue(at=AT)])
    return moved.replace(metadata={"transition": transition})


async def _make(storage: Storage, swapper: Swapper, swap: Swap, cancel_at: int, how: Cancel) -> tuple[Outcome, bool]:
    """Swap, and return the answer and whether the call failed."""
    _, end = await cancelled_at(cancel_at, swapper(storage, swap), how)
    match end:
        case bool():
            return Outcome.APPLIED if end else Outcome.LOST, False
        case "cancelled" | OutcomeUnknown():
            return Outcome.UNKNOWN, True
        case DatabaseUnavailable():
            return Outcome.LOST, True  # the error states that nothing was changed
        case DBAPIError():
            return Outcome.UNKNOWN, True  # the commit failed
    raise end


def problems(history: History) -> list[str]:
    """List the differences between the log, the rows and the answers."""
    found: list[str] = []
    applied: dict[str, int] = defaultdict(int)
    for job_id, events in history.events.items():
        status, attempts, last = QUEUED, 0, ""
        for event in events:
            source, target = (GraphJobStatus.parse(event.payload[end]) for end in ("from", "to"))
            last, now = event.payload["transitionId"], event.payload["attempts"]
            applied[last] += 1
            if source is not status:
                found.append(f"a gap in {job_id}: {last} goes from {source}, and it was {status}")
            if target not in TRANSITIONS[source] or target is not event.status:
                found.append(f"illegal in {job_id}: {last} goes from {source} to {target}")
            if now != attempts + (source is QUEUED and target is RUNNING):
                found.append(f"attempts in {job_id}: {last} has {now} after {attempts}")
            status, attempts = target, now
        job = history.jobs[job_id]
        if (status, attempts, last) != (job.status, job.attempts, job.metadata.get("transition", "")):
            found.append(f"the row of {job_id} differs from the end of its log: {job.status} after {last}")
    for transition, (_, outcome) in history.outcomes.items():
        count = applied.pop(transition, 0)
        legal = {Outcome.APPLIED: (1,), Outcome.LOST: (0,), Outcome.UNKNOWN: (0, 1)}[outcome]
        if count not in legal:
            found.append(f"{transition} was reported as {outcome.value}, and is in the log {count} times")
    return found + [f"{transition} is in the log, and no worker tried it" for transition in applied]
