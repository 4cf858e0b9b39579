"""How a worker works: its numbers and waits, each with its bounds, and the back-off of whoever waits for a database."""

import os
import random
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Final, NamedTuple, TypeVar

from graphjobs.core.fields import check_name
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.core.validation import BATCH_MAX, LEASE_MAX
from graphjobs.errors import ConfigurationError, InvalidJob

CONCURRENCY_MAX: Final = 10_000

T = TypeVar("T")

_MILLISECOND: Final = timedelta(milliseconds=1)


class _Bounds(NamedTuple):
    least: int | timedelta
    most: int | timedelta


_BOUNDS: Final = {
    "concurrency": _Bounds(1, CONCURRENCY_MAX),
    "batch": _Bounds(1, BATCH_MAX),
    "attempts_max": _Bounds(1, ATTEMPTS_MAX),
    "poll": _Bounds(10 * _MILLISECOND, timedelta(hours=1)),
    "lease": _Bounds(timedelta(seconds=1), LEASE_MAX),
    "time_limit": _Bounds(_MILLISECOND, timedelta(days=7)),
    "grace": _Bounds(timedelta(0), timedelta(days=1)),
}


def _own_name() -> str:
    return f"{socket.gethostname()[:200]}/{os.getpid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker works.

    Attributes:
        tenant: whose jobs; None means everybody's, in turns.
        name: who it is, in the events of jobs; host and process where none is given.
        concurrency: the most handlers at once, 1 to 10,000.
        batch: the most jobs of one statement, 1 to 1,000.
        poll: how long it waits before it looks again where nothing was queued, give or take a quarter; up to an hour.
        lease: a running job that was not renewed for so long is taken for stopped, and rescued a little later; a second
            to a day. Its own jobs are renewed four times as often.
        attempts_max: a job that stopped at this attempt is failed, not queued again; attempts that were given back in
            order do not count.
        time_limit: the longest a handler may take; up to seven days.
        grace: how long handlers may go on once the worker is told to stop; up to a day.
        listen: whether it also waits for notices of queued jobs, which a storage with `notify` sends.
        rescue: whether it looks for jobs of workers that stopped.

    Raises:
        ConfigurationError: an option is out of its bounds; it is named.
    """

    tenant: str | None = None
    name: str = field(default_factory=_own_name)
    concurrency: int = 16
    batch: int = 100
    poll: timedelta = timedelta(seconds=1)
    lease: timedelta = timedelta(minutes=1)
    attempts_max: int = 3
    time_limit: timedelta = timedelta(minutes=15)
    grace: timedelta = timedelta(seconds=20)
    listen: bool = False
    rescue: bool = True

    def __post_init__(self) -> None:
        for option, (least, most) in _BOUNDS.items():
            value = getattr(self, option)
            fits = isinstance(value, type(least)) and not isinstance(value, bool)
            if not (fits and least <= value <= most):
                raise ConfigurationError(f"{option}: it should be {_shown(least)} to {_shown(most)}")
        for option in ("listen", "rescue"):
            if not isinstance(getattr(self, option), bool):
                raise ConfigurationError(f"{option}: it should be True or False")
        for option in ("tenant", "name"):
            value = getattr(self, option)
            if option == "tenant" and value is None:
                continue
            try:
                check_name(value, option)
            except InvalidJob as error:
                problem = str(error)
            else:
                continue
            raise ConfigurationError(problem)


def _shown(bound: int | timedelta) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"a timedelta of {bound}"


OPTIONS: Final = tuple(option.name for option in fields(WorkerOptions))
"""Their names, in order."""


class Backoff:
    """Waits that double up to a cap, each cut at random by up to a half, so that many do not come back at once."""

    def __init__(self, *, first_seconds: float = 0.1, cap_seconds: float = 10.0) -> None:
        self._first, self._cap = first_seconds, cap_seconds
        self._failures = 0

    def next_seconds(self) -> float:
        """Gives the next wait."""
        wait = min(self._cap, self._first * float(2 ** min(self._failures, 32)))
        self._failures += 1
        return wait * random.uniform(0.5, 1.0)  # noqa: S311  # no secret

    def reset(self) -> bool:
        """Begins anew: it worked. Tells whether it had failed before."""
        failed, self._failures = self._failures > 0, 0
        return failed


def batches_of(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Gives a list in pieces that one statement takes each."""
    return (items[start : start + size] for start in range(0, len(items), size))


def jittered(seconds: float) -> float:
    """Gives a wait, longer or shorter by up to a quarter."""
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311  # no secret
