"""The options of a worker with their bounds, and the back-off of its retries."""

import os
import random
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeVar

from graphjobs.core.fields import check_name
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.core.validation import BATCH_MAX, LEASE_MAX
from graphjobs.errors import ConfigurationError, InvalidJob
from graphjobs.worker.error_texts import Redact

CONCURRENCY_MAX: Final = 10_000
POLL_COST_FACTOR: Final = 9
"""A worker waits for so many times as long as a query took that may be slow: it takes at most a tenth of the time."""

T = TypeVar("T")

_MILLISECOND: Final = timedelta(milliseconds=1)
_BOUNDS: Final[dict[str, tuple[int, int] | tuple[timedelta, timedelta]]] = {
    "concurrency": (1, CONCURRENCY_MAX),
    "batch": (1, BATCH_MAX),
    "attempts_max": (1, ATTEMPTS_MAX),
    "poll": (10 * _MILLISECOND, timedelta(hours=1)),
    "lease": (timedelta(seconds=1), LEASE_MAX),
    "time_limit": (_MILLISECOND, timedelta(days=7)),
    "grace": (timedelta(0), timedelta(days=1)),
}
"""The minimum and the maximum of each option that has bounds."""


def _default_name() -> str:
    return f"{socket.gethostname()[:200]}/{os.getpid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The options of a worker.

    Attributes:
        tenant: the tenant of the jobs; None means all tenants, in rotation.
        name: the name of the worker, the actor in the events of jobs; the default is host and process id.
        concurrency: the maximum number of handlers at once, 1 to 10,000.
        batch: the maximum number of jobs per statement, 1 to 1,000.
        poll: the wait before the next query if nothing is queued, plus or minus a quarter; 10 ms to an hour.
        lease: a running job without a heartbeat for this time is stalled, and is rescued a little later; a second to a
            day. The worker's own jobs get four heartbeats per lease.
        attempts_max: a job that stalls at this attempt is failed, not queued again; released attempts do not count.
        time_limit: the maximum duration of a handler; a millisecond to seven days.
        grace: how long handlers may continue after the request to stop; up to a day.
        listen: whether notifications wake the worker; a storage with `notify` sends them.
        rescue: whether the worker rescues stalled jobs.
        redact: changes the text of a handler's exception before it is stored, for instance to remove secrets; None
            stores it as it is. The log of the worker has the exception itself.

    Raises:
        ConfigurationError: an option is out of its bounds; the error names it.
    """

    tenant: str | None = None
    name: str = field(default_factory=_default_name)
    concurrency: int = 16
    batch: int = 100
    poll: timedelta = timedelta(seconds=1)
    lease: timedelta = timedelta(minutes=1)
    attempts_max: int = 3
    time_limit: timedelta = timedelta(minutes=15)
    grace: timedelta = timedelta(seconds=20)
    listen: bool = False
    rescue: bool = True
    redact: Redact | None = None

    @property
    def apart_after(self) -> int | None:
        """The number of attempts after which a job that lost one runs alone: all but the last. None if one is all."""
        return self.attempts_max - 1 or None

    def __post_init__(self) -> None:
        for option, (lower, upper) in _BOUNDS.items():
            value = getattr(self, option)
            has_type = isinstance(value, type(lower)) and not isinstance(value, bool)
            if not (has_type and lower <= value <= upper):
                kind = "an integer" if isinstance(lower, int) else "a timedelta"
                raise ConfigurationError(f"{option} must be {kind} between {_format(lower)} and {_format(upper)}")
        for option in ("listen", "rescue"):
            if not isinstance(getattr(self, option), bool):
                raise ConfigurationError(f"{option} must be True or False")
        if not (self.redact is None or callable(self.redact)):
            raise ConfigurationError("redact must be a function from text to text, or None")
        for option in ("tenant", "name"):
            value = getattr(self, option)
            if option == "tenant" and value is None:
                continue
            try:
                check_name(value, option)
            except InvalidJob as error:
                raise ConfigurationError(str(error)) from None


def _format(bound: int | timedelta) -> str:
    return f"{bound:,}" if isinstance(bound, int) else str(bound)


class Backoff:
    """Waits that double up to a cap, reduced at random by up to a half, so that workers do not retry at once."""

    def __init__(self, *, first_seconds: float = 0.1, cap_seconds: float = 10.0) -> None:
        self._first, self._cap = first_seconds, cap_seconds
        self._failures = 0

    def next_seconds(self) -> float:
        """Return the next wait."""
        wait = min(self._cap, self._first * float(2 ** min(self._failures, 32)))
        self._failures += 1
        return wait * random.uniform(0.5, 1.0)  # noqa: S311  # no secret

    def reset(self) -> bool:
        """Start again with the first wait. Return whether there were failures since the last reset."""
        failed, self._failures = self._failures > 0, 0
        return failed


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Split a list into batches of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def jittered(seconds: float) -> float:
    """Return the wait, increased or reduced at random by up to a quarter."""
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311  # no secret
