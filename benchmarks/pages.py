"""The suite of pages on large tables: what a page costs must not grow with the tenant's rows, whatever it filters."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias
from uuid import UUID

from benchmarks.competitors import POOL_SIZE
from benchmarks.measure import Call, Entry, Figure, paired, ratio
from benchmarks.seeding import SHARED_CORRELATION, created_at_of, store_mixed
from benchmarks.suite import Bench
from graphjobs.core.pagination import BoundedCount, PageKey
from graphjobs.graph_jobs.filters import GraphJobCollection, GraphJobQuery
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.settings import Settings
from graphjobs.storage import open_storage

DEARER_AT_MOST: Final = 2.0
"""A page at 1,000,000 rows of one tenant as against 10,000."""

_FEW_ROWS: Final = 10_000
_LISTED: Final = 50
_FEW: Final = "few"
_MANY: Final = "many"

_TWO: Final = (GraphJobStatus.QUEUED, GraphJobStatus.RUNNING)
_FILTERS: Final[dict[str, GraphJobQuery]] = {
    "all": GraphJobQuery(limit=_LISTED),
    "type": GraphJobQuery(limit=_LISTED, type=GraphJobType.OVERLAY),
    "status": GraphJobQuery(limit=_LISTED, statuses=(GraphJobStatus.COMPLETED,)),
    "p_statuses": GraphJobQuery(limit=_LISTED, statuses=_TWO),
    "type+statuses": GraphJobQuery(limit=_LISTED, type=GraphJobType.OVERLAY, statuses=_TWO),
    "p_correlation_id": GraphJobQuery(limit=_LISTED, correlation_id=SHARED_CORRELATION),
}
_TIMES: Final = "times"
"""One more filter, whose range is of the tenant: the middle half of its rows."""

_Ask: TypeAlias = Callable[[str, GraphJobQuery], Call]


async def pages(bench: Bench) -> list[Figure]:
    """Times a page of 50 by each filter, the first and one from the middle, for a tenant of few rows and one of many.

    Counts are timed too, for reference; they stop at 10,000, which a filter of a tenant of few rows does not reach.
    """
    sizes = _sizes(bench)
    bench.say(f"seeding {_FEW_ROWS:,} jobs of one tenant and {bench.many_rows:,} of another")
    for tenant, rows in sizes.items():
        await store_mixed(bench.url, tenant, rows)
    figures: list[Figure] = []
    async with open_storage(Settings.load(database_url=bench.url, pool_size=POOL_SIZE)) as storage:
        for filtered in (*_FILTERS, _TIMES):
            bench.say(f"page of {_LISTED} by filter: {filtered}")
            queries = {tenant: _query(filtered, rows) for tenant, rows in sizes.items()}
            middle = {tenant: _from_middle(query, tenant, sizes[tenant]) for tenant, query in queries.items()}
            page, count = partial(_page, storage.graph_jobs), partial(_count, storage.graph_jobs)
            figures += await _timed(bench, f"{filtered}, first", page, queries, at_most=DEARER_AT_MOST)
            figures += await _timed(bench, f"{filtered}, middle", page, middle, at_most=DEARER_AT_MOST)
            figures += await _timed(bench, f"{filtered}, count", count, queries)
    return figures


def _sizes(bench: Bench) -> dict[str, int]:
    return {_FEW: _FEW_ROWS, _MANY: bench.many_rows}


def _query(filtered: str, rows: int) -> GraphJobQuery:
    if filtered != _TIMES:
        return _FILTERS[filtered]
    return GraphJobQuery(
        limit=_LISTED, created_from=created_at_of(rows // 4), created_to=created_at_of(rows - rows // 4)
    )


def _from_middle(query: GraphJobQuery, tenant: str, rows: int) -> GraphJobQuery:
    """The page that whoever walked half of the tenant's rows asks for next."""
    found_last = PageKey(created_at_of(rows // 2), UUID(int=0))
    return query.replace(cursor=query.cursor_after(tenant, found_last))


def _page(jobs: GraphJobStore, tenant: str, query: GraphJobQuery) -> Call:
    return partial(jobs.get_jobs, tenant, query)


def _count(jobs: GraphJobStore, tenant: str, query: GraphJobQuery) -> Call:
    return partial(jobs.count, tenant, query)


async def _timed(
    bench: Bench, operation: str, ask: _Ask, queries: dict[str, GraphJobQuery], *, at_most: float | None = None
) -> list[Figure]:
    calls = {f"{rows:,} rows": ask(tenant, queries[tenant]) for tenant, rows in _sizes(bench).items()}
    return await by_size(bench, operation, calls, _full, at_most=at_most)


async def by_size(
    bench: Bench,
    operation: str,
    calls: Mapping[str, Call],
    done: Callable[[object], bool],
    *,
    at_most: float | None = None,
) -> list[Figure]:
    """Times one and the same question in turns, asked of few rows and of many.

    Args:
        bench: the pace, and whose turn it is.
        operation: its name in the table.
        calls: the question by what it is asked of, few first.
        done: tells whether an answer is what it should be.
        at_most: the target of the ratio of many to few.
    """
    few, many = calls
    times = await paired([Entry(name, _prepared(call), done) for name, call in calls.items()], bench.pace, bench.order)
    ratios = {many: (ratio(times, many, few, at_most=at_most),)}
    return [Figure.of(times, name, operation=operation, callers=1, ratios=ratios.get(name, ())) for name in (few, many)]


def _prepared(call: Call) -> Callable[[int], list[list[Call]]]:
    return lambda each: [[call] * each]


def _full(answer: object) -> bool:
    if isinstance(answer, BoundedCount):
        return answer.value > _LISTED
    return isinstance(answer, GraphJobCollection) and len(answer.jobs) == _LISTED and not answer.unreadable
