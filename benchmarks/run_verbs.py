"""The verbs of policy runs: insert, get by name, replace and renew, beside the same SQL through asyncpg's own pool."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Final, Protocol

from typing_extensions import override
from uuid_utils.compat import uuid7

from benchmarks.competitors import GRAPHJOBS, POOL, POOL_SIZE
from benchmarks.driver import Pool, bare_pool, held_connection
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
from benchmarks.run_seeding import (
    LEASED_FOR,
    TABLE,
    pending_run,
    run_id_for,
    run_in_status,
    run_record,
    store_mixed_runs,
    store_runs,
)
from benchmarks.seeding import Connection
from benchmarks.suite import Bench
from graphjobs.core.transitions import Transition
from graphjobs.database.schema import SCHEMA
from graphjobs.policy_runs.attempt_results import LeaseHeartbeatResult
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.params import lease_params
from graphjobs.policy_runs.row_mapping import infer_source_status, run_params, swap_params
from graphjobs.policy_runs.sql import finish, single
from graphjobs.policy_runs.status import PolicyRunStatus
from graphjobs.policy_runs.tables import PolicyRunEventRow
from graphjobs.settings import Settings
from graphjobs.storage import Storage, open_storage

SLOWER_AT_MOST: Final = 1.0
"""The time as a multiple of that of asyncpg's own pool, for each verb."""

_LEASED_PER_CALLER: Final = 64
_RUNS: Final = f"{SCHEMA}.{TABLE}"
_EVENTS: Final = f"{SCHEMA}.{PolicyRunEventRow.__tablename__}"


class Competitor(Protocol):
    """A competitor that stores policy runs."""

    name: str

    def insert(self, run: PolicyRunJob) -> Call:
        """Insert a run with its first event."""
        ...

    def find(self, tenant_id: str, run_id: str) -> Call:
        """Read a run by its run id."""
        ...

    def replace(self, run: PolicyRunJob) -> Call:
        """Update a run without a lease, with the event."""
        ...

    def renew(self, run: PolicyRunJob) -> Call:
        """Extend the lease of one run."""
        ...


class _Graphjobs(Competitor):
    name = GRAPHJOBS

    def __init__(self, storage: Storage) -> None:
        self._runs, self._queue = storage.policy_runs, storage.policy_run_queue

    @override
    def insert(self, run: PolicyRunJob) -> Call:
        return partial(self._runs.insert, run)

    @override
    def find(self, tenant_id: str, run_id: str) -> Call:
        return partial(self._runs.get_by_run_id, tenant_id, run_id)

    @override
    def replace(self, run: PolicyRunJob) -> Call:
        return partial(self._runs.replace, run, None)

    @override
    def renew(self, run: PolicyRunJob) -> Call:
        return partial(self._queue.renew, [run], LEASED_FOR)


class _Bare(Competitor):
    """The statements of graphjobs on the bare driver, with prepared arguments and raw records."""

    name = POOL

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @override
    def insert(self, run: PolicyRunJob) -> Call:
        payload = Transition.for_insert(run, uuid7(), None).event_payload
        return self._pool.call(single.INSERT_RUN, {**run_params(run), "p_event_payload": payload})

    @override
    def find(self, tenant_id: str, run_id: str) -> Call:
        return self._pool.call(single.GET_RUN_BY_RUN_ID, {"p_tenant_id": tenant_id, "p_run_id": run_id})

    @override
    def replace(self, run: PolicyRunJob) -> Call:
        source = infer_source_status(run, None)
        payload = Transition.for_update(run, source, run.to_json(), uuid7(), None).event_payload
        return self._pool.call(single.TRANSITION_RUN, {**swap_params(run, source, None), "p_event_payload": payload})

    @override
    def renew(self, run: PolicyRunJob) -> Call:
        return self._pool.call(finish.RENEW_RUNS, {**lease_params([run]), "p_lease_duration": LEASED_FOR})


class _Insert(InsertOperation[Competitor]):
    """Insert new runs of one tenant."""

    @override
    def insert(self, competitor: Competitor, number: int) -> Call:
        return competitor.insert(pending_run(self.tenant, number))

    @override
    async def verify(self, connection: Connection) -> bool:
        return await _count(connection, self.tenant, PolicyRunStatus.PENDING) == (self.prepared, self.prepared)


