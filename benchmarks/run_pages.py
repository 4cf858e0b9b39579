"""Pages of policy runs on large tables: what one costs must not grow with the tenant's rows, whatever it filters."""

from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from benchmarks.competitors import POOL_SIZE
from benchmarks.measure import Call, Figure
from benchmarks.pages import by_size
from benchmarks.run_seeding import POLICY, Spread, store_mixed_runs
from benchmarks.suite import Bench
from graphjobs.core.pagination import BoundedCount, PageKey
from graphjobs.policy_runs.filters import PolicyRunCollection, PolicyRunMetrics, PolicyRunQuery
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunStatus
from graphjobs.settings import Settings
from graphjobs.storage import open_storage

DEARER_AT_MOST: Final = 2.0
"""A page at 1,000,000 rows of one tenant as against 10,000."""

_FEW_ROWS: Final = 10_000
_LISTED: Final = 50
_ROUNDS_FOR_REFERENCE: Final = 10
_TWO: Final = (PolicyRunStatus.PENDING, PolicyRunStatus.DISPATCHING)
_FILTERS: Final[dict[str, dict[str, Any]]] = {
    "none": {},
    "p_policy_id": {"policy_id": POLICY},
    "mode": {"mode": PolicyRunMode.INCREMENTAL},
    "p_statuses": {"p_statuses": _TWO},
    "all three": {"policy_id": POLICY, "mode": PolicyRunMode.INCREMENTAL, "p_statuses": _TWO},
}
_LATER: Final = "after"
"""One more filter, `queued_after`, whose time is of the tenant: the newest three quarters of its rows."""


async def run_pages(bench: Bench) -> list[Figure]:
    """Times a page of 50 by each filter, the first and one from the middle, for a tenant of few rows and one of many.

    Counts and metrics are timed too, for reference: both stop at 10,000, which a tenant of few rows does not reach.
    """
    sizes = {"few": _FEW_ROWS, "many": bench.many_rows}
    bench.say(f"seeding {_FEW_ROWS:,} policy runs of one tenant and {bench.many_rows:,} of another")
    spreads = {tenant: await store_mixed_runs(bench.url, [tenant], rows) for tenant, rows in sizes.items()}
    named = {tenant: f"{rows:,} rows" for tenant, rows in sizes.items()}
    figures: list[Figure] = []
    hasty = replace(bench, pace=replace(bench.pace, rounds=min(bench.pace.rounds, _ROUNDS_FOR_REFERENCE)))
    async with open_storage(Settings.load(database_url=bench.url, pool_size=POOL_SIZE)) as storage:
        runs = storage.policy_runs
        for filtered in (*_FILTERS, _LATER):
            bench.say(f"page of {_LISTED} by filter: {filtered}")
            asked = {tenant: _filter(filtered, sizes[tenant], at) for tenant, at in spreads.items()}
            first = {named[tenant]: partial(runs.list, tenant, limit=_LISTED, **asked[tenant]) for tenant in sizes}
            middle = {
                named[tenant]: _from_middle(runs, tenant, asked[tenant], at(sizes[tenant] // 2))
                for tenant, at in spreads.items()
            }
            counts = {named[tenant]: partial(runs.count, tenant, **asked[tenant]) for tenant in sizes}
            figures += await by_size(bench, f"{filtered}, first", first, _full, at_most=DEARER_AT_MOST)
            figures += await by_size(bench, f"{filtered}, middle", middle, _full, at_most=DEARER_AT_MOST)
            figures += await by_size(hasty, f"{filtered}, count", counts, _full)
        bench.say("metrics")
        metrics = {named[tenant]: partial(runs.metrics, tenant) for tenant in sizes}
        figures += await by_size(hasty, "metrics", metrics, _full)
    return figures


def _filter(filtered: str, rows: int, at: Spread) -> dict[str, Any]:
    return {"queued_after": at(rows // 4)} if filtered == _LATER else _FILTERS[filtered]


def _from_middle(runs: PolicyRunRepository, tenant: str, asked: dict[str, Any], at: datetime) -> Call:
    """The page that whoever walked half of the tenant's rows asks for next."""
    cursor = PolicyRunQuery(**asked).cursor_after(tenant, PageKey(at, UUID(int=0)))
    return partial(runs.list, tenant, limit=_LISTED, cursor=cursor, **asked)


def _full(answer: object) -> bool:
    match answer:
        case BoundedCount():
            return answer.value > _LISTED
        case PolicyRunMetrics():
            return answer.completed > _LISTED and all(cell.count.value for cell in answer.queue.values())
    return isinstance(answer, PolicyRunCollection) and len(answer.runs) == _LISTED and not answer.unreadable
