"""The suite of updates: an update with its event, beside the update alone and beside two statements."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Final, NamedTuple, Protocol

import asyncpg
from typing_extensions import override
from uuid_utils.compat import uuid7

from benchmarks.competitors import POOL_SIZE
from benchmarks.driver import held_connection
from benchmarks.measure import Call, Figure, Times, ratio
from benchmarks.operations import CALLERS, Operation, Ratios, time_operations
from benchmarks.seeding import Connection, queued_job, store
from benchmarks.suite import Bench
from graphjobs.core.transitions import Transition
from graphjobs.database.executor import compiled
from graphjobs.database.schema import SCHEMA
from graphjobs.graph_jobs.models import GraphBuildJob
from graphjobs.graph_jobs.row_mapping import swap_params
from graphjobs.graph_jobs.sql import single
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.graph_jobs.tables import GraphJobEventRow, GraphJobRow
from graphjobs.settings import Settings
from graphjobs.storage import Storage, open_storage

DEARER_AT_MOST: Final = 1.5
"""The time with the event as a multiple of that without, at 16 callers."""
SLOWER_AT_MOST: Final = 1.0
"""The time as a multiple of that of two statements in a transaction."""

WITH_EVENT: Final = "update, event"
ALONE: Final = "try_replace"
BY_HAND: Final = "BEGIN..COMMIT"
LEGEND: Final = {
    WITH_EVENT: "storage.graph_jobs.update: the update and its event as one statement; GraphBuildJob in and out",
    ALONE: "storage.graph_job_repository.try_replace: the same update without an event",
    BY_HAND: f"asyncpg.create_pool({POOL_SIZE}), its defaults: the same UPDATE and an INSERT of the event in a "
    "transaction; ready arguments in, raw records out",
}
"""What each competitor does."""

_OWNED_PER_CALLER: Final = 16
_JOBS: Final = f"{SCHEMA}.{GraphJobRow.__tablename__}"
_EVENTS: Final = f"{SCHEMA}.{GraphJobEventRow.__tablename__}"
_LOG: Final = (
    f"INSERT INTO {_EVENTS} (job_id, tenant_id, status, payload, created_at) "
    "VALUES ($1, $2, $3, $4::jsonb, $5) RETURNING id"
)


class Updater(Protocol):
    """A competitor that updates jobs. A call returns a true value for an applied update."""

    name: str
    logs: bool

    def update(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        """Update a job that must be in the status `expected`."""
        ...


class _Graphjobs(Updater):
    def __init__(self, storage: Storage, *, logs: bool) -> None:
        self.name = WITH_EVENT if logs else ALONE
        self.logs = logs
        self._storage = storage

    @override
    def update(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        if self.logs:
            return partial(self._storage.graph_jobs.update, job, expected=expected)
        return partial(self._storage.graph_job_repository.try_replace, job, expected)


class _ByHand(Updater):
    name = BY_HAND
    logs = True

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    @override
    def update(self, job: GraphBuildJob, expected: GraphJobStatus) -> Call:
        query, binds = compiled(single.REPLACE_JOB), swap_params(job, expected, None)
        payload = Transition.for_update(job, expected, str(binds["p_payload"]), uuid7(), None).event_payload
        swap, log = [binds[name] for name in query.binds], (job.id, job.tenant_id, job.status.code, payload)
        return partial(self._update, query.sql, swap, log)

    async def _update(self, sql: str, swap: Sequence[object], log: Sequence[object]) -> object:
        async with self._pool.acquire() as connection, connection.transaction():
            version = await connection.fetchval(sql, *swap)
            return version and await connection.fetchval(_LOG, *log, version)


class _Owned(NamedTuple):
    """A job of one caller after all prepared calls, and the number of its events."""

    job: GraphBuildJob
    events: int = 0


class _Update(Operation[Updater]):
    """Start and requeue jobs; each caller has its own jobs, so that every update is applied."""

    name = "update"

    def __init__(self) -> None:
        self._owned = [
            [_Owned(queued_job("moved", caller * 1_000 + number)) for number in range(_OWNED_PER_CALLER)]
            for caller in range(max(CALLERS))
        ]
        self._turns = count()

    @property
    def jobs(self) -> list[GraphBuildJob]:
        return [row.job for owned in self._owned for row in owned]

    @override
    def call(self, competitor: Updater, caller: int) -> Call:
        owned = self._owned[caller]
        index = next(self._turns) % len(owned)
        job, events = owned[index]
        target = job.requeue() if job.status is GraphJobStatus.RUNNING else job.start(at=datetime.now(UTC))
        owned[index] = _Owned(target, events + competitor.logs)
        return competitor.update(target, job.status)

    @override
    def is_done(self, answer: object) -> bool:
        return bool(answer)

    @override
    async def verify(self, connection: Connection) -> bool:
        expected = {
            (row.job.id, row.job.status.code, row.job.to_json(), row.events) for owned in self._owned for row in owned
        }
        rows = await connection.fetch(
            f"SELECT id, status, payload::text, (SELECT count(*) FROM {_EVENTS} WHERE job_id = job.id) "
            f"FROM {_JOBS} AS job WHERE id = ANY($1)",
            [row[0] for row in expected],
        )
        return {(row[0], row[1], GraphBuildJob.from_json(row[2]).to_json(), row[3]) for row in rows} == expected


@asynccontextmanager
async def _updaters(url: str) -> AsyncIterator[list[Updater]]:
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_storage(Settings.load(database_url=url, pool_size=POOL_SIZE)))
        pool = await stack.enter_async_context(asyncpg.create_pool(url, min_size=POOL_SIZE, max_size=POOL_SIZE))
        yield [_Graphjobs(storage, logs=True), _Graphjobs(storage, logs=False), _ByHand(pool)]


async def updates(bench: Bench) -> list[Figure]:
    """Time an update with its event in turns with the update alone, and with a transaction by hand."""
    update = _Update()
    bench.say(f"seeding {len(update.jobs):,} jobs")
    await store(bench.url, update.jobs)
    async with _updaters(bench.url) as updaters, held_connection(bench.url) as held:
        return await time_operations(bench, [update], lambda _callers: updaters, _ratios, held.connection)


def _ratios(callers: int, times: Times) -> Ratios:
    return {
        WITH_EVENT: (
            ratio(times, WITH_EVENT, ALONE, at_most=DEARER_AT_MOST if callers == max(CALLERS) else None),
            ratio(times, WITH_EVENT, BY_HAND, at_most=SLOWER_AT_MOST),
        ),
        BY_HAND: (ratio(times, BY_HAND, WITH_EVENT),),
    }
