"""The suite of claims: what a claim of 100 costs must not grow with what is queued, by one tenant or by a thousand."""

import statistics
import time
from typing import Final

from benchmarks.measure import BenchmarkError, Figure, compared
from benchmarks.seeding import emptied, settled, store_queued
from benchmarks.suite import Bench
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.settings import Settings
from graphjobs.storage import open_storage

DEARER_AT_MOST: Final = 2.0
"""A claim of 100 with 1,000,000 queued as against one with 1,000."""

_CLAIMED: Final = 100
_FEW: Final = 1_000
_TENANTS: Final = 1_000
_WARM_UP: Final = 6
_TIMES_A_ROUND: Final = 4
_SWEPT_EACH: Final = 20


async def claims(bench: Bench) -> list[Figure]:
    """Times claims of 100 in turns: with 1,000 queued and with many; then those of everybody's, of 1,000 tenants."""
    few, many = f"{_FEW:,} queued", f"{bench.many_rows:,} queued"
    spread = f"{bench.many_rows:,} of {_TENANTS:,} tenants"
    async with open_storage(Settings.load(database_url=bench.url)) as storage:
        queue = storage.graph_job_queue
        bench.say(f"queueing {bench.many_rows:,} jobs of one tenant, and {_FEW:,} of another")
        await store_queued(bench.url, ["few"], _FEW)
        await store_queued(bench.url, ["many"], bench.many_rows)
        bench.say(f"claims of {_CLAIMED}")
        times = await _timed(bench, queue, {few: "few", many: "many"})
        bench.say(f"queueing {bench.many_rows:,} jobs of {_TENANTS:,} tenants")
        await emptied(bench.url)
        await store_queued(bench.url, [f"tenant-{number:04}" for number in range(_TENANTS)], bench.many_rows)
        bench.say(f"claims of {_CLAIMED} of everybody's")
        times |= await _timed(bench, queue, {spread: None})
    dearer = compared(times[many], times[few], of=many, against=few, at_most=DEARER_AT_MOST)
    ratios = {many: (dearer,), spread: (compared(times[spread], times[few], of=spread, against=few),)}
    return [
        Figure(f"claim {_CLAIMED}", 1, name, statistics.median(times[name]), ratios.get(name, ()))
        for name in (few, many, spread)
    ]


async def _timed(bench: Bench, queue: GraphJobQueue, whose: dict[str, str | None]) -> dict[str, list[float]]:
    """Claims in turns, and gives back what was claimed, which is not timed; microseconds a claim."""
    times: dict[str, list[float]] = {name: [] for name in whose}
    cursors = dict.fromkeys(whose, "")
    for turn in range(_WARM_UP + _TIMES_A_ROUND * bench.pace.rounds):
        if turn % _SWEPT_EACH == 0:
            await settled(bench.url)
        for name in bench.order.sample(sorted(whose), len(whose)):
            started = time.perf_counter()
            claimed = await queue.claim(whose[name], "build", limit=_CLAIMED, after=cursors[name])
            seconds = time.perf_counter() - started
            if len(claimed.jobs) != _CLAIMED:
                raise BenchmarkError(f"a claim of {_CLAIMED} took {len(claimed.jobs)}")
            cursors[name] = claimed.cursor
            await queue.end([AttemptResult.released(job) for job in claimed.jobs])
            if turn >= _WARM_UP:
                times[name].append(seconds * 1e6)
    return times
