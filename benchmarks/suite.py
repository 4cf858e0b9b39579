"""A suite: a function from a database and a pace to figures."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.measure import Figure, Pace


@dataclass(frozen=True, slots=True)
class Bench:
    """The input of a suite.

    Attributes:
        url: the URL of a new database at the newest revision.
        pace: the length of the measurement.
        many_rows: the number of rows of a large table.
        say: reports the current step to the user.
        order: draws the order of turns.
    """

    url: str
    pace: Pace
    many_rows: int
    say: Callable[[str], None]
    order: random.Random


Suite: TypeAlias = Callable[[Bench], Awaitable[list[Figure]]]
