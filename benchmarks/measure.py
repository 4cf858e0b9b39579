"""Paired timing: competitors take turns in short slices, and each round has its own ratio. No database here.

The machine is shared and noisy. Noise slows all slices of a round alike, so the ratio of two slices of one round is
more precise than two medians. Targets apply to the median of these ratios.
"""

import asyncio
import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

Call: TypeAlias = Callable[[], Awaitable[object]]
"""One prepared operation: the inputs that a caller has at hand are made outside of the timed part."""

_CALLS_MAX: Final = 50_000
_MICROSECONDS: Final = 1e6


class BenchmarkError(Exception):
    """An operation returned a wrong result, so its time has no meaning."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The length of a measurement.

    Attributes:
        rounds: the number of turns of each competitor, at least 2.
        slice_seconds: the approximate length of a turn.
        warm_up_seconds: the minimum run time of each competitor before the first round.
    """

    rounds: int
    slice_seconds: float
    warm_up_seconds: float

    def shortened(self, times: float) -> "Pace":
        """Return a pace with turns that are shorter by this factor."""
        return Pace(self.rounds, self.slice_seconds / times, self.warm_up_seconds / times)


@dataclass(frozen=True, slots=True)
class Entry:
    """One competitor at one operation.

    Attributes:
        competitor: its name in the table.
        prepare: returns this number of calls for each caller. Not timed.
        is_done: checks the answer of a call.
        stock: awaited before `prepare` with the same number: stores the rows that the calls use up. Not timed. None for
            calls that use no rows up.
    """

    competitor: str
    prepare: Callable[[int], list[list[Call]]]
    is_done: Callable[[object], bool] = bool
    stock: Callable[[int], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of the times of two competitors, round by round.

    Attributes:
        of: the competitor in the numerator.
        against: the competitor in the denominator.
        median: the median of the rounds' ratios.
        low: the first decile of the ratios.
        high: the last decile of the ratios.
        at_most: the upper target, or None.
        at_least: the lower target, or None.
    """

    of: str
    against: str
    median: float
    low: float
    high: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the target was reached; None without a target."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.median <= self.at_most) and (
            self.at_least is None or self.median >= self.at_least
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a suite's table.

    Attributes:
        operation: the operation, such as "get".
        callers: the number of concurrent callers.
        competitor: the competitor.
        median: the median of the rounds, in `unit`.
        ratios: the ratios to other competitors, the one for the table first.
        unit: the unit of `median`; microseconds per operation are wall time divided by the operations of all callers.
        cpu: the CPU time of this process in the same unit, or None. It excludes the wait for the server and most of
            the noise of the machine.
    """

    operation: str
    callers: int
    competitor: str
    median: float
    ratios: tuple[Ratio, ...] = ()
    unit: str = "µs/op"
    cpu: float | None = None

    @classmethod
    def of(
        cls,
        times: "Times",
        competitor: str,
        *,
        operation: str,
        callers: int,
        ratios: tuple[Ratio, ...] = (),
    ) -> Self:
        """Build the figure of a competitor from the times of `paired`."""
        median, cpu = statistics.median(times.wall[competitor]), statistics.median(times.cpu[competitor])
        return cls(operation, callers, competitor, median, ratios, cpu=cpu)


@dataclass(frozen=True, slots=True)
class Times:
    """The microseconds per operation of each competitor, one figure per round, in the order of rounds.

    Attributes:
        wall: wall time divided by the operations of all callers.
        cpu: CPU time of this process.
    """

    wall: Mapping[str, list[float]]
    cpu: Mapping[str, list[float]]


async def paired(entries: Sequence[Entry], pace: Pace, order: random.Random) -> Times:
    """Time the competitors in turns, in a new order each round.

    Raises:
        BenchmarkError: an operation returned a wrong result.
    """
    sizes = {entry.competitor: await _warm_up(entry, pace) for entry in entries}
    times = Times({name: [] for name in sizes}, {name: [] for name in sizes})
    for _ in range(pace.rounds):
        for entry in order.sample(entries, len(entries)):
            wall_seconds, cpu_seconds, calls = await _slice(entry, sizes[entry.competitor])
            times.wall[entry.competitor].append(wall_seconds / calls * _MICROSECONDS)
            times.cpu[entry.competitor].append(cpu_seconds / calls * _MICROSECONDS)
    gc.unfreeze()
    return times


def ratio(
    times: Times,
    of: str,
    against: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Ratio:
    """Compare two competitors of one `paired` run, round by round."""
    return compared(times.wall[of], times.wall[against], of=of, against=against, at_most=at_most, at_least=at_least)


def compared(
    above: Sequence[float],
    below: Sequence[float],
    *,
    of: str,
    against: str,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Ratio:
    """Compare two lists of figures, round by round."""
    ratios = [numerator / denominator for numerator, denominator in zip(above, below, strict=True)]
    tenths = statistics.quantiles(ratios, n=10, method="inclusive")
    return Ratio(of, against, statistics.median(ratios), tenths[0], tenths[-1], at_most, at_least)


async def _warm_up(entry: Entry, pace: Pace) -> int:
    """Run a competitor until connections, plans and caches are warm; return the number of calls for a slice."""
    number, spent = 4, 0.0
    while True:
        seconds, _, _ = await _slice(entry, number)
        spent += seconds
        if seconds >= pace.slice_seconds / 2 and spent >= pace.warm_up_seconds:
            return max(1, round(number * pace.slice_seconds / seconds))
        number = min(number * 2 if seconds < pace.slice_seconds / 2 else number, _CALLS_MAX)


async def _slice(entry: Entry, number: int) -> tuple[float, float, int]:
    """Make `number` calls for each concurrent caller; return seconds, CPU seconds and the number of all calls."""
    if entry.stock is not None:
        await entry.stock(number)
    callers = entry.prepare(number)
    # Collect garbage before the slice and freeze the prepared calls; within the slice the collector runs as usual.
    gc.collect()
    gc.freeze()
    started, cpu_started = time.perf_counter(), time.process_time()
    if len(callers) == 1:
        await _caller(entry, callers[0])
    else:
        async with asyncio.TaskGroup() as group:
            for calls in callers:
                group.create_task(_caller(entry, calls))
    wall_seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return wall_seconds, cpu_seconds, sum(len(calls) for calls in callers)


async def _caller(entry: Entry, calls: Sequence[Call]) -> None:
    is_done = entry.is_done
    for call in calls:
        if not is_done(await call()):
            raise BenchmarkError(f"{entry.competitor}: an operation returned a wrong result: {call}")
