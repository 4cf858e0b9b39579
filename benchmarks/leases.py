"""The suite of policy runs: leases of 100, their time must not grow with the pending runs; then verbs and pages."""

import statistics
import time
from dataclasses import replace
from datetime import timedelta
from typing import Final

from benchmarks.competitors import GRAPHJOBS, POOL, POOL_SIZE
from benchmarks.driver import held_connection
from benchmarks.measure import BenchmarkError, Figure, compared
from benchmarks.operations import time_turns
from benchmarks.run_pages import run_pages
from benchmarks.run_seeding import LEASED_FOR, OWNER, TABLE, Spread, store_pending
from benchmarks.run_verbs import run_verbs
from benchmarks.seeding import Connection, truncate
from benchmarks.suite import Bench
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.database.schema import SCHEMA
from graphjobs.policy_runs.attempt_results import LeaseResult, TenantCursors
from graphjobs.policy_runs.queue import PolicyRunQueue
from graphjobs.policy_runs.status import PolicyRunPriority
from graphjobs.settings import Settings
from graphjobs.storage import open_storage

SLOWER_AT_MOST: Final = 2.0
"""The time of a lease with 1,000,000 pending runs as a multiple of that with 1,000."""

LEGEND: Final = {
    POOL: f"asyncpg.create_pool({POOL_SIZE}), its defaults: the same SQL text and ready arguments in, raw records out",
    GRAPHJOBS: "storage.policy_runs and its queue: validated values in and out; transitions with their event",
}
"""What each competitor does in the verbs."""

_LEASED: Final = 100
_SMALL: Final = 1_000
_TENANTS: Final = 1_000
_TURNS_PER_ROUND: Final = 2
_OLDEST: Final = timedelta(minutes=20)
"""The age of the oldest pending run; ages are evenly spread. Runs older than ten minutes, half of them, are overdue."""

_URGENT_EACH: Final = 10
_EMERGENCIES: Final = 20
"""The emergencies of a tenant: a fifth of a lease, so that other runs get a share."""

_RUNS: Final = f"{SCHEMA}.{TABLE}"

# The run id ends with the number of the run.
_MAKE_URGENT: Final = f"""
UPDATE {_RUNS}
SET priority = CASE WHEN right(run_id, 9)::int < {_EMERGENCIES * _URGENT_EACH}
    THEN {PolicyRunPriority.EMERGENCY.code} ELSE {PolicyRunPriority.HIGH.code} END
WHERE right(run_id, 9)::int % {_URGENT_EACH} = 0
"""
_RESTORE_TIMES: Final = f"UPDATE {_RUNS} SET available_at = queued_at WHERE id = ANY($1)"


async def leases(bench: Bench) -> list[Figure]:
    """Time verbs, leases with few and many pending runs, and pages."""
    verbs = await run_verbs(replace(bench, pace=bench.pace.shortened(2)))
    await truncate(bench.url)
    leased = await _leases(bench)
    await truncate(bench.url)
    return [*leased, *verbs, *await run_pages(replace(bench, pace=bench.pace.shortened(2.5)))]


async def _leases(bench: Bench) -> list[Figure]:
    """Time leases of 100 in turns: of few and of many normal runs, then with urgent runs, then of all tenants.

    One in eight leased runs is overdue and comes first. With urgent runs, twenty emergencies come before all others,
    and runs of high priority after the overdue ones.
    """
    small, large = f"{_SMALL:,} pending", f"{bench.many_rows:,} pending"
    spread = f"{_TENANTS:,} tenants"
    plain, mixed = f"lease {_LEASED}", f"lease {_LEASED}, mixed"
    async with (
        open_storage(Settings.load(database_url=bench.url)) as storage,
        held_connection(bench.url) as held,
    ):
        leases_of = _Leases(bench, storage.policy_run_queue, held.connection)
        bench.say(f"{bench.many_rows:,} pending runs of one tenant, and {_SMALL:,} of another")
        await store_pending(bench.url, ["small"], _SMALL, _pending_times(_SMALL))
        await store_pending(bench.url, ["large"], bench.many_rows, _pending_times(bench.many_rows))
        bench.say(f"leases of {_LEASED}")
        normal = await leases_of.time({small: "small", large: "large"})
        bench.say(f"leases of {_LEASED} with emergencies and high priorities")
        await held.connection.execute(_MAKE_URGENT)
        with_urgent = await leases_of.time({small: "small", large: "large"})
        bench.say(f"{bench.many_rows:,} pending runs of {_TENANTS:,} tenants")
        await truncate(bench.url)
        tenants = [f"tenant-{number:04}" for number in range(_TENANTS)]
        await store_pending(
            bench.url, tenants, bench.many_rows, _pending_times(bench.many_rows), high_each=_URGENT_EACH
        )
        bench.say(f"leases of {_LEASED} of all tenants")
        all_tenants = await leases_of.time({spread: None})
    figures = []
    for operation, times in ((plain, normal | all_tenants), (mixed, with_urgent)):
        ratios = {large: (compared(times[large], times[small], of=large, against=small, at_most=SLOWER_AT_MOST),)}
        if spread in times:
            ratios[spread] = (compared(times[spread], times[small], of=spread, against=small),)
        figures += [Figure(operation, 1, name, statistics.median(times[name]), ratios.get(name, ())) for name in times]
    return figures


def _pending_times(number: int) -> Spread:
    return Spread.of(number, between=_OLDEST / number)


class _Leases:
    """Lease runs in turns. After each lease, release its runs and restore their times, without timing that."""

    def __init__(self, bench: Bench, queue: PolicyRunQueue, connection: Connection) -> None:
        self._bench, self._queue, self._connection = bench, queue, connection

    async def time(self, tenants: dict[str, str | None]) -> dict[str, list[float]]:
        """Return the microseconds of leases of these tenants, by name; None means all tenants."""
        cursors = dict.fromkeys(tenants, TenantCursors())

        async def lease(name: str) -> float:
            seconds, cursors[name] = await self._lease(tenants[name], cursors[name])
            return seconds

        return await time_turns(self._bench, tenants, lease, turns_per_round=_TURNS_PER_ROUND)

    async def _lease(self, tenant_id: str | None, after: TenantCursors) -> tuple[float, TenantCursors]:
        started_at = time.perf_counter()
        leased = await self._queue.lease(
            OWNER, LEASED_FOR, attempts_max=ATTEMPTS_MAX, limit=_LEASED, tenant_id=tenant_id, after=after
        )
        seconds = time.perf_counter() - started_at
        if len(leased.runs) != _LEASED:
            raise BenchmarkError(f"a lease of {_LEASED} returned {len(leased.runs)} runs")
        await self._queue.end([LeaseResult.released(run) for run in leased.runs])
        # A released run is available later; restore its time, so that each lease finds the same overdue runs.
        await self._connection.execute(_RESTORE_TIMES, [run.id for run in leased.runs])
        return seconds, leased.cursors
