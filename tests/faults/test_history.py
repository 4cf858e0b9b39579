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
MOVING = "state = 'active' AND query LIKE 'WITH written AS%UPDATE%'"


async def record_amid_faults(
    settings: Settings,
    watch: Watch,
    swapper: Swapper,
    *,
    victims: str = IN_TRANSACTION,
    every: float = 0.2,
    repeats: bool = False,
) -> History:
    """Record a history while server processes are killed, and assert that none stays busy."""

    async def kill_now_and_then() -> None:
        while True:
            await asyncio.sleep(every)
            await watch.connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                f" AND application_name = 'graphjobs' AND {victims} ORDER BY pid LIMIT 1"
            )

    given = with_settings(settings, pool_size=8)
    async with open_storage(given) as storage, open_storage(given) as reader, asyncio.timeout(60):
        killing = asyncio.create_task(kill_now_and_then())
        try:
            history = await record(storage, reader, TENANT, swapper, seed=7, repeats=repeats)
        finally:
            killing.cancel()
            await asyncio.wait([killing])
        await watch.until_settled()
        assert (0, 0) == checked_out(storage)
    return history


async def test_the_log_is_gapless_and_agrees_with_the_answers(graphjobs_settings: Settings, watch: Watch) -> None:
    """The log has acknowledged swaps once, lost ones never and cancelled ones at most once; each log is legal."""
    history = await record_amid_faults(graphjobs_settings, watch, swap_with_event)

    assert [] == problems(history)
    assert min(history.count(outcome) for outcome in Outcome) > 10


async def test_the_log_of_the_store_is_gapless_and_agrees_with_the_answers(
    graphjobs_settings: Settings, watch: Watch
) -> None:
    """The server processes are killed during the one statement of the store."""
    history = await record_amid_faults(graphjobs_settings, watch, update_of_store, victims=MOVING, every=0.002)

    assert [] == problems(history)
    assert min(history.count(outcome) for outcome in Outcome) > 10


async def test_repeated_updates_of_the_store_leave_no_answer_unknown(
    graphjobs_settings: Settings, watch: Watch
) -> None:
    """After a cancellation or a kill, a repeated call has the answer, and applies nothing twice."""
    history = await record_amid_faults(
        graphjobs_settings, watch, update_of_store, victims=MOVING, every=0.002, repeats=True
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
    """The check can fail."""
    found = problems(await record_amid_faults(graphjobs_settings, watch, mistake))

    assert found != []
