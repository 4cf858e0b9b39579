"""Finds jobs whose workers have stopped, and queues again what is seen twice and has not moved in between."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from graphjobs.attempts import Rescued, Sighting
from graphjobs.errors import GraphJobsError
from graphjobs.jobs.queue import GraphJobQueue
from graphjobs.jobs.status import GraphJobType
from graphjobs.worker.counts import Counts
from graphjobs.worker.options import WorkerOptions, batches_of, jittered

_LOOKS_A_LEASE: Final = 2
_SIGHTINGS_MAX: Final = 100_000
"""Of more stopped jobs than that at once, the first are forgotten, and seen again."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Rescuer:
    """Looks for stopped jobs, now and then.

    Attributes:
        queue: where they are.
        options: the worker's.
        kinds: of which jobs.
        counts: the worker's.
        requeued: called where something was queued again.
    """

    queue: GraphJobQueue
    options: WorkerOptions
    kinds: Iterable[GraphJobType]
    counts: Counts
    requeued: Callable[[], None]
    _seen: dict[UUID, Sighting] = field(default_factory=dict)
    _cursors: dict[GraphJobType, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Looks for ever, twice a lease; between two looks a live job is renewed at least once."""
        every = self.options.lease.total_seconds() / _LOOKS_A_LEASE
        while True:
            await asyncio.sleep(jittered(every))
            for kind in self.kinds:
                try:
                    await self._look(kind)
                except GraphJobsError as error:
                    _log.warning("no stopped jobs could be looked for: %s", error)

    async def _look(self, kind: GraphJobType) -> None:
        """Takes what was seen before and has not moved since; remembers what is seen for the first time."""
        options = self.options
        seen, self._cursors[kind] = await self.queue.stalled(
            options.tenant, kind, silence=options.lease, after=self._cursors.get(kind, "")
        )
        unmoved = []
        for sighting in seen:
            if self._seen.pop(sighting.job_id, None) == sighting:
                unmoved.append(sighting)
            else:
                self._seen[sighting.job_id] = sighting
        while len(self._seen) > _SIGHTINGS_MAX:
            del self._seen[next(iter(self._seen))]
        for batch in batches_of(unmoved, options.batch):
            rescued = await self.queue.rescue(batch, attempts_max=options.attempts_max, actor=options.name)
            self._tell(rescued, {sighting.job_id: sighting for sighting in batch})

    def _tell(self, rescued: Rescued, seen: Mapping[UUID, Sighting]) -> None:
        self.counts.rescued += len(rescued.requeued)
        self.counts.rescued_to_fail += len(rescued.failed)
        for job_id in rescued.requeued:
            _log.warning("job %s of a worker that stopped is queued again", job_id, extra=_about(seen[job_id]))
        for job_id in rescued.failed:
            _log.error("job %s of a worker that stopped has failed", job_id, extra=_about(seen[job_id]))
        if rescued.requeued:
            self.requeued()


def _about(sighting: Sighting) -> dict[str, object]:
    return {"job": str(sighting.job_id), "tenant": sighting.tenant_id, "attempts": sighting.attempts}
