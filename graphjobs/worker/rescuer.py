"""The rescuer: find stalled jobs, and rescue those that two scans find at the same version."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from graphjobs.core.results import RescueResult, StalledItem
from graphjobs.errors import ConfigurationError, GraphJobsError
from graphjobs.worker.options import POLL_COST_FACTOR, WorkerOptions, batched, jittered
from graphjobs.worker.refusals import apply_in_halves
from graphjobs.worker.stats import BaseStats

_SCANS_PER_LEASE: Final = 2
_STALLED_MAX: Final = 100_000
"""The number of stalled jobs that are remembered; of more, the oldest are forgotten and found again."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Rescuer:
    """Scans for stalled jobs in the background, and rescues them.

    Attributes:
        scans: functions that each read the part of the jobs after a cursor, and return the stalled ones and the next
            cursor, which is empty at the end.
        rescue: rescues stalled jobs at their version.
        options: the options of the worker.
        stats: the counters of the worker.
        on_requeued: called if jobs were queued again.
    """

    scans: Sequence[Callable[[str], Awaitable[tuple[Sequence[StalledItem], str]]]]
    rescue: Callable[[Sequence[StalledItem]], Awaitable[RescueResult]]
    options: WorkerOptions
    stats: BaseStats
    on_requeued: Callable[[], None]
    _candidates: dict[UUID, StalledItem] = field(default_factory=dict)

    async def run(self) -> None:
        """Scan twice per lease, until cancelled; between two scans a live job has at least one heartbeat.

        Where very much runs, a scan is slow: scans take at most a tenth of the time.
        """
        interval, elapsed = self.options.lease.total_seconds() / _SCANS_PER_LEASE, 0.0
        while True:
            await asyncio.sleep(max(jittered(interval), POLL_COST_FACTOR * elapsed))
            started = time.monotonic()
            for scan in self.scans:
                try:
                    await self._process_all(scan)
                except ConfigurationError:
                    raise
                except GraphJobsError as error:
                    _log.warning("the scan for stalled jobs failed: %s", error)
            elapsed = time.monotonic() - started

    async def _process_all(self, scan: Callable[[str], Awaitable[tuple[Sequence[StalledItem], str]]]) -> None:
        items, cursor = await scan("")
        await self.process(items)
        while cursor:
            items, cursor = await scan(cursor)
            await self.process(items)

    async def process(self, stalled: Sequence[StalledItem]) -> None:
        """Rescue the jobs that an earlier scan found at the same version; remember the others."""
        unchanged = []
        for item in stalled:
            if self._candidates.pop(item.job_id, None) == item:
                unchanged.append(item)
            else:
                self._candidates[item.job_id] = item
        while len(self._candidates) > _STALLED_MAX:
            del self._candidates[next(iter(self._candidates))]
        for batch in batched(unchanged, self.options.batch):
            await apply_in_halves(batch, self._rescue_batch)

    async def _rescue_batch(self, batch: Sequence[StalledItem]) -> None:
        self._record(await self.rescue(batch), {item.job_id: item for item in batch})

    def _record(self, result: RescueResult, items: Mapping[UUID, StalledItem]) -> None:
        self.stats.rescued += len(result.requeued)
        self.stats.rescue_failed += len(result.failed)
        for job_id in result.requeued:
            _log.warning("stalled job %s is queued again", job_id, extra=_log_fields(items[job_id]))
        for job_id in result.failed:
            _log.error("stalled job %s has failed", job_id, extra=_log_fields(items[job_id]))
        if result.requeued:
            self.on_requeued()


def _log_fields(item: StalledItem) -> dict[str, object]:
    return {"job": str(item.job_id), "tenant": item.tenant_id, "attempts": item.attempts}
