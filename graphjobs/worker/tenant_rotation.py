"""Whose turn it is: the tenants that wait for a claim, read anew often enough that none is overlooked."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from graphjobs.core.validation import BATCH_MAX
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.graph_jobs.status import GraphJobType

_FRESH_SECONDS: Final = 0.1
"""So long a list of all that wait is good for; a busy worker would else read it before each claim, for nothing."""


@dataclass(slots=True)
class Rotation:
    """The tenants that have jobs of one kind queued, in turns.

    Attributes:
        queue: where they are read.
        kind: of which jobs.
        tenant: the only one to serve; None means all.
    """

    queue: GraphJobQueue
    kind: GraphJobType
    tenant: str | None
    _cursor: str = ""
    _waiting: tuple[str, ...] = field(default=())
    _stale_at: float = 0.0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def next_turn(self, limit: int) -> tuple[tuple[str, ...], bool]:
        """Gives those whose turn it is, at most so many, and whether that was read just now; none where nobody waits.

        Where more wait than that, they are read each time from after the last one that was served. Where all of them
        fit, all are served each time.
        """
        if self.tenant is not None:
            return (self.tenant,), True
        async with self._turn:  # two at once would be given the same
            return await self._next(limit)

    async def _next(self, limit: int) -> tuple[tuple[str, ...], bool]:
        now = asyncio.get_running_loop().time()
        read = not (now < self._stale_at and 0 < len(self._waiting) <= limit)
        if read:
            # One more than there is room for tells whether these are all.
            most = min(limit + 1, BATCH_MAX)
            self._waiting = await self.queue.tenants_with(self.kind, after=self._cursor, limit=most)
            all_fit = len(self._waiting) < most
            self._stale_at = now + _FRESH_SECONDS if all_fit else 0.0
            self._waiting = self._waiting[:limit]
            if self._waiting:
                # All fit: then another is first next time, for those in front get what is left over of the shares.
                self._cursor = self._waiting[0 if all_fit else -1]
        return self._waiting, read

    def look_again(self) -> None:
        """Forgets who waits: fewer jobs were found than asked for."""
        self._stale_at = 0.0
