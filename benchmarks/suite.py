"""What a suite is: a function that is given a database and a pace, and gives figures."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.measure import Figure, Pace


@dataclass(frozen=True, slots=True)
class Bench:
    """What a suite is given.

    Attributes:
        url: a database of its own at the newest revision, empty.
        pace: how long to measure.
        many_rows: how many rows a large table holds.
        say: tells the user what is being done now.
        order: draws whose turn it is.
    """

    url: str
    pace: Pace
    many_rows: int
    say: Callable[[str], None]
    order: random.Random


Suite: TypeAlias = Callable[[Bench], Awaitable[list[Figure]]]
