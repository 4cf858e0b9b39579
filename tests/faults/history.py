"""The history check: workers that swap at random, what each was told, and whether the log agrees with it.

A swap and its event are one transaction. Workers are cancelled at random awaits and lose their connections; what they
are told then is "unknown", and the log may hold such a swap once or not at all.
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

from graphjobs import DatabaseUnavailable, GraphBuildJob, GraphJobEvent, GraphJobStatus
from graphjobs.jobs.repository import PostgresGraphJobRepository
from graphjobs.jobs.status import TRANSITIONS
from graphjobs.storage import Storage
from tests.builders import AT, build_job
from tests.faults.suspend import Cancel, cancelled_at

QUEUED, RUNNING = GraphJobStatus.QUEUED, GraphJobStatus.RUNNING
_JOBS: Final = 4
_SWAPS_A_WORKER: Final = 40
_WORKERS: Final = 6
_CANCELLED_IN_A_HUNDRED: Final = 35
_SUSPENSIONS_MAX: Final = 14


class Told(Enum):
    """What a worker was told of its swap."""

    LANDED = "landed"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Swap:
    """A move somebody tries: from the job as it was read, to the job as it would be."""

    transition: str
    seen: GraphBuildJob
    job: GraphBuildJob

    def event(self) -> GraphJobEvent:
        """Gives the event that goes with it."""
        return GraphJobEvent(
            job_id=self.job.id,
            tenant_id=self.job.tenant_id,
            status=self.job.status,
            created_at=AT,
            payload={
                "transition": self.transition,
                "from": self.seen.status.value,
                "to": self.job.status.value,
                "attempts": self.job.attempts,
            },
        )


Swapper = Callable[[Storage, Swap], Coroutine[Any, Any, bool]]


@dataclass(slots=True)
class History:
    """All that was tried, all that was told, and what the database holds at the end."""

    told: dict[str, tuple[Swap, Told]] = field(default_factory=dict)
    events: dict[UUID, Sequence[GraphJobEvent]] = field(default_factory=dict)
    jobs: dict[UUID, GraphBuildJob] = field(default_factory=dict)

    def count(self, told: Told) -> int:
        """Counts the swaps of which this was told."""
        return sum(1 for _, answer in self.told.values() if answer is told)


async def swap_with_event(storage: Storage, swap: Swap) -> bool:
    """Swaps, and logs it, in one transaction: the way that is right."""
    async with storage.session() as session, session.begin():
        jobs = PostgresGraphJobRepository(storage.database.using(session))
        if not await jobs.try_replace(swap.job, swap.seen.status):
            return False
        await jobs.append_event(swap.event())
        return True


async def record(storage: Storage, tenant: str, swapper: Swapper, *, seed: int) -> History:
    """Lets six workers swap few jobs, and gives their history.

    Args:
        storage: where.
        tenant: whose jobs.
        swapper: how they swap.
        seed: of every choice a worker makes; how they interleave is up to the loop and the server.
    """
    history = History()
    open_jobs = [(await storage.graph_job_repository.insert(build_job(tenant))).id for _ in range(_JOBS)]
    ids = set(open_jobs)

    async def work(worker: int) -> None:
        choose = random.Random(seed * 1000 + worker)  # noqa: S311  # no secret
        stale: dict[UUID, GraphBuildJob] = {}
        for step in range(_SWAPS_A_WORKER):
            slot = choose.randrange(_JOBS)
            job_id = open_jobs[slot]
            # Now and then as it was read a while ago, so that fence and version matter.
            seen = stale.get(job_id) if choose.random() < 0.3 else None
            if seen is None:
                seen = await storage.graph_job_repository.get_build_job(tenant, job_id)
                assert seen is not None
                stale[job_id] = seen
            if seen.status.is_final:
                successor = await storage.graph_job_repository.insert(build_job(tenant))
                ids.add(successor.id)
                open_jobs[slot] = successor.id
                continue
            swap = Swap(f"{worker}.{step}", seen, _moved(seen, f"{worker}.{step}", choose))
            cancel_at = choose.randrange(_SUSPENSIONS_MAX) if choose.randrange(100) < _CANCELLED_IN_A_HUNDRED else 10**6
            how = choose.choice(list(Cancel))
            history.told[swap.transition] = (swap, await _tell(storage, swapper, swap, cancel_at, how))

    async with asyncio.TaskGroup() as group:
        for worker in range(_WORKERS):
            group.create_task(work(worker))
    for job_id in ids:
        job = await storage.graph_job_repository.get_build_job(tenant, job_id)
        assert job is not None
        history.jobs[job_id] = job
        history.events[job_id] = await storage.graph_job_repository.list_events(tenant, job_id)
    return history


def _moved(seen: GraphBuildJob, transition: str, choose: random.Random) -> GraphBuildJob:
    """Gives a move of the job, most often one that is not its last; the row then tells which it was."""
    final = choose.random() < 0.1
    if seen.status is QUEUED:
        moved = seen.cancel(at=AT) if final else choose.choice([seen.edit(), seen.start(at=AT), seen.start(at=AT)])
    elif final:
        moved = seen.complete(at=AT, graph_snapshot_id="graph")
    else:
        moved = choose.choice([seen.renew(), seen.requeue(at=AT), seen.requeue(at=AT)])
    return moved.changed(metadata={"transition": transition})


async def _tell(storage: Storage, swapper: Swapper, swap: Swap, cancel_at: int, how: Cancel) -> Told:
    _, end = await cancelled_at(cancel_at, swapper(storage, swap), how)
    match end:
        case bool():
            return Told.LANDED if end else Told.LOST
        case "cancelled":
            return Told.UNKNOWN
        case DatabaseUnavailable():
            return Told.LOST  # that is its promise
        case DBAPIError():
            return Told.UNKNOWN  # of the transaction's end
    raise end


def problems(history: History) -> list[str]:
    """Says where the log, the rows and what was told disagree; nothing where all is well."""
    found: list[str] = []
    landed: dict[str, int] = defaultdict(int)
    for job_id, events in history.events.items():
        status, attempts, last = QUEUED, 0, ""
        for event in events:
            source, target = (GraphJobStatus.from_word(event.payload[end]) for end in ("from", "to"))
            last, now = event.payload["transition"], event.payload["attempts"]
            landed[last] += 1
            if source is not status:
                found.append(f"a gap in {job_id}: {last} goes from {source}, and it was {status}")
            if target not in TRANSITIONS[source] or target is not event.status:
                found.append(f"illegal in {job_id}: {last} goes from {source} to {target}")
            if now != attempts + (source is QUEUED and target is RUNNING):
                found.append(f"attempts in {job_id}: {last} has {now} after {attempts}")
            status, attempts = target, now
        job = history.jobs[job_id]
        if (status, attempts, last) != (job.status, job.attempts, job.metadata.get("transition", "")):
            found.append(f"the row of {job_id} is not where its log ends: {job.status} after {last}")
    for transition, (_, told) in history.told.items():
        count = landed.pop(transition, 0)
        legal = {Told.LANDED: (1,), Told.LOST: (0,), Told.UNKNOWN: (0, 1)}[told]
        if count not in legal:
            found.append(f"{transition} was told {told.value}, and is in the log {count} times")
    return found + [f"{transition} is in the log, and nobody tried it" for transition in landed]
