"""The suite of claims: the time of a claim of 100 must not grow with the queued jobs of 1 or 1,000 tenants."""

import statistics
import time
from typing import Final

from benchmarks.measure import BenchmarkError, Figure, compared
from benchmarks.operations import time_turns
from benchmarks.seeding import store_queued, truncate
from benchmarks.suite import Bench
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.settings import Settings
from graphjobs.storage import open_storage

SLOWER_AT_MOST: Final = 2.0
"""The time of a claim with 1,000,000 queued jobs as a multiple of that with 1,000."""

_CLAIMED: Final = 100
_SMALL: Final = 1_000
_TENANTS: Final = 1_000
_TURNS_PER_ROUND: Final = 4


async def claims(bench: Bench) -> list[Figure]:
    """Time claims of 100 in turns: with 1,000 queued jobs and with many; then claims of all of 1,000 tenants."""
    small, large = f"{_SMALL:,} queued", f"{bench.many_rows:,} queued"
    spread = f"{bench.many_rows:,} of {_TENANTS:,} tenants"
    async with open_storage(Settings.load(database_url=bench.url)) as storage:
        queue = storage.graph_job_queue
        bench.say(f"queueing {bench.many_rows:,} jobs of one tenant, and {_SMALL:,} of another")
        await store_queued(bench.url, ["small"], _SMALL)
        await store_queued(bench.url, ["large"], bench.many_rows)
        bench.say(f"claims of {_CLAIMED}")
        times = await _time_claims(bench, queue, {small: "small", large: "large"})
        bench.say(f"queueing {bench.many_rows:,} jobs of {_TENANTS:,} tenants")
        await truncate(bench.url)
        await store_queued(bench.url, [f"tenant-{number:04}" for number in range(_TENANTS)], bench.many_rows)
        bench.say(f"claims of {_CLAIMED} of all tenants")
        times |= await _time_claims(bench, queue, {spread: None})
    slower = compared(times[large], times[small], of=large, against=small, at_most=SLOWER_AT_MOST)
    ratios = {large: (slower,), spread: (compared(times[spread], times[small], of=spread, against=small),)}
    return [
        Figure(f"claim {_CLAIMED}", 1, name, statistics.median(times[name]), ratios.get(name, ()))
        for name in (small, large, spread)
    ]


async def _time_claims(bench: Bench, queue: GraphJobQueue, tenants: dict[str, str | None]) -> dict[str, list[float]]:
    """Time claims of these tenants in turns, by name; None means all tenants. The untimed release follows."""
    cursors = dict.fromkeys(tenants, "")

    async def claim(name: str) -> float:
        started_at = time.perf_counter()
        claimed = await queue.claim(tenants[name], "build", limit=_CLAIMED, after=cursors[name])
        seconds = time.perf_counter() - started_at
        if len(claimed.jobs) != _CLAIMED:
            raise BenchmarkError(f"a claim of {_CLAIMED} returned {len(claimed.jobs)} jobs")
        cursors[name] = claimed.cursor
        await queue.end([AttemptResult.released(job) for job in claimed.jobs])
        return seconds

    return await time_turns(bench, tenants, claim, turns_per_round=_TURNS_PER_ROUND)
