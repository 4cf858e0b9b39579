"""Pages of policy runs on large tables: the time must not grow with the tenant's rows, for each filter."""

from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from benchmarks.competitors import POOL_SIZE
from benchmarks.measure import Call, Figure
from benchmarks.pages import SLOWER_AT_MOST, by_size
from benchmarks.run_seeding import POLICY, Spread, store_mixed_runs
from benchmarks.suite import Bench
from graphjobs.core.pagination import BoundedCount, PageKey
from graphjobs.policy_runs.filters import PolicyRunCollection, PolicyRunMetrics, PolicyRunQuery
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunStatus
from graphjobs.settings import Settings
from graphjobs.storage import open_storage

_SMALL_ROWS: Final = 10_000
_LISTED: Final = 50
_REFERENCE_ROUNDS_MAX: Final = 10
_TWO: Final = (PolicyRunStatus.PENDING, PolicyRunStatus.DISPATCHING)
_FILTERS: Final[dict[str, dict[str, Any]]] = {
    "none": {},
    "policy_id": {"policy_id": POLICY},
    "mode": {"mode": PolicyRunMode.INCREMENTAL},
    "statuses": {"statuses": _TWO},
    "all three": {"policy_id": POLICY, "mode": PolicyRunMode.INCREMENTAL, "statuses": _TWO},
}
_LATER: Final = "after"
"""A filter that depends on the tenant: `queued_after` for the newest three quarters of its rows."""


async def run_pages(bench: Bench) -> list[Figure]:
    """Time the first page of 50 and one from the middle, by each filter, for a small and a large tenant.

    Counts and metrics are timed for reference; they stop at 10,000, which the small tenant does not reach.
    """
    sizes = {"small": _SMALL_ROWS, "large": bench.many_rows}
    bench.say(f"seeding {_SMALL_ROWS:,} policy runs of one tenant and {bench.many_rows:,} of another")
    spreads = {tenant: await store_mixed_runs(bench.url, [tenant], rows) for tenant, rows in sizes.items()}
    size_names = {tenant: f"{rows:,} rows" for tenant, rows in sizes.items()}
    figures: list[Figure] = []
    reference = replace(bench, pace=replace(bench.pace, rounds=min(bench.pace.rounds, _REFERENCE_ROUNDS_MAX)))
    async with open_storage(Settings.load(database_url=bench.url, pool_size=POOL_SIZE)) as storage:
        runs = storage.policy_runs
        for filter_name in (*_FILTERS, _LATER):
            bench.say(f"page of {_LISTED} by filter: {filter_name}")
            filters = {tenant: _filter(filter_name, sizes[tenant], at) for tenant, at in spreads.items()}
            first = {
                size_names[tenant]: partial(runs.list, tenant, PolicyRunQuery(**filters[tenant], limit=_LISTED))
                for tenant in sizes
            }
            middle = {
                size_names[tenant]: _from_middle(runs, tenant, filters[tenant], at(sizes[tenant] // 2))
                for tenant, at in spreads.items()
            }
            counts = {
                size_names[tenant]: partial(runs.count, tenant, PolicyRunQuery(**filters[tenant])) for tenant in sizes
            }
            figures += await by_size(bench, f"{filter_name}, first", first, _is_full, at_most=SLOWER_AT_MOST)
            figures += await by_size(bench, f"{filter_name}, middle", middle, _is_full, at_most=SLOWER_AT_MOST)
            figures += await by_size(reference, f"{filter_name}, count", counts, _is_full)
        bench.say("metrics")
        metrics = {size_names[tenant]: partial(runs.metrics, tenant) for tenant in sizes}
        figures += await by_size(reference, "metrics", metrics, _is_full)
    return figures


def _filter(filter_name: str, rows: int, at: Spread) -> dict[str, Any]:
    return {"queued_after": at(rows // 4)} if filter_name == _LATER else _FILTERS[filter_name]


def _from_middle(runs: PolicyRunRepository, tenant: str, filters: dict[str, Any], at: datetime) -> Call:
    """Prepare the page after half of the tenant's rows."""
    query = PolicyRunQuery(**filters, limit=_LISTED)
    return partial(runs.list, tenant, query.replace(cursor=query.cursor_after(tenant, PageKey(at, UUID(int=0)))))


def _is_full(answer: object) -> bool:
    match answer:
        case BoundedCount():
            return answer.value > _LISTED
        case PolicyRunMetrics():
            return answer.completed > _LISTED and all(cell.count.value for cell in answer.queue.values())
    return isinstance(answer, PolicyRunCollection) and len(answer.runs) == _LISTED and not answer.unreadable
