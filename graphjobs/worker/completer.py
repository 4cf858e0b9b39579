"""The completer: store attempt results in batches, and keep them while the database is unavailable."""

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
from graphjobs.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    GraphJobsError,
    InvalidJob,
    OutcomeUnknown,
    SchemaOutOfDate,
)
from graphjobs.worker.context import E, J
from graphjobs.worker.options import Backoff
from graphjobs.worker.refusals import is_answer

_BATCH_TOO_LARGE: Final = {"53200", "57014"}
"""SQLSTATEs out of memory and query canceled: a smaller batch may succeed."""
_INVALID_VALUE: Final = ("22", "23")
"""SQLSTATE classes of errors in the values, not in the database."""
_NOT_ABOUT_RESULTS: Final = (DatabaseUnavailable, OutcomeUnknown, SchemaOutOfDate)
"""Errors of the connection or the server, which all results have in common."""
_BUSY_SECONDS: Final = 0.05
_FAILED: Final = "failed"

_log = logging.getLogger(__name__)


class ResultSink(Protocol):
    """The part of a queue that stores attempt results."""

    async def end(self, results: Any, *, actor: str | None = None, transition_id: UUID | None = None) -> FinishResult:
        """Finish attempts, many in one statement; see `GraphJobQueue.end`."""
        ...


@dataclass(slots=True)
class BatchCompleter(Generic[J, E]):
    """Stores attempt results about in their order.

    Attributes:
        sink: stores them.
        actor: the actor in the events.
        batch: the maximum number of results per statement.
        on_written: called with each result when its outcome is known: None if it is stored, otherwise the reason why
            the job is lost.
        unstorable: returns the result of a job if the database refuses its own result.
    """

    sink: ResultSink
    actor: str
    batch: int
    on_written: Callable[[E, str | None], None]
    unstorable: Callable[[J, str], E]
    _waiting: deque[E] = field(default_factory=deque)
    _set_aside: dict[UUID, E] = field(default_factory=dict)
    _refused: dict[UUID, Backoff] = field(default_factory=dict)
    _in_write: list[E] = field(default_factory=list)
    _has_work: asyncio.Event = field(default_factory=asyncio.Event)
    _is_empty: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_write) + len(self._set_aside)

    @property
    def unwritten(self) -> int:
        """The number of results that wait for the database, without those that it refused."""
        return len(self._waiting) + len(self._in_write)

    @property
    def jobs(self) -> list[J]:
        """The jobs without a stored result; they still need heartbeats."""
        return [result.job for result in (*self._in_write, *self._waiting, *self._set_aside.values())]

    def add(self, result: E) -> None:
        """Add a result to store."""
        self._waiting.append(result)
        self._is_empty.clear()
        self._has_work.set()

    async def run(self) -> None:
        """Store results until cancelled. Run again after that, it continues with the remaining results."""
        while True:
            # A cancelled run may have left a batch in write; the fence stops a second finish of the same attempt.
            self._waiting.extendleft(reversed(self._in_write))
            self._in_write = []
            if not self._waiting:
                self._has_work.clear()
                if not self._set_aside:
                    self._is_empty.set()
                await self._has_work.wait()
            self._in_write = [self._waiting.popleft()]
            # A result that was refused before is tried alone.
            while (
                self._waiting
                and len(self._in_write) < self.batch
                and self._refused.keys().isdisjoint((self._in_write[-1].job.id, self._waiting[0].job.id))
            ):
                self._in_write.append(self._waiting.popleft())
            await self._write(list(self._in_write), uuid7())

    async def drained(self, timeout: timedelta) -> bool:
        """Wait until all results are stored. Return False after the timeout."""
        if not len(self):
            return True
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await self._is_empty.wait()
        except TimeoutError:
            return False
        return True

    async def _write(self, results: Sequence[E], transition_id: UUID, *, is_suspect: bool = False) -> None:
        """Store a batch, with retries. The same transition id each time lets the queue recognize an applied write.

        A trigger of the host may answer for one result as if for the whole server: a lock, a time-out, a missing table.
        What the server answers twice is therefore taken for a refusal of one of the results.

        Args:
            results: the batch.
            transition_id: identifies the write.
            is_suspect: whether the server has refused a larger batch with these results.
        """
        backoff, in_doubt = Backoff(), False
        while True:
            try:
                finished = await self.sink.end(results, actor=self.actor, transition_id=transition_id)
            except ConfigurationError:
                raise
            except GraphJobsError as error:
                refused = not isinstance(error, _NOT_ABOUT_RESULTS) or (
                    is_suspect and not in_doubt and is_answer(error)
                )
                if len(results) > 1 and (refused or error.sqlstate in _BATCH_TOO_LARGE):
                    # The database refuses one of the results; in a batch of its own it affects no other.
                    half = len(results) // 2
                    await self._write(results[:half], transition_id, is_suspect=True)
                    await self._write(results[half:], transition_id, is_suspect=True)
                    return
                if refused and _is_invalid_value(error):
                    self._replace(results[0], error)
                    return
                if refused:
                    self._put_aside(results[0], error)
                    return
                in_doubt = in_doubt or isinstance(error, OutcomeUnknown)
                is_suspect = is_suspect or is_answer(error)
                _log.warning("%s attempt results are not stored yet: %s", len(self), error)
                await asyncio.sleep(backoff.next_seconds())
                continue
            if not (in_doubt and finished.busy):
                await self._report(results, finished)
                return
            # The first try may hold the busy rows: only a retry with its own transition id recognizes it.
            await asyncio.sleep(_BUSY_SECONDS)

    async def _report(self, results: Sequence[E], finished: FinishResult) -> None:
        for result in results:
            if result.job.id in finished.busy:
                self._put_back(result, result)
            elif result.job.id in finished.refused:
                self._replace(result, finished.refused[result.job.id])
            else:
                self._in_write.remove(result)
                self._refused.pop(result.job.id, None)
                self.on_written(result, finished.lost.get(result.job.id))
        if len(finished.busy) == len(results):
            # Another transaction holds all rows of this batch. Later results do not wait for it.
            await asyncio.sleep(_BUSY_SECONDS)

    def _put_aside(self, result: E, error: GraphJobsError) -> None:
        """Try a result again later: the server refuses it, and not for its values, so its attempt has not failed."""
        job_id = result.job.id
        wait = self._refused.setdefault(job_id, Backoff()).next_seconds()
        _log.error("the result of job %s is refused, next try in %.1f s: %s", job_id, wait, error)
        self._in_write.remove(result)
        self._set_aside[job_id] = result
        asyncio.get_running_loop().call_later(wait, self._return, result)

    def _return(self, result: E) -> None:
        if self._set_aside.pop(result.job.id, None) is not None:
            self.add(result)

    def _put_back(self, result: E, replacement: E) -> None:
        self._in_write.remove(result)
        self._waiting.append(replacement)

    def _replace(self, result: E, error: GraphJobsError | str) -> None:
        """Replace a result that the database refuses by a failed one with the reason."""
        if result.status != _FAILED:
            reason = f"its result {result.status} could not be stored: {error}"
            self._put_back(result, self.unstorable(result.job, reason))
            return
        self._in_write.remove(result)
        self.on_written(result, f"its result failed could not be stored: {error}")


def _is_invalid_value(error: GraphJobsError) -> bool:
    return isinstance(error, InvalidJob) or (error.sqlstate or "").startswith(_INVALID_VALUE)
