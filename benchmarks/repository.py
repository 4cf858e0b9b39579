"""The suite of the repository: get, list, try_replace and insert, at 1 caller and 16, of each competitor."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import count
from typing import Final, cast

from typing_extensions import override

from benchmarks import competitors, driver, orm
from benchmarks.competitors import GRAPHJOBS, HELD, ORM, POOL, Competitor
from benchmarks.measure import Call, Figure, Times, ratio
from benchmarks.operations import (
    CALLERS,
    OTHERS,
    ROWS,
    ROWS_OF_ANOTHER,
    InsertOperation,
    Operation,
    Ratios,
    time_operations,
)
from benchmarks.seeding import Connection, mixed_jobs, queued_job, store
from benchmarks.suite import Bench
from graphjobs.database.schema import SCHEMA
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.graph_jobs.tables import GraphJobRow

SLOWER_AT_MOST: Final = 1.0
"""The time as a multiple of that of asyncpg's own pool, for each operation."""
FASTER_AT_LEAST: Final = 4.0
"""The time of the ORM session as a multiple of that of graphjobs, at 16 callers."""

_TENANT: Final = "acme"
_LISTED: Final = 50
_OWNED_PER_CALLER: Final = 16
_TABLE: Final = f"{SCHEMA}.{GraphJobRow.__tablename__}"


class Get(Operation[Competitor]):
    """Read one job after the other, never the same one twice in a row."""

    name = "get"

    def __init__(self, jobs: Sequence[GraphBuildJob]) -> None:
        self._jobs = jobs
        # A prime stride visits all jobs, in another order than the table's pages.
        self._numbers = count(0, 7_919)

    @override
    def call(self, competitor: Competitor, caller: int) -> Call:
        return competitor.get(self._jobs[next(self._numbers) % len(self._jobs)])


class List(Operation[Competitor]):
    """List the 50 newest completed jobs, the status with the largest payloads."""

    name = f"list of {_LISTED}"

    @override
    def call(self, competitor: Competitor, caller: int) -> Call:
        return competitor.newest(_TENANT, GraphJobStatus.COMPLETED, _LISTED)

    @override
    def is_done(self, answer: object) -> bool:
        return len(cast("Sequence[object]", answer)) == _LISTED


class Replace(Operation[Competitor]):
    """Start and requeue jobs; each caller has its own jobs, so that every update is applied."""

    name = "try_replace"

    def __init__(self, owned: Sequence[list[GraphBuildJob]]) -> None:
        self._owned = owned  # the state of the table after all prepared calls
        self._turns = count()

    @override
    def call(self, competitor: Competitor, caller: int) -> Call:
        owned = self._owned[caller]
        index = next(self._turns) % len(owned)
        job = owned[index]
        is_running = job.status is GraphJobStatus.RUNNING
        owned[index] = job.requeue() if is_running else job.start(at=datetime.now(UTC))
        return competitor.try_replace(owned[index], job.status)

    @override
    async def verify(self, connection: Connection) -> bool:
        expected = {(job.id, job.status.code, job.to_json()) for owned in self._owned for job in owned}
        rows = await connection.fetch(
            f"SELECT id, status, payload::text FROM {_TABLE} WHERE id = ANY($1)", [row[0] for row in expected]
        )
        return {(row[0], row[1], GraphBuildJob.from_json(row[2]).to_json()) for row in rows} == expected


class Insert(InsertOperation[Competitor]):
    """Insert new jobs of one tenant."""

    @override
    def insert(self, competitor: Competitor, number: int) -> Call:
        return competitor.insert(queued_job(self.tenant, number))

    @override
    async def verify(self, connection: Connection) -> bool:
        stored = await connection.fetchval(f"SELECT count(*) FROM {_TABLE} WHERE tenant_id = $1", self.tenant)
        return bool(stored == self.prepared)


async def repository(bench: Bench) -> list[Figure]:
    """Time each verb of the repository in turns with the bare driver and an ORM session."""
    bench.say(f"seeding {ROWS:,} jobs of one tenant and {OTHERS * ROWS_OF_ANOTHER:,} of others")
    jobs = mixed_jobs(_TENANT, ROWS)
    others = [job for number in range(OTHERS) for job in mixed_jobs(f"other-{number}", ROWS_OF_ANOTHER)]
    owned_jobs = [
        [queued_job("swapped", caller * 1_000 + number) for number in range(_OWNED_PER_CALLER)]
        for caller in range(max(CALLERS))
    ]
    await store(bench.url, [*jobs, *others, *(job for owned in owned_jobs for job in owned)])
    operations: list[Operation[Competitor]] = [Get(jobs), List(), Replace(owned_jobs), Insert()]
    async with AsyncExitStack() as stack:
        pooled: list[Competitor] = [
            await stack.enter_async_context(driver.bare_pool(bench.url)),
            await stack.enter_async_context(competitors.graphjobs(bench.url)),
            await stack.enter_async_context(orm.orm_session(bench.url)),
        ]
        held = await stack.enter_async_context(driver.held_connection(bench.url))
        return await time_operations(
            bench,
            operations,
            lambda callers: [*pooled, held] if callers == 1 else pooled,
            _ratios,
            held.connection,
        )


def _ratios(callers: int, times: Times) -> Ratios:
    return {
        GRAPHJOBS: (ratio(times, GRAPHJOBS, POOL, at_most=SLOWER_AT_MOST),),
        HELD: (ratio(times, HELD, POOL),) if HELD in times.wall else (),
        ORM: (
            ratio(times, ORM, POOL),
            ratio(times, ORM, GRAPHJOBS, at_least=FASTER_AT_LEAST if callers == max(CALLERS) else None),
        ),
    }
