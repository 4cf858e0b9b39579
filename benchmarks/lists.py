"""The suite of lists on large tables: the time of a list must not grow with the tenant's rows."""

from collections.abc import Callable, Sequence
from typing import Final, cast

from benchmarks import competitors
from benchmarks.competitors import Graphjobs
from benchmarks.measure import Call, Entry, Figure, ratio
from benchmarks.operations import time_entries
from benchmarks.seeding import mixed_jobs, store, store_many
from benchmarks.suite import Bench

SLOWER_AT_MOST: Final = 2.0
"""The time of a list at 1,000,000 rows of one tenant as a multiple of that at 10,000."""

_SMALL_ROWS: Final = 10_000
_LISTED: Final = 50
_SMALL: Final = "small"
_LARGE: Final = "large"


async def lists(bench: Bench) -> list[Figure]:
    """Time a list of 50 of any status, for a tenant of 10,000 rows and one of many, in turns."""
    bench.say(f"seeding {_SMALL_ROWS:,} jobs of one tenant and {bench.many_rows:,} of another")
    await store(bench.url, mixed_jobs(_SMALL, _SMALL_ROWS))
    await store_many(bench.url, _LARGE, bench.many_rows)
    figures: list[Figure] = []
    async with competitors.graphjobs(bench.url) as jobs:
        for callers in (1, 16):
            bench.say(f"list of {_LISTED} without a status, {callers} caller{'s' if callers > 1 else ''}")
            figures += await _time_lists(bench, jobs, callers)
    return figures


async def _time_lists(bench: Bench, jobs: Graphjobs, callers: int) -> list[Figure]:
    small, large = f"of {_SMALL_ROWS:,} rows", f"of {bench.many_rows:,} rows"
    entries = [
        Entry(name, _repeat(jobs.newest_of_all(tenant, _LISTED), callers), _is_full)
        for name, tenant in ((small, _SMALL), (large, _LARGE))
    ]
    return await time_entries(
        bench,
        "list, any status",
        entries,
        lambda times: {large: (ratio(times, large, small, at_most=SLOWER_AT_MOST),)},
        callers,
    )


def _repeat(call: Call, callers: int) -> Callable[[int], list[list[Call]]]:
    return lambda number: [[call] * number for _ in range(callers)]


def _is_full(answer: object) -> bool:
    return len(cast("Sequence[object]", answer)) == _LISTED