class _Find(Operation[Competitor]):
    """Read one run after the other, never the same one twice in a row."""

    name = "get_by_run_id"
    _tenant: Final = "acme"

    def __init__(self) -> None:
        # A prime stride visits all runs, in another order than the table's pages.
        self._numbers = count(0, 7_919)

    @override
    def call(self, competitor: Competitor, caller: int) -> Call:
        return competitor.find(self._tenant, run_id_for(self._tenant, next(self._numbers) % ROWS))


class _Replace(Operation[Competitor]):
    """Complete submitted runs, each once; every turn needs new ones."""

    name = "replace"
    _tenant: Final = "completed"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ready: list[PolicyRunJob] = []
        self._stored = 0

    @override
    async def stock(self, number: int) -> None:
        numbers = range(self._stored, self._stored + number)
        self._stored = numbers.stop
        self._ready = [run_in_status(PolicyRunStatus.SUBMITTED, self._tenant, number) for number in numbers]
        await self._connection.copy_records_to_table(
            TABLE, records=map(run_record, self._ready), columns=single.COLUMNS, schema_name=SCHEMA
        )

    @override
    def call(self, competitor: Competitor, caller: int) -> Call:
        return competitor.replace(self._ready.pop().complete(at=datetime.now(UTC)))

    @override
    async def verify(self, connection: Connection) -> bool:
        return await _count(connection, self._tenant, PolicyRunStatus.COMPLETED) == (self._stored, self._stored)


class _Renew(Operation[Competitor]):
    """Extend the lease of one run after the other; each caller has its own runs."""

    name = "renew of one"
    _tenant: Final = "leased"

    def __init__(self) -> None:
        numbers = count()
        self._leased = [
            [run_in_status(PolicyRunStatus.DISPATCHING, self._tenant, next(numbers)) for _ in range(_LEASED_PER_CALLER)]
            for _ in range(max(CALLERS))
        ]
        self._next = count()

    @property
    def runs(self) -> list[PolicyRunJob]:
        """The runs that must be in the table before the first call."""
        return [run for leased in self._leased for run in leased]

    @override
    def call(self, competitor: Competitor, caller: int) -> Call:
        return competitor.renew(self._leased[caller][next(self._next) % _LEASED_PER_CALLER])

    @override
    def is_done(self, answer: object) -> bool:
        if isinstance(answer, LeaseHeartbeatResult):
            return len(answer.runs) == 1
        return isinstance(answer, list) and answer[0][1] is not None  # the version, which a busy row lacks


async def _count(connection: Connection, tenant_id: str, status: PolicyRunStatus) -> tuple[int, int]:
    """Count a tenant's runs and its events of a status."""
    counts = [
        await connection.fetchval(
            f"SELECT count(*) FROM {table} WHERE tenant_id = $1 AND status = $2", tenant_id, status.code
        )
        for table in (_RUNS, _EVENTS)
    ]
    return counts[0], counts[1]


async def run_verbs(bench: Bench) -> list[Figure]:
    """Time each verb of the repository of policy runs in turns with the bare driver."""
    bench.say(f"seeding {ROWS:,} policy runs of one tenant and {OTHERS * ROWS_OF_ANOTHER:,} of others")
    renew = _Renew()
    await store_mixed_runs(bench.url, ["acme"], ROWS)
    await store_mixed_runs(bench.url, [f"other-{number}" for number in range(OTHERS)], OTHERS * ROWS_OF_ANOTHER)
    await store_runs(bench.url, renew.runs)
    async with AsyncExitStack() as stack:
        settings = Settings.load(database_url=bench.url, pool_size=POOL_SIZE)
        storage = await stack.enter_async_context(open_storage(settings))
        pooled: list[Competitor] = [_Graphjobs(storage), _Bare(await stack.enter_async_context(bare_pool(bench.url)))]
        connection = (await stack.enter_async_context(held_connection(bench.url))).connection
        verbs: list[Operation[Competitor]] = [_Insert(), _Find(), _Replace(connection), renew]
        return await time_operations(bench, verbs, lambda _callers: pooled, _ratios, connection)


def _ratios(_callers: int, times: Times) -> Ratios:
    return {GRAPHJOBS: (ratio(times, GRAPHJOBS, POOL, at_most=SLOWER_AT_MOST),)}
