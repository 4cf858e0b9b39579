"""The verbs of policy runs: insert, get by name, replace and renew, beside the same SQL through asyncpg's own pool."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Final, Protocol

from typing_extensions import override
from uuid_utils.compat import uuid7

from benchmarks.competitors import GRAPHJOBS, POOL, POOL_SIZE
from benchmarks.driver import Connection, Pool, bare_pool, held_connection
from benchmarks.measure import BenchmarkError, Call, Entry, Figure, Pace, paired, ratio
from benchmarks.run_seeding import (
    LEASED_FOR,
    TABLE,
    name_of,
    pending_run,
    record_of,
    run_in,
    store_mixed_runs,
    store_runs,
)
from benchmarks.seeding import settled
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

CALLERS: Final = (1, 16)
SLOWER_AT_MOST: Final = 1.0
"""Than asyncpg's own pool, in each verb."""

_ROWS: Final = 10_000
_OTHERS: Final = 20
_ROWS_OF_ANOTHER: Final = 500
_HELD_OF_CALLER: Final = 64
_RUNS: Final = f"{SCHEMA}.{TABLE}"
_EVENTS: Final = f"{SCHEMA}.{PolicyRunEventRow.__tablename__}"


class Contestant(Protocol):
    """Somebody who stores policy runs."""

    name: str

    def insert(self, run: PolicyRunJob) -> Call:
        """Stores a new run, with its first event."""
        ...

    def find(self, tenant_id: str, run_id: str) -> Call:
        """Reads a run by the asker's own name of it."""
        ...

    def replace(self, run: PolicyRunJob) -> Call:
        """Moves a run that nobody leases, with its event."""
        ...

    def renew(self, run: PolicyRunJob) -> Call:
        """Lets the lease of one run last longer."""
        ...


class _Ours(Contestant):
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


class _Bare(Contestant):
    """The statements of graphjobs on the bare driver; arguments are ready before, and records stay records."""

    name = POOL

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @override
    def insert(self, run: PolicyRunJob) -> Call:
        entry = Transition.for_insert(run, uuid7(), None).event_payload
        return self._pool.call(single.INSERT_RUN, {**run_params(run), "p_event_payload": entry})

    @override
    def find(self, tenant_id: str, run_id: str) -> Call:
        return self._pool.call(single.GET_RUN_BY_RUN_ID, {"p_tenant_id": tenant_id, "p_run_id": run_id})

    @override
    def replace(self, run: PolicyRunJob) -> Call:
        source = infer_source_status(run, None)
        entry = Transition.for_update(run, source, run.to_json(), uuid7(), None).event_payload
        return self._pool.call(single.TRANSITION_RUN, {**swap_params(run, source, None), "p_event_payload": entry})

    @override
    def renew(self, run: PolicyRunJob) -> Call:
        return self._pool.call(finish.RENEW_RUNS, {**lease_params([run]), "p_lease_duration": LEASED_FOR})


class _Verb:
    """One verb: prepares its calls, and knows what a right answer is; most use nothing up."""

    name: str

    def calls(self, competitor: Contestant, callers: int, each: int) -> list[list[Call]]:
        """Prepares so many calls for each caller."""
        return [[self.call(competitor, caller) for _ in range(each)] for caller in range(callers)]

    def call(self, competitor: Contestant, caller: int) -> Call:
        """Prepares a caller's next call."""
        raise NotImplementedError

    async def stock(self, number: int) -> None:
        """Stores what so many calls use up."""

    def done(self, answer: object) -> bool:
        """Tells whether the verb did what it should."""
        return answer is not None and bool(answer)

    async def verify(self, connection: Connection) -> bool:
        """Looks whether the tables hold what all the answers said."""
        return True


class _Insert(_Verb):
    """Stores new runs of one tenant."""

    name = "insert"
    _tenant: Final = "arrivals"

    def __init__(self) -> None:
        self._prepared = 0

    @override
    def call(self, competitor: Contestant, caller: int) -> Call:
        self._prepared += 1
        return competitor.insert(pending_run(self._tenant, self._prepared))

    @override
    async def verify(self, connection: Connection) -> bool:
        return await _counted(connection, self._tenant, PolicyRunStatus.PENDING) == (self._prepared, self._prepared)


class _Find(_Verb):
    """Reads one run after the other, never the same one twice in a row."""

    name = "get_by_run_id"
    _tenant: Final = "acme"

    def __init__(self) -> None:
        # A stride of a prime walks through all of them, and not along the table's pages.
        self._numbers = count(0, 7_919)

    @override
    def call(self, competitor: Contestant, caller: int) -> Call:
        return competitor.find(self._tenant, name_of(self._tenant, next(self._numbers) % _ROWS))


