"""Operations of competitors that take turns: their calls, the check of their answers, and the loops that time them."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from typing_extensions import override

from benchmarks.measure import BenchmarkError, Call, Entry, Figure, Ratio, Times, paired
from benchmarks.seeding import Connection, settle
from benchmarks.suite import Bench

CALLERS: Final = (1, 16)

ROWS: Final = 10_000
OTHERS: Final = 20
ROWS_OF_ANOTHER: Final = 500
"""The rows of the measured tenant, the number of other tenants, and the rows of each of those."""

_WARM_UP_TURNS: Final = 6
_SETTLE_EVERY_TURNS: Final = 20

Ratios: TypeAlias = Mapping[str, tuple[Ratio, ...]]
"""The ratios of each competitor, the one for the table first."""


class HasName(Protocol):
    """A competitor with a name for the tables."""

    name: str


C = TypeVar("C", bound=HasName)


class Operation(ABC, Generic[C]):
    """One operation: it prepares the calls of a competitor and checks their answers."""

    name: str

    def calls(self, competitor: C, callers: int, number: int) -> list[list[Call]]:
        """Prepare `number` calls for each caller."""
        return [[self.call(competitor, caller) for _ in range(number)] for caller in range(callers)]

    @abstractmethod
    def call(self, competitor: C, caller: int) -> Call:
        """Prepare the next call of a caller."""

    async def stock(self, number: int) -> None:  # most operations use no rows up
        """Store the rows that `number` calls use up."""

    def is_done(self, answer: object) -> bool:
        """Check the answer of a call."""
        return bool(answer)

    async def verify(self, connection: Connection) -> bool:
        """Check that the tables hold what all answers said."""
        return True


class InsertOperation(Operation[C]):
    """Insert new rows of one tenant."""

    name = "insert"
    tenant: Final = "arrivals"

    def __init__(self) -> None:
        self.prepared = 0

    @override
    def call(self, competitor: C, caller: int) -> Call:
        self.prepared += 1
        return self.insert(competitor, self.prepared)

    @abstractmethod
    def insert(self, competitor: C, number: int) -> Call:
        """Prepare the insertion of the tenant's row of a number."""


async def time_operations(
    bench: Bench,
    operations: Sequence[Operation[C]],
    competitors: Callable[[int], Sequence[C]],
    ratios: Callable[[int, Times], Ratios],
    connection: Connection,
) -> list[Figure]:
    """Time each operation of all competitors in turns, at 1 caller and at 16.

    Args:
        bench: the database and the pace.
        operations: the operations, one after the other.
        competitors: returns the competitors for a number of callers.
        ratios: compares their times, for a number of callers.
        connection: a connection for the checks.

    Raises:
        BenchmarkError: the tables do not hold what the answers said.
    """
    figures: list[Figure] = []
    for operation in operations:
        for callers in CALLERS:
            bench.say(f"{operation.name}, {callers} caller{'s' if callers > 1 else ''}")
            await settle(bench.url)
            entries = [_entry(operation, competitor, callers) for competitor in competitors(callers)]
            figures += await time_entries(bench, operation.name, entries, partial(ratios, callers), callers)
        if not await operation.verify(connection):
            raise BenchmarkError(f"{operation.name}: the tables do not hold what the answers said")
    return figures


def _entry(operation: Operation[C], competitor: C, callers: int) -> Entry:
    return Entry(
        competitor.name,
        lambda number: operation.calls(competitor, callers, number),
        operation.is_done,
        lambda number: operation.stock(number * callers),
    )


async def time_entries(
    bench: Bench, operation: str, entries: Sequence[Entry], ratios: Callable[[Times], Ratios], callers: int = 1
) -> list[Figure]:
    """Time one operation of all competitors in turns, and return a figure of each."""
    times = await paired(entries, bench.pace, bench.order)
    by_competitor = ratios(times)
    names = [entry.competitor for entry in entries]
    return [
        Figure.of(times, name, operation=operation, callers=callers, ratios=by_competitor.get(name, ()))
        for name in names
    ]


async def time_turns(
    bench: Bench, names: Collection[str], call: Callable[[str], Awaitable[float]], *, turns_per_round: int
) -> dict[str, list[float]]:
    """Make one call per name in each turn, in a new order, and return the microseconds of the calls by name.

    Args:
        bench: the database and the pace.
        names: the names of the calls.
        call: makes a call and returns its seconds.
        turns_per_round: the number of turns for each round of the pace, after the warm-up.
    """
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(_WARM_UP_TURNS + turns_per_round * bench.pace.rounds):
        if turn % _SETTLE_EVERY_TURNS == 0:
            await settle(bench.url)
        for name in bench.order.sample(sorted(names), len(names)):
            seconds = await call(name)
            if turn >= _WARM_UP_TURNS:
                times[name].append(seconds * 1e6)
    return times
