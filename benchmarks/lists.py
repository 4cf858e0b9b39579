"""The suite of lists on large tables: what a list costs must not grow with the tenant's rows."""

from collections.abc import Callable, Sequence
from typing import Final, cast

from benchmarks import competitors
from benchmarks.competitors import Graphjobs
from benchmarks.measure import Call, Entry, Figure, paired, ratio
from benchmarks.seeding import jobs_of, store, store_many
from benchmarks.suite import Bench

DEARER_AT_MOST: Final = 2.0
"""A list without a status, at 1,000,000 rows of one tenant as against 10,000."""

_FEW_ROWS: Final = 10_000
_LISTED: Final = 50
_FEW: Final = "few"
_MANY: Final = "many"


async def lists(bench: Bench) -> list[Figure]:
    """Times a list of 50 without a status, for a tenant of 10,000 rows and one of many, in turns."""
    bench.say(f"seeding {_FEW_ROWS:,} jobs of one tenant and {bench.many_rows:,} of another")
    await store(bench.url, jobs_of(_FEW, _FEW_ROWS))
    await store_many(bench.url, _MANY, bench.many_rows)
    figures: list[Figure] = []
    async with competitors.graphjobs(bench.url) as jobs:
        for callers in (1, 16):
            bench.say(f"list of {_LISTED} without a status, {callers} caller{'s' if callers > 1 else ''}")
            figures += await _timed(bench, jobs, callers)
    return figures


async def _timed(bench: Bench, jobs: Graphjobs, callers: int) -> list[Figure]:
    few, many = f"of {_FEW_ROWS:,} rows", f"of {bench.many_rows:,} rows"
    entries = [
        Entry(name, _prepared(jobs.newest_of_all(tenant, _LISTED), callers), _full)
        for name, tenant in ((few, _FEW), (many, _MANY))
    ]
    times = await paired(entries, bench.pace, bench.order)
    ratios = {many: (ratio(times, many, few, at_most=DEARER_AT_MOST),)}
    return [
        Figure.of(times, name, operation="list, any status", callers=callers, ratios=ratios.get(name, ()))
        for name in (few, many)
    ]


def _prepared(call: Call, callers: int) -> Callable[[int], list[list[Call]]]:
    return lambda each: [[call] * each for _ in range(callers)]


def _full(answer: object) -> bool:
    return len(cast("Sequence[object]", answer)) == _LISTED