class _Replace(_Verb):
    """Completes runs that were submitted; each but once, so there are new ones for each turn."""

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
        self._ready = [run_in(PolicyRunStatus.SUBMITTED, self._tenant, number) for number in numbers]
        await self._connection.copy_records_to_table(
            TABLE, records=map(record_of, self._ready), columns=single.COLUMNS, schema_name=SCHEMA
        )

    @override
    def call(self, competitor: Contestant, caller: int) -> Call:
        return competitor.replace(self._ready.pop().complete(at=datetime.now(UTC)))

    @override
    async def verify(self, connection: Connection) -> bool:
        return await _counted(connection, self._tenant, PolicyRunStatus.COMPLETED) == (self._stored, self._stored)


class _Renew(_Verb):
    """Renews the lease of one run, and then of the next; each caller has runs of its own."""

    name = "renew of one"
    _tenant: Final = "held"

    def __init__(self) -> None:
        numbers = count()
        self._held = [
            [run_in(PolicyRunStatus.DISPATCHING, self._tenant, next(numbers)) for _ in range(_HELD_OF_CALLER)]
            for _ in range(max(CALLERS))
        ]
        self._next = count()

    @property
    def runs(self) -> list[PolicyRunJob]:
        """What has to be in the table before."""
        return [run for held in self._held for run in held]

    @override
    def call(self, competitor: Contestant, caller: int) -> Call:
        return competitor.renew(self._held[caller][next(self._next) % _HELD_OF_CALLER])

    @override
    def done(self, answer: object) -> bool:
        if isinstance(answer, LeaseHeartbeatResult):
            return len(answer.runs) == 1
        return isinstance(answer, list) and answer[0][1] is not None  # its version, which a busy row does not tell


async def _counted(connection: Connection, tenant_id: str, status: PolicyRunStatus) -> tuple[int, int]:
    """Counts a tenant's runs of a status, and its events of it."""
    counts = [
        await connection.fetchval(
            f"SELECT count(*) FROM {table} WHERE tenant_id = $1 AND status = $2", tenant_id, status.code
        )
        for table in (_RUNS, _EVENTS)
    ]
    return counts[0], counts[1]


async def run_verbs(bench: Bench, pace: Pace) -> list[Figure]:
    """Times each verb of the repository of policy runs in turns with the bare driver, at 1 caller and 16."""
    bench.say(f"seeding {_ROWS:,} policy runs of one tenant and {_OTHERS * _ROWS_OF_ANOTHER:,} of others")
    renew = _Renew()
    await store_mixed_runs(bench.url, ["acme"], _ROWS)
    await store_mixed_runs(bench.url, [f"other-{number}" for number in range(_OTHERS)], _OTHERS * _ROWS_OF_ANOTHER)
    await store_runs(bench.url, renew.runs)
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        settings = Settings.load(database_url=bench.url, pool_size=POOL_SIZE)
        storage = await stack.enter_async_context(open_storage(settings))
        both: list[Contestant] = [
            _Ours(storage),
            _Bare(await stack.enter_async_context(bare_pool(bench.url))),
        ]
        connection = (await stack.enter_async_context(held_connection(bench.url))).connection
        verbs: list[_Verb] = [_Insert(), _Find(), _Replace(connection), renew]
        for verb in verbs:
            for callers in CALLERS:
                bench.say(f"{verb.name}, {callers} caller{'s' if callers > 1 else ''}")
                await settled(bench.url)
                figures += await _timed(bench, pace, verb, both, callers)
            if not await verb.verify(connection):
                raise BenchmarkError(f"{verb.name}: the tables do not hold what the answers said")
    return figures


async def _timed(bench: Bench, pace: Pace, verb: _Verb, both: Sequence[Contestant], callers: int) -> list[Figure]:
    def prepared(competitor: Contestant) -> Callable[[int], list[list[Call]]]:
        return lambda each: verb.calls(competitor, callers, each)

    entries = [
        Entry(competitor.name, prepared(competitor), verb.done, lambda each: verb.stock(each * callers))
        for competitor in both
    ]
    times = await paired(entries, pace, bench.order)
    ratios = {GRAPHJOBS: (ratio(times, GRAPHJOBS, POOL, at_most=SLOWER_AT_MOST),)}
    return [
        Figure.of(times, competitor.name, operation=verb.name, callers=callers, ratios=ratios.get(competitor.name, ()))
        for competitor in both
    ]
