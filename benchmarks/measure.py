"""Paired timing: competitors take turns in short slices, and a ratio is taken within each round; knows no database.

The machine is shared and noisy. What slows a round down slows all of its slices alike, so the ratio of two slices of
one round says more than two medians do: the median of those ratios is what targets are held against.
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
"""One operation, ready to be made: what its caller would have at hand was prepared outside the timed part."""

_CALLS_MAX: Final = 50_000
_MICROSECONDS: Final = 1e6


class BenchmarkError(Exception):
    """An operation did not do what it should, so its time would mean nothing."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: how often each competitor has its turn, at least 2.
        slice_seconds: about how long a turn takes.
        warm_up_seconds: how long each competitor runs before the first round, at least.
    """

    rounds: int
    slice_seconds: float
    warm_up_seconds: float

    def hastened(self, times: float) -> "Pace":
        """Gives the pace at which a turn is so many times as short."""
        return Pace(self.rounds, self.slice_seconds / times, self.warm_up_seconds / times)


@dataclass(frozen=True, slots=True)
class Entry:
    """One competitor at one operation.

    Attributes:
        competitor: its name in the table.
        prepare: gives so many calls for each caller. Not timed.
        done: tells from an answer whether the operation did what it should.
        stock: awaited before `prepare` with the same number: stores what so many calls for each caller use up. Not
            timed. None where they use up nothing.
    """

    competitor: str
    prepare: Callable[[int], list[list[Call]]]
    done: Callable[[object], bool] = bool
    stock: Callable[[int], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """How one competitor's time compares with another's, round by round.

    Attributes:
        of: the competitor above the line.
        against: the one below it.
        median: of the rounds' ratios.
        low: a tenth of the rounds were below.
        high: a tenth of the rounds were above.
        at_most: the target; None where none was set.
        at_least: as `at_most`, from below.
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
        """Whether the target was reached; None where there is none."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.median <= self.at_most) and (
            self.at_least is None or self.median >= self.at_least
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a suite's table.

    Attributes:
        operation: what was done, "get".
        callers: how many did it at once.
        competitor: who did it.
        median: of the rounds, in `unit`.
        ratios: how that compares, the one to show in the table first.
        unit: of `median`; microseconds an operation are wall time divided by operations, of all callers together.
        cpu: as `median`, but the time this process was on a processor; None where that was not taken. It does not
            count waiting for the server, nor most of what a noisy machine adds.
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
        """Makes one of a competitor's times, as `paired` gives them."""
        median, cpu = statistics.median(times.wall[competitor]), statistics.median(times.cpu[competitor])
        return cls(operation, callers, competitor, median, ratios, cpu=cpu)


@dataclass(frozen=True, slots=True)
class Times:
    """For each competitor its microseconds an operation, one figure a round, the rounds in step.

    Attributes:
        wall: by the clock on the wall, divided by the operations of all callers together.
        cpu: that this process was on a processor.
    """

    wall: Mapping[str, list[float]]
    cpu: Mapping[str, list[float]]


async def paired(entries: Sequence[Entry], pace: Pace, order: random.Random) -> Times:
    """Times the competitors in turns, in another order each round.

    Raises:
        BenchmarkError: an operation did not do what it should.
    """
    sizes = {entry.competitor: await _warmed_up(entry, pace) for entry in entries}
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
    """Compares two competitors of one `paired` run, round by round."""
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
    """Compares two lists of figures, round by round."""
    ratios = [over / under for over, under in zip(above, below, strict=True)]
    tenths = statistics.quantiles(ratios, n=10, method="inclusive")
    return Ratio(of, against, statistics.median(ratios), tenths[0], tenths[-1], at_most, at_least)


async def _warmed_up(entry: Entry, pace: Pace) -> int:
    """Runs a competitor until connections are open, plans are made and caches are warm; gives a slice's size."""
    each, spent = 4, 0.0
    while True:
        seconds, _, _ = await _slice(entry, each)
        spent += seconds
        if seconds >= pace.slice_seconds / 2 and spent >= pace.warm_up_seconds:
            return max(1, round(each * pace.slice_seconds / seconds))
        each = min(each * 2 if seconds < pace.slice_seconds / 2 else each, _CALLS_MAX)


async def _slice(entry: Entry, each: int) -> tuple[float, float, int]:
    """Makes so many calls for each caller, all callers at once; gives seconds, seconds of CPU, number of calls."""
    if entry.stock is not None:
        await entry.stock(each)
    callers = entry.prepare(each)
    # Every slice begins with nothing to collect, and what was prepared is none of its collector's business; within
    # the slice the collector runs as it always does, for all alike.
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
    done = entry.done
    for call in calls:
        if not done(await call()):
            raise BenchmarkError(f"{entry.competitor}: an operation did not do what it should: {call}")
