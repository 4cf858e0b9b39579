"""The tenant rotation of a worker: the tenants with queued jobs, listed often enough that no tenant is skipped."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from graphjobs.core.validation import BATCH_MAX
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.graph_jobs.status import GraphJobType

_FRESH_SECONDS: Final = 0.1
"""The time for which a complete list of tenants is used. Without it, a busy worker reads it before each claim."""


@dataclass(slots=True)
class TenantRotation:
    """The tenants with queued jobs of one type, in rotation.

    Attributes:
        queue: lists the tenants.
        job_type: the type of the jobs.
        tenant: the only tenant to serve; None means all.
    """

    queue: GraphJobQueue
    job_type: GraphJobType
    tenant: str | None
    _cursor: str = ""
    _waiting: tuple[str, ...] = field(default=())
    _stale_at: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def next_turn(self, limit: int) -> tuple[tuple[str, ...], bool]:
        """Return the next tenants in rotation, and whether this call read them from the database.

        If more than `limit` tenants wait, each call reads the tenants after the last one served. If all waiting
        tenants fit, each call returns all of them. No tenants are returned if none waits.
        """
        if self.tenant is not None:
            return (self.tenant,), True
        async with self._lock:  # two calls at once would return the same tenants
            return await self._next(limit)

    async def _next(self, limit: int) -> tuple[tuple[str, ...], bool]:
        now = asyncio.get_running_loop().time()
        reads = not (now < self._stale_at and 0 < len(self._waiting) <= limit)
        if reads:
            # One tenant more than the limit shows whether the list is complete.
            read_limit = min(limit + 1, BATCH_MAX)
            self._waiting = await self.queue.tenants_with(self.job_type, after=self._cursor, limit=read_limit)
            all_fit = len(self._waiting) < read_limit
            self._stale_at = now + _FRESH_SECONDS if all_fit else 0.0
            self._waiting = self._waiting[:limit]
            if self._waiting:
                # If all fit, another tenant is first next time: the first tenants get the remainder of the shares.
                self._cursor = self._waiting[0 if all_fit else -1]
        return self._waiting, reads

    def invalidate(self) -> None:
        """Discard the list of waiting tenants, after a claim that found fewer jobs than its limit."""
        self._stale_at = 0.0
