"""The suite of the repository's verbs: get, list, try_replace and insert, at 1 caller and 16, each by everybody."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final, Protocol, cast

import asyncpg
from typing_extensions import override

from benchmarks import competitors, driver, orm
from benchmarks.competitors import GRAPHJOBS, HELD, ORM, POOL, Contestant
from benchmarks.measure import BenchmarkError, Call, Entry, Figure, paired, ratio
from benchmarks.seeding import jobs_of, queued_job, settled, store
from benchmarks.suite import Bench
from graphjobs.database.schema import SCHEMA
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.graph_jobs.tables import GraphJobRow

CALLERS: Final = (1, 16)
SLOWER_AT_MOST: Final = 1.0
"""Than asyncpg's own pool, in each operation."""
FASTER_AT_LEAST: Final = 4.0
"""Than the ORM session, at 16 callers."""

_TENANT: Final = "acme"
_ROWS: Final = 10_000
_OTHERS: Final = 20
_ROWS_OF_ANOTHER: Final = 500
_LISTED: Final = 50
_SWAPPED_OF_CALLER: Final = 16
_TABLE: Final = f"{SCHEMA}.{GraphJobRow.__tablename__}"


class Operation(Protocol):
    """One verb: prepares its calls, and knows what a right answer is."""

    name: str

    def calls(self, competitor: Contestant, callers: int, each: int) -> list[list[Call]]:
        """Prepares so many calls for each caller."""
        ...

    def done(self, answer: object) -> bool:
        """Tells whether the operation did what it should."""
        ...

    async def verify(self, connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
        """Looks whether the table holds what all the answers said."""
        ...


class _Reading(Operation, Protocol):
    """What reads needs no look at the table afterwards."""

    @override
    async def verify(self, connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
        return True


class Get(_Reading):
    """Reads one job after the other, never the same one twice in a row."""

    name = "get"

    def __init__(self, jobs: Sequence[GraphBuildJob]) -> None:
        self._jobs = jobs
        self._next = 0

    @override
    def calls(self, competitor: Contestant, callers: int, each: int) -> list[list[Call]]:
        return [[competitor.get(self._drawn()) for _ in range(each)] for _ in range(callers)]

    def _drawn(self) -> GraphBuildJob:
        # A stride of a prime walks through all of them, and not along the table's pages.
        self._next = (self._next + 7_919) % len(self._jobs)
        return self._jobs[self._next]

    @override
    def done(self, answer: object) -> bool:
        return bool(answer)


class List(_Reading):
    """Lists the 50 newest completed jobs: of all statuses the one whose jobs hold most."""

    name = f"list of {_LISTED}"

    @override
    def calls(self, competitor: Contestant, callers: int, each: int) -> list[list[Call]]:
        call = competitor.newest(_TENANT, GraphJobStatus.COMPLETED, _LISTED)
        return [[call] * each for _ in range(callers)]

    @override
    def done(self, answer: object) -> bool:
        return len(cast("Sequence[object]", answer)) == _LISTED


class Replace(Operation):
    """Starts jobs and gives them back; each caller has jobs of its own, so that every swap is won."""

    name = "try_replace"

    def __init__(self, owned: Sequence[list[GraphBuildJob]]) -> None:
        self._owned = owned  # as they are in the table once every call that was prepared is made

    @override
    def calls(self, competitor: Contestant, callers: int, each: int) -> list[list[Call]]:
        return [[self._swap(competitor, owned, turn) for turn in range(each)] for owned in self._owned[:callers]]

    def _swap(self, competitor: Contestant, owned: list[GraphBuildJob], turn: int) -> Call:
        place = turn % len(owned)
        job = owned[place]
        started = job.status is GraphJobStatus.RUNNING
        owned[place] = job.requeue() if started else job.start(at=datetime.now(UTC))
        return competitor.try_replace(owned[place], job.status)

    @override
    def done(self, answer: object) -> bool:
        return bool(answer)

    @override
    async def verify(self, connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
        expected = {(job.id, job.status.code, job.to_json()) for owned in self._owned for job in owned}
        rows = await connection.fetch(
            f"SELECT id, status, payload::text FROM {_TABLE} WHERE id = ANY($1)", [row[0] for row in expected]
        )
        return {(row[0], row[1], GraphBuildJob.from_json(row[2]).to_json()) for row in rows} == expected


class Insert(Operation):
    """Stores new jobs of one tenant."""

    name = "insert"
    _tenant: Final = "arrivals"

    def __init__(self) -> None:
        self._prepared = 0

    @override
    def calls(self, competitor: Contestant, callers: int, each: int) -> list[list[Call]]:
        return [[self._insert(competitor) for _ in range(each)] for _ in range(callers)]

    def _insert(self, competitor: Contestant) -> Call:
        self._prepared += 1
        return competitor.insert(queued_job(self._tenant, self._prepared))

    @override
    def done(self, answer: object) -> bool:
        return bool(answer)

    @override
    async def verify(self, connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
        stored = await connection.fetchval(f"SELECT count(*) FROM {_TABLE} WHERE tenant_id = $1", self._tenant)
        return bool(stored == self._prepared)


async def repository(bench: Bench) -> list[Figure]:
    """Times each verb of the repository in turns with the bare driver and an ORM session."""
    bench.say(f"seeding {_ROWS:,} jobs of one tenant and {_OTHERS * _ROWS_OF_ANOTHER:,} of others")
    jobs = jobs_of(_TENANT, _ROWS)
    others = [job for number in range(_OTHERS) for job in jobs_of(f"other-{number}", _ROWS_OF_ANOTHER)]
    swapped = [
        [queued_job("swapped", caller * 1_000 + number) for number in range(_SWAPPED_OF_CALLER)]
        for caller in range(max(CALLERS))
    ]
    await store(bench.url, [*jobs, *others, *(job for owned in swapped for job in owned)])
    operations: list[Operation] = [Get(jobs), List(), Replace(swapped), Insert()]
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        everybody: list[Contestant] = [
            await stack.enter_async_context(driver.bare_pool(bench.url)),
            await stack.enter_async_context(competitors.graphjobs(bench.url)),
            await stack.enter_async_context(orm.orm_session(bench.url)),
        ]
        held = await stack.enter_async_context(driver.held_connection(bench.url))
        for operation in operations:
            for callers in CALLERS:
                bench.say(f"{operation.name}, {callers} caller{'s' if callers > 1 else ''}")
                await settled(bench.url)
                taking_part = [*everybody, held] if callers == 1 else everybody
                figures += await _timed(bench, operation, taking_part, callers)
            if not await operation.verify(held.connection):
                raise BenchmarkError(f"{operation.name}: the table does not hold what the answers said")
    return figures


async def _timed(bench: Bench, operation: Operation, taking_part: Sequence[Contestant], callers: int) -> list[Figure]:
    def prepared(competitor: Contestant) -> Callable[[int], list[list[Call]]]:
        return lambda each: operation.calls(competitor, callers, each)

    entries = [Entry(competitor.name, prepared(competitor), operation.done) for competitor in taking_part]
    times = await paired(entries, bench.pace, bench.order)
    ratios = {
        GRAPHJOBS: (ratio(times, GRAPHJOBS, POOL, at_most=SLOWER_AT_MOST),),
        HELD: (ratio(times, HELD, POOL),) if HELD in times.wall else (),
        ORM: (
            ratio(times, ORM, POOL),
            ratio(times, ORM, GRAPHJOBS, at_least=FASTER_AT_LEAST if callers == max(CALLERS) else None),
        ),
    }
    return [
        Figure.of(
            times, competitor.name, operation=operation.name, callers=callers, ratios=ratios.get(competitor.name, ())
        )
        for competitor in taking_part
    ]
