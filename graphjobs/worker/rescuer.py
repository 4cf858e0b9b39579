"""Finds jobs whose workers have stopped, and queues again what is seen twice and has not moved in between."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from graphjobs.core.results import RescueResult, StalledItem
from graphjobs.errors import GraphJobsError
from graphjobs.worker.options import WorkerOptions, batches_of, jittered
from graphjobs.worker.stats import Tally

_LOOKS_A_LEASE: Final = 2
_SIGHTINGS_MAX: Final = 100_000
"""Of more stopped jobs than that at once, the first are forgotten, and seen again."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Rescuer:
    """Looks for stopped jobs, now and then.

    Attributes:
        looks: each gives some that seem to have stopped.
        take: takes those that have.
        options: the worker's.
        counts: the worker's.
        requeued: called where something was queued again.
    """

    looks: Sequence[Callable[[], Awaitable[Sequence[StalledItem]]]]
    take: Callable[[Sequence[StalledItem]], Awaitable[RescueResult]]
    options: WorkerOptions
    counts: Tally
    requeued: Callable[[], None]
    _seen: dict[UUID, StalledItem] = field(default_factory=dict)

    async def run(self) -> None:
        """Looks for ever, twice a lease; between two looks a live job is renewed at least once."""
        every = self.options.lease.total_seconds() / _LOOKS_A_LEASE
        while True:
            await asyncio.sleep(jittered(every))
            for look in self.looks:
                try:
                    await self.taken_of(await look())
                except GraphJobsError as error:
                    _log.warning("no stopped jobs could be looked for: %s", error)

    async def taken_of(self, seen: Sequence[StalledItem]) -> None:
        """Takes what was seen before and has not moved since; remembers what is seen for the first time."""
        unmoved = []
        for sighting in seen:
            if self._seen.pop(sighting.job_id, None) == sighting:
                unmoved.append(sighting)
            else:
                self._seen[sighting.job_id] = sighting
        while len(self._seen) > _SIGHTINGS_MAX:
            del self._seen[next(iter(self._seen))]
        for batch in batches_of(unmoved, self.options.batch):
            rescued = await self.take(batch)
            self._tell(rescued, {sighting.job_id: sighting for sighting in batch})

    def _tell(self, rescued: RescueResult, seen: Mapping[UUID, StalledItem]) -> None:
        self.counts.rescued += len(rescued.requeued)
        self.counts.rescued_to_fail += len(rescued.failed)
        for job_id in rescued.requeued:
            _log.warning("job %s of a worker that stopped is queued again", job_id, extra=_about(seen[job_id]))
        for job_id in rescued.failed:
            _log.error("job %s of a worker that stopped has failed", job_id, extra=_about(seen[job_id]))
        if rescued.requeued:
            self.requeued()


def _about(sighting: StalledItem) -> dict[str, object]:
    return {"job": str(sighting.job_id), "tenant": sighting.tenant_id, "attempts": sighting.attempts}
