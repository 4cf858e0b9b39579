"""The suite of pages on large tables: the time of a page must not grow with the tenant's rows, for each filter."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias
from uuid import UUID

from benchmarks.competitors import POOL_SIZE
from benchmarks.measure import Call, Entry, Figure, ratio
from benchmarks.operations import time_entries
from benchmarks.seeding import SHARED_CORRELATION, creation_time, store_mixed
from benchmarks.suite import Bench
from graphjobs.core.pagination import BoundedCount, PageKey
from graphjobs.graph_jobs.filters import GraphJobCollection, GraphJobQuery
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.settings import Settings
from graphjobs.storage import open_storage

SLOWER_AT_MOST: Final = 2.0
"""The time of a page at 1,000,000 rows of one tenant as a multiple of that at 10,000."""

_SMALL_ROWS: Final = 10_000
_LISTED: Final = 50
_SMALL: Final = "small"
_LARGE: Final = "large"

_TWO: Final = (GraphJobStatus.QUEUED, GraphJobStatus.RUNNING)
_FILTERS: Final[dict[str, GraphJobQuery]] = {
    "all": GraphJobQuery(limit=_LISTED),
    "type": GraphJobQuery(limit=_LISTED, type=GraphJobType.OVERLAY),
    "status": GraphJobQuery(limit=_LISTED, statuses=(GraphJobStatus.COMPLETED,)),
    "statuses": GraphJobQuery(limit=_LISTED, statuses=_TWO),
    "type+statuses": GraphJobQuery(limit=_LISTED, type=GraphJobType.OVERLAY, statuses=_TWO),
    "correlation_id": GraphJobQuery(limit=_LISTED, correlation_id=SHARED_CORRELATION),
}
_TIMES: Final = "times"
"""A filter that depends on the tenant: the time range of the middle half of its rows."""

_PrepareCall: TypeAlias = Callable[[str, GraphJobQuery], Call]


async def pages(bench: Bench) -> list[Figure]:
    """Time the first page of 50 and one from the middle, by each filter, for a small and a large tenant.

    Counts are timed for reference; they stop at 10,000, which no filter of the small tenant reaches.
    """
    sizes = _sizes(bench)
    bench.say(f"seeding {_SMALL_ROWS:,} jobs of one tenant and {bench.many_rows:,} of another")
    for tenant, rows in sizes.items():
        await store_mixed(bench.url, tenant, rows)
    figures: list[Figure] = []
    async with open_storage(Settings.load(database_url=bench.url, pool_size=POOL_SIZE)) as storage:
        for filter_name in (*_FILTERS, _TIMES):
            bench.say(f"page of {_LISTED} by filter: {filter_name}")
            queries = {tenant: _query(filter_name, rows) for tenant, rows in sizes.items()}
            middle = {tenant: _from_middle(query, tenant, sizes[tenant]) for tenant, query in queries.items()}
            page, count = partial(_page, storage.graph_jobs), partial(_count, storage.graph_jobs)
            figures += await _timed(bench, f"{filter_name}, first", page, queries, at_most=SLOWER_AT_MOST)
            figures += await _timed(bench, f"{filter_name}, middle", page, middle, at_most=SLOWER_AT_MOST)
            figures += await _timed(bench, f"{filter_name}, count", count, queries)
    return figures


def _sizes(bench: Bench) -> dict[str, int]:
    return {_SMALL: _SMALL_ROWS, _LARGE: bench.many_rows}


def _query(filter_name: str, rows: int) -> GraphJobQuery:
    if filter_name != _TIMES:
        return _FILTERS[filter_name]
    return GraphJobQuery(
        limit=_LISTED, created_from=creation_time(rows // 4), created_to=creation_time(rows - rows // 4)
    )


def _from_middle(query: GraphJobQuery, tenant: str, rows: int) -> GraphJobQuery:
    """Return the query of the page after half of the tenant's rows."""
    last_key = PageKey(creation_time(rows // 2), UUID(int=0))
    return query.replace(cursor=query.cursor_after(tenant, last_key))


def _page(jobs: GraphJobStore, tenant: str, query: GraphJobQuery) -> Call:
    return partial(jobs.get_jobs, tenant, query)


def _count(jobs: GraphJobStore, tenant: str, query: GraphJobQuery) -> Call:
    return partial(jobs.count, tenant, query)


async def _timed(
    bench: Bench,
    operation: str,
    prepare: _PrepareCall,
    queries: dict[str, GraphJobQuery],
    *,
    at_most: float | None = None,
) -> list[Figure]:
    calls = {f"{rows:,} rows": prepare(tenant, queries[tenant]) for tenant, rows in _sizes(bench).items()}
    return await by_size(bench, operation, calls, _is_full, at_most=at_most)


async def by_size(
    bench: Bench,
    operation: str,
    calls: Mapping[str, Call],
    is_done: Callable[[object], bool],
    *,
    at_most: float | None = None,
) -> list[Figure]:
    """Time the same query in turns, for a small and a large tenant.

    Args:
        bench: the pace, and the order of turns.
        operation: its name in the table.
        calls: the query by the name of its size, the small one first.
        is_done: checks an answer.
        at_most: the target of the ratio of large to small.
    """
    small, large = calls
    entries = [Entry(name, _repeat(call), is_done) for name, call in calls.items()]
    return await time_entries(
        bench, operation, entries, lambda times: {large: (ratio(times, large, small, at_most=at_most),)}
    )


def _repeat(call: Call) -> Callable[[int], list[list[Call]]]:
    return lambda number: [[call] * number]


def _is_full(answer: object) -> bool:
    if isinstance(answer, BoundedCount):
        return answer.value > _LISTED
    return isinstance(answer, GraphJobCollection) and len(answer.jobs) == _LISTED and not answer.unreadable
