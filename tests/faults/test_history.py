"""The answers to the swaps of six workers agree with the log, and the check detects mistakes."""

import asyncio

import pytest
from sqlalchemy import text

from graphjobs import DatabaseUnavailable, open_storage
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.faults.backend_monitor import Watch, checked_out, with_settings
from tests.faults.history import (
    History,
    Outcome,
    Swap,
    Swapper,
    problems,
    record,
    swap_with_event,
    update_of_store,
)

TENANT = "acme"


IN_TRANSACTION = "state LIKE 'idle in transaction%'"
IN_STATEMENT = "state = 'active' AND query LIKE 'WITH written AS%UPDATE%'"


async def record_amid_faults(
    settings: Settings,
    watch: Watch,
    swapper: Swapper,
    *,
    victims: str = IN_TRANSACTION,
    every: float = 0.2,
    repeats: bool = False,
) -> History:
    """Record a history while server processes are killed, and assert that no connection leaks."""
    small = with_settings(settings, pool_size=8)
    async with open_storage(small) as storage, open_storage(small) as reader, asyncio.timeout(60):
        async with watch.ending_some(victims, every):
            history = await record(storage, reader, TENANT, swapper, seed=7, repeats=repeats)
        assert (0, 0) == checked_out(storage)
    return history


@pytest.mark.parametrize(
    ("swapper", "victims", "every"), [(swap_with_event, IN_TRANSACTION, 0.2), (update_of_store, IN_STATEMENT, 0.002)]
)
async def test_the_log_is_gapless_and_agrees_with_the_answers(
    graphjobs_settings: Settings, watch: Watch, swapper: Swapper, victims: str, every: float
) -> None:
    """The log has acknowledged swaps once, lost ones never and cancelled ones at most once; each log is legal."""
    history = await record_amid_faults(graphjobs_settings, watch, swapper, victims=victims, every=every)

    assert [] == problems(history)
    assert min(history.count(outcome) for outcome in Outcome) > 10


async def test_repeated_updates_of_the_store_leave_no_answer_unknown(
    graphjobs_settings: Settings, watch: Watch
) -> None:
    """After a cancellation or a kill, a repeated call has the answer, and applies nothing twice."""
    history = await record_amid_faults(
        graphjobs_settings, watch, update_of_store, victims=IN_STATEMENT, every=0.002, repeats=True
    )

    assert [] == problems(history)
    assert 0 == history.count(Outcome.UNKNOWN)
    assert min(history.count(outcome) for outcome in (Outcome.APPLIED, Outcome.LOST)) > 10


async def read_then_write(storage: Storage, swap: Swap) -> bool:
    """Read whether the swap is legal, then write without a comparison: a mistake."""
    async with storage.session() as session, session.begin():
        jobs = GraphJobRepository(storage.database.using(session))
        now = await jobs.get_build_job(swap.job.tenant_id, swap.job.id)
        if now is None or (now.status, now.attempts) != (swap.seen.status, swap.seen.attempts):
            return False
        await session.execute(
            text("UPDATE scheduler.graph_jobs SET status = :to, payload = CAST(:new AS JSONB) WHERE id = :id"),
            {"to": swap.job.status.code, "new": swap.job.to_json(), "id": swap.job.id},
        )
        await jobs.append_event(swap.event())
        return True


async def event_in_a_second_transaction(storage: Storage, swap: Swap) -> bool:
    """Commit the swap before its event: a mistake."""
    if not await storage.graph_job_repository.try_replace(swap.job, swap.seen.status):
        return False
    await storage.graph_job_repository.append_event(swap.event())
    return True


async def cancel_is_false(storage: Storage, swap: Swap) -> bool:
    """Report a cancelled call as not applied: a mistake."""
    try:
        return await swap_with_event(storage, swap)
    except (asyncio.CancelledError, DatabaseUnavailable):
        return False


@pytest.mark.parametrize("mistake", [read_then_write, event_in_a_second_transaction, cancel_is_false])
async def test_the_check_notices_a_mistake(graphjobs_settings: Settings, watch: Watch, mistake: Swapper) -> None:
    found = problems(await record_amid_faults(graphjobs_settings, watch, mistake))

    assert found != []
