"""Writes how jobs ended, many in one statement; holds on to what cannot be written yet."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Generic, Protocol
from uuid import UUID

from uuid_utils.compat import uuid7

from graphjobs.core.results import FinishResult
from graphjobs.errors import GraphJobsError, InvalidJob, OutcomeUnknown
from graphjobs.worker.context import E, J
from graphjobs.worker.options import Backoff

_TOO_MUCH: Final = {"53200", "57014"}
"""Out of memory, out of time: less of it at once may pass."""
_REFUSED: Final = ("22", "23")
"""Classes of what is wrong with what is written, and not with the database."""
_BUSY_SECONDS: Final = 0.05
_FAILED: Final = "failed"

_log = logging.getLogger(__name__)


class Queue(Protocol):
    """Where ends are written."""

    async def end(self, results: Any, *, actor: str | None = None, transition_id: UUID | None = None) -> FinishResult:
        """Ends attempts, many in one statement; see `GraphJobQueue.end`."""
        ...


@dataclass(slots=True)
class Writer(Generic[J, E]):
    """Takes endings, and writes them about in their order as fast as they come.

    Attributes:
        queue: where they are written.
        actor: who wrote, for the events.
        batch: the most of one statement.
        written: called with each ending, once it is known what came of it: None, or where the job is instead.
        failed: gives how a job ends whose end cannot be stored.
    """

    queue: Queue
    actor: str
    batch: int
    written: Callable[[E, str | None], None]
    failed: Callable[[J, str], E]
    _waiting: deque[E] = field(default_factory=deque)
    _under_way: list[E] = field(default_factory=list)
    _some: asyncio.Event = field(default_factory=asyncio.Event)
    _none: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    @property
    def jobs(self) -> list[J]:
        """The jobs whose endings are not written yet: they are to be kept alive."""
        return [ending.job for ending in (*self._under_way, *self._waiting)]

    def add(self, ending: E) -> None:
        """Takes an ending to write."""
        self._waiting.append(ending)
        self._none.clear()
        self._some.set()

    async def run(self) -> None:
        """Writes for ever; cancelled and run again, it goes on where it was."""
        while True:
            # What was under way when the run before was cancelled; the fence lets none of it end twice.
            self._waiting.extendleft(reversed(self._under_way))
            self._under_way = []
            if not self._waiting:
                self._some.clear()
                self._none.set()
                await self._some.wait()
            self._under_way = [self._waiting.popleft() for _ in range(min(self.batch, len(self._waiting)))]
            await self._write(list(self._under_way), uuid7())

    async def drained(self, within: timedelta) -> bool:
        """Waits until everything is written; False where that took too long."""
        if not len(self):
            return True
        try:
            async with asyncio.timeout(within.total_seconds()):
                await self._none.wait()
        except TimeoutError:
            return False
        return True

    async def _write(self, endings: Sequence[E], named: UUID) -> None:
        """Writes, as often as it takes; by the same transition id each time, so that what has landed is known again."""
        backoff, unsure = Backoff(), False
        while True:
            try:
                ended = await self.queue.end(endings, actor=self.actor, transition_id=named)
            except GraphJobsError as error:
                if len(endings) > 1 and (_refused(error) or error.sqlstate in _TOO_MUCH):
                    # One of them is what the database refuses; alone, it harms no other.
                    half = len(endings) // 2
                    await self._write(endings[:half], named)
                    await self._write(endings[half:], named)
                    return
                if _refused(error):
                    self._refuse(endings[0], error)
                    return
                unsure = unsure or isinstance(error, OutcomeUnknown)
                _log.warning("%s jobs have ended, and wait to be written: %s", len(self), error)
                await asyncio.sleep(backoff.next_seconds())
                continue
            if not (unsure and ended.busy):
                await self._tell(endings, ended)
                return
            # Whoever has those rows may be the first try: only by its own id will it be known again.
            await asyncio.sleep(_BUSY_SECONDS)

    async def _tell(self, endings: Sequence[E], ended: FinishResult) -> None:
        for ending in endings:
            if ending.job.id in ended.busy:
                self._put_back(ending, ending)
            else:
                self._under_way.remove(ending)
                self.written(ending, ended.lost.get(ending.job.id))
        if len(ended.busy) == len(endings):
            # Somebody else has their rows; whoever comes meanwhile is not kept waiting for them.
            await asyncio.sleep(_BUSY_SECONDS)

    def _put_back(self, ending: E, instead: E) -> None:
        self._under_way.remove(ending)
        self._waiting.append(instead)

    def _refuse(self, ending: E, error: GraphJobsError) -> None:
        """Has a job fail whose end cannot be stored, for this reason."""
        if ending.status != _FAILED:
            reason = f"its end as {ending.status} could not be stored: {error}"
            self._put_back(ending, self.failed(ending.job, reason))
            return
        self._under_way.remove(ending)
        self.written(ending, f"not even that it failed could be stored: {error}")


def _refused(error: GraphJobsError) -> bool:
    return isinstance(error, InvalidJob) or (error.sqlstate or "").startswith(_REFUSED)
