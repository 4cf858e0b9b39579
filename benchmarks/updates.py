"""The suite of updates: what a move with its event costs, as against the move alone, and as against two statements."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final, NamedTuple, Protocol

import asyncpg
from typing_extensions import override
from uuid_utils.compat import uuid7

from benchmarks.competitors import POOL_SIZE
from benchmarks.driver import held_connection
from benchmarks.measure import BenchmarkError, Call, Entry, Figure, paired, ratio
from benchmarks.seeding import queued_job, settled, store
from benchmarks.suite import Bench
from graphjobs.core.transitions import Transition
from graphjobs.database.executor import compiled
from graphjobs.database.schema import SCHEMA
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.graph_jobs.row_mapping import swap_params
from graphjobs.graph_jobs.sql import single
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.graph_jobs.store import GraphJobUpdateResult
from graphjobs.graph_jobs.tables import GraphJobEventRow, GraphJobRow
from graphjobs.settings import Settings
from graphjobs.storage import Storage, open_storage

CALLERS: Final = (1, 16)
DEARER_AT_MOST: Final = 1.5
"""With its event than without, at 16 callers."""
SLOWER_AT_MOST: Final = 1.0
"""Than the two statements in a transaction by hand."""

WITH_EVENT: Final = "update, event"
ALONE: Final = "try_replace"
BY_HAND: Final = "BEGIN..COMMIT"
LEGEND: Final = {
    WITH_EVENT: "storage.graph_jobs.update: the move and its event as one statement; GraphBuildJob in and out",
    ALONE: "storage.graph_job_repository.try_replace: the same move, and no event",
    BY_HAND: f"asyncpg.create_pool({POOL_SIZE}), its defaults: the same UPDATE and an INSERT of the event in a "
    "transaction; ready arguments in, raw records out",
}
"""What each of them does."""

_OF_CALLER: Final = 16
_JOBS: Final = f"{SCHEMA}.{GraphJobRow.__tablename__}"
_EVENTS: Final = f"{SCHEMA}.{GraphJobEventRow.__tablename__}"
_LOG: Final = (
    f"INSERT INTO {_EVENTS} (job_id, tenant_id, status, payload, created_at) "
    "VALUES ($1, $2, $3, $4::jsonb, $5) RETURNING id"
)


class Mover(Protocol):
    """Somebody who moves jobs. A call answers with something true where the move was applied."""

    name: str
    logs: bool

    def move(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        """Moves a job that must be in the status `expected`."""
        ...


class _WithEvent(Mover):
    name = WITH_EVENT
    logs = True

    def __init__(self, storage: Storage) -> None:
        self._jobs = storage.graph_jobs

    @override
    def move(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        return partial(self._jobs.update, job, expected=expected)


class _Alone(Mover):
    name = ALONE
    logs = False

    def __init__(self, storage: Storage) -> None:
        self._jobs = storage.graph_job_repository

    @override
    def move(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        return partial(self._jobs.try_replace, job, expected)


class _ByHand(Mover):
    name = BY_HAND
    logs = True

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    @override
    def move(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        form, binds = compiled(single.REPLACE_JOB), swap_params(job, expected, None)
        entry = Transition.for_update(job, expected, str(binds["p_payload"]), uuid7(), None).event_payload
        swap, log = [binds[name] for name in form.binds], (job.id, job.tenant_id, job.status.code, entry)
        return partial(self._move, form.sql, swap, log)

    async def _move(self, sql: str, swap: Sequence[object], log: Sequence[object]) -> object:
        async with self._pool.acquire() as connection, connection.transaction():
            version = await connection.fetchval(sql, *swap)
            return version and await connection.fetchval(_LOG, *log, version)


class _Owned(NamedTuple):
    """A caller's job, as it is in the table once every call that was prepared is made, and how many of them log."""

    job: GraphBuildJob
    events: int = 0


class _Turns:
    """Starts jobs and gives them back; each caller has jobs of its own, so that every move is applied."""

    def __init__(self) -> None:
        self._owned = [
            [_Owned(queued_job("moved", caller * 1_000 + number)) for number in range(_OF_CALLER)]
            for caller in range(max(CALLERS))
        ]

    @property
    def jobs(self) -> list[GraphBuildJob]:
        return [held.job for owned in self._owned for held in owned]

    def calls(self, mover: Mover, callers: int, each: int) -> list[list[Call]]:
        return [[self._move(mover, owned, turn) for turn in range(each)] for owned in self._owned[:callers]]

    def _move(self, mover: Mover, owned: list[_Owned], turn: int) -> Call:
        place = turn % len(owned)
        job, events = owned[place]
        moved = job.requeue() if job.status is GraphJobStatus.RUNNING else job.start(at=datetime.now(UTC))
        owned[place] = _Owned(moved, events + mover.logs)
        return mover.move(moved, job.status)

    async def verify(self, connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
        """Looks whether jobs and logs are what all the answers said."""
        expected = {
            (held.job.id, held.job.status.code, held.job.to_json(), held.events)
            for owned in self._owned
            for held in owned
        }
        rows = await connection.fetch(
            f"SELECT id, status, payload::text, (SELECT count(*) FROM {_EVENTS} WHERE job_id = job.id) "
            f"FROM {_JOBS} AS job WHERE id = ANY($1)",
            [row[0] for row in expected],
        )
        return {(row[0], row[1], GraphBuildJob.from_json(row[2]).to_json(), row[3]) for row in rows} == expected


@asynccontextmanager
async def _movers(url: str) -> AsyncIterator[list[Mover]]:
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_storage(Settings.load(database_url=url, pool_size=POOL_SIZE)))
        pool = await stack.enter_async_context(asyncpg.create_pool(url, min_size=POOL_SIZE, max_size=POOL_SIZE))
        yield [_WithEvent(storage), _Alone(storage), _ByHand(pool)]


async def updates(bench: Bench) -> list[Figure]:
    """Times a move with its event in turns with the move alone, and with a transaction by hand."""
    turns = _Turns()
    bench.say(f"seeding {len(turns.jobs):,} jobs")
    await store(bench.url, turns.jobs)
    figures: list[Figure] = []
    async with _movers(bench.url) as movers, held_connection(bench.url) as held:
        for callers in CALLERS:
            bench.say(f"update, {callers} caller{'s' if callers > 1 else ''}")
            await settled(bench.url)
            figures += await _timed(bench, turns, movers, callers)
        if not await turns.verify(held.connection):
            raise BenchmarkError("update: the tables do not hold what the answers said")
    return figures


async def _timed(bench: Bench, turns: _Turns, movers: Sequence[Mover], callers: int) -> list[Figure]:
    def prepared(mover: Mover) -> Callable[[int], list[list[Call]]]:
        return lambda each: turns.calls(mover, callers, each)

    times = await paired([Entry(mover.name, prepared(mover), _applied) for mover in movers], bench.pace, bench.order)
    ratios = {
        WITH_EVENT: (
            ratio(times, WITH_EVENT, ALONE, at_most=DEARER_AT_MOST if callers == max(CALLERS) else None),
            ratio(times, WITH_EVENT, BY_HAND, at_most=SLOWER_AT_MOST),
        ),
        BY_HAND: (ratio(times, BY_HAND, WITH_EVENT),),
    }
    return [
        Figure.of(times, mover.name, operation="update", callers=callers, ratios=ratios.get(mover.name, ()))
        for mover in movers
    ]


def _applied(answer: object) -> bool:
    return answer.applied if isinstance(answer, GraphJobUpdateResult) else bool(answer)
