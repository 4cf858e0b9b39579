"""The suite of policy runs: what a lease of 100 costs must not grow with what is pending; then verbs, and pages."""

import statistics
import time
from dataclasses import replace
from datetime import timedelta
from typing import Final

from benchmarks.competitors import GRAPHJOBS, POOL, POOL_SIZE
from benchmarks.driver import Connection, held_connection
from benchmarks.measure import BenchmarkError, Figure, compared
from benchmarks.run_pages import run_pages
from benchmarks.run_seeding import LEASED_FOR, OWNER, TABLE, Spread, store_pending
from benchmarks.run_verbs import run_verbs
from benchmarks.seeding import emptied, settled
from benchmarks.suite import Bench
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.database.schema import SCHEMA
from graphjobs.policy_runs.attempt_results import LeaseResult, TenantCursors
from graphjobs.policy_runs.queue import PolicyRunQueue
from graphjobs.policy_runs.status import PolicyRunPriority
from graphjobs.settings import Settings
from graphjobs.storage import open_storage

DEARER_AT_MOST: Final = 2.0
"""A lease of 100 with 1,000,000 pending as against one with 1,000."""

LEGEND: Final = {
    POOL: f"asyncpg.create_pool({POOL_SIZE}), its defaults: the same SQL text and ready arguments in, raw records out",
    GRAPHJOBS: "storage.policy_runs and its queue: values in, values out, each validated; moves with their event",
}
"""What each of them does, in the verbs."""

_LEASED: Final = 100
_FEW: Final = 1_000
_TENANTS: Final = 1_000
_WARM_UP: Final = 6
_TIMES_A_ROUND: Final = 2
_SWEPT_EACH: Final = 20
_WAITED: Final = timedelta(minutes=20)
"""So long what is pending has been asked for, one run after the other: half of it is overdue, which begins at ten."""

_URGENT_EACH: Final = 10
_EMERGENCIES: Final = 20
"""Of a tenant, whatever it has pending: a fifth of a lease, so that the others get their share of it."""

_RUNS: Final = f"{SCHEMA}.{TABLE}"

# The number of a run ends its name.
_MADE_URGENT: Final = f"""
UPDATE {_RUNS}
SET priority = CASE WHEN right(run_id, 9)::int < {_EMERGENCIES * _URGENT_EACH}
    THEN {PolicyRunPriority.EMERGENCY.code} ELSE {PolicyRunPriority.HIGH.code} END
WHERE right(run_id, 9)::int % {_URGENT_EACH} = 0
"""
_AS_BEFORE: Final = f"UPDATE {_RUNS} SET available_at = queued_at WHERE id = ANY($1)"


async def leases(bench: Bench) -> list[Figure]:
    """Times what a scheduler of policy runs does most: its verbs, leases with few and many pending, and pages."""
    verbs = await run_verbs(bench, bench.pace.hastened(2))
    await emptied(bench.url)
    leased = await _leases(bench)
    await emptied(bench.url)
    return [*leased, *verbs, *await run_pages(replace(bench, pace=bench.pace.hastened(2.5)))]


async def _leases(bench: Bench) -> list[Figure]:
    """Times leases of 100 in turns: of few and of many normal runs, then with urgent ones among them; of everybody's.

    A lease takes one in eight that is overdue first; with urgent ones, twenty emergencies before, and high ones after.
    """
    few, many = f"{_FEW:,} pending", f"{bench.many_rows:,} pending"
    spread = f"{_TENANTS:,} tenants"
    plain, mixed = f"lease {_LEASED}", f"lease {_LEASED}, mixed"
    async with (
        open_storage(Settings.load(database_url=bench.url)) as storage,
        held_connection(bench.url) as held,
    ):
        queue = _Leases(bench, storage.policy_run_queue, held.connection)
        bench.say(f"{bench.many_rows:,} pending runs of one tenant, and {_FEW:,} of another")
        await store_pending(bench.url, ["few"], _FEW, _waiting(_FEW))
        await store_pending(bench.url, ["many"], bench.many_rows, _waiting(bench.many_rows))
        bench.say(f"leases of {_LEASED}")
        normal = await queue.timed({few: "few", many: "many"})
        bench.say(f"leases of {_LEASED} with emergencies and high ones")
        await held.connection.execute(_MADE_URGENT)
        urgent_too = await queue.timed({few: "few", many: "many"})
        bench.say(f"{bench.many_rows:,} pending runs of {_TENANTS:,} tenants")
        await emptied(bench.url)
        tenants = [f"tenant-{number:04}" for number in range(_TENANTS)]
        await store_pending(bench.url, tenants, bench.many_rows, _waiting(bench.many_rows), high_each=_URGENT_EACH)
        bench.say(f"leases of {_LEASED} of everybody's")
        of_all = await queue.timed({spread: None})
    figures = []
    for operation, times in ((plain, normal | of_all), (mixed, urgent_too)):
        ratios = {many: (compared(times[many], times[few], of=many, against=few, at_most=DEARER_AT_MOST),)}
        if spread in times:
            ratios[spread] = (compared(times[spread], times[few], of=spread, against=few),)
        figures += [Figure(operation, 1, name, statistics.median(times[name]), ratios.get(name, ())) for name in times]
    return figures


def _waiting(number: int) -> Spread:
    return Spread.of(number, between=_WAITED / number)


class _Leases:
    """Leases in turns, and gives back what was leased to where it was before, which is not timed."""

    def __init__(self, bench: Bench, queue: PolicyRunQueue, connection: Connection) -> None:
        self._bench, self._queue, self._connection = bench, queue, connection

    async def timed(self, whose: dict[str, str | None]) -> dict[str, list[float]]:
        """Gives microseconds a lease, by whose it is."""
        bench = self._bench
        times: dict[str, list[float]] = {name: [] for name in whose}
        turns = dict.fromkeys(whose, TenantCursors())
        for turn in range(_WARM_UP + _TIMES_A_ROUND * bench.pace.rounds):
            if turn % _SWEPT_EACH == 0:
                await settled(bench.url)
            for name in bench.order.sample(sorted(whose), len(whose)):
                seconds, turns[name] = await self._lease(whose[name], turns[name])
                if turn >= _WARM_UP:
                    times[name].append(seconds * 1e6)
        return times

    async def _lease(self, tenant_id: str | None, after: TenantCursors) -> tuple[float, TenantCursors]:
        started = time.perf_counter()
        leased = await self._queue.lease(
            OWNER, LEASED_FOR, attempts_max=ATTEMPTS_MAX, limit=_LEASED, tenant_id=tenant_id, after=after
        )
        seconds = time.perf_counter() - started
        if len(leased.runs) != _LEASED:
            raise BenchmarkError(f"a lease of {_LEASED} took {len(leased.runs)}")
        await self._queue.end([LeaseResult.released(run) for run in leased.runs])
        # Given back, a run waits anew; each lease is to meet the same queue, and in it what is overdue.
        await self._connection.execute(_AS_BEFORE, [run.id for run in leased.runs])
        return seconds, leased.cursors
