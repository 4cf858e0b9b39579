"""What the store answers when the answer was lost: the truth, or that it cannot be told; and nothing is done twice."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from graphjobs import (
    DatabaseUnavailable,
    GraphBuildJob,
    GraphJobStatus,
    GraphJobUpdateResult,
    JobAlreadyExists,
    OutcomeUnknown,
    open_storage,
)
from graphjobs.core import recovery
from graphjobs.core.transitions import UpdateOutcome
from graphjobs.database import engine as engine_room
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job, overlay_job
from tests.faults.backend_monitor import DEADLINE_SECONDS, Watch, checked_out, url_of, with_settings
from tests.faults.cancel_at_await import Cancel, cancelled_at
from tests.faults.faulty_proxy import Fault, Wire

QUEUED, RUNNING = GraphJobStatus.QUEUED, GraphJobStatus.RUNNING
Result = GraphJobUpdateResult[GraphBuildJob]


@pytest_asyncio.fixture
async def wire(shared_settings: Settings, tmp_path: Path) -> AsyncIterator[Wire]:
    """A wire to the shared database, whole as yet."""
    wire = Wire(url_of(shared_settings), tmp_path)
    async with wire.running():
        yield wire


@asynccontextmanager
async def opened(wire: Wire, settings: Settings, *, statement_timeout: float = 20.0) -> AsyncIterator[Storage]:
    """A storage behind the wire, its one connection open, with every statement of the store prepared."""
    given = with_settings(
        settings,
        database_url=wire.url,
        pool_size=1,
        statement_timeout=statement_timeout,
        lock_timeout=20.0,
        connect_timeout=2.0,
    )
    async with open_storage(given) as storage:
        store, queued = storage.graph_jobs, build_job("nobody")
        await store.add(queued)
        with pytest.raises(JobAlreadyExists):
            await store.add(queued, transition_id=uuid.uuid4())
        await store.update(queued.start(at=AT), expected=QUEUED)
        await store.update(queued.edit(metadata={"a": "b"}), expected=QUEUED, expected_version=AT)
        yield storage
        assert (0, 0) == checked_out(storage)


@pytest_asyncio.fixture
async def wired(wire: Wire, shared_settings: Settings) -> AsyncIterator[Storage]:
    """A storage behind the wire."""
    async with opened(wire, shared_settings) as storage:
        yield storage


class Asked:
    """One move of one job that can be asked again, word for word."""

    def __init__(self, queued: GraphBuildJob, how: str) -> None:
        self.queued, self.transition = queued, uuid.uuid4()
        self.moved = queued.edit(metadata={"a": "b"}) if how == "edit" else queued.start(at=AT)

    async def of(self, storage: Storage) -> Result:
        """Asks for it."""
        return await storage.graph_jobs.update(self.moved, expected=QUEUED, transition_id=self.transition)

    async def require_applied_once(self, storage: Storage, *results: Result) -> None:
        """Asserts that all answers tell of the one move that row and log hold, and so does asking again."""
        found = await storage.graph_jobs.get_build_job(self.queued.tenant_id, self.queued.id)
        _, event = await storage.graph_jobs.events(self.queued.tenant_id, self.queued.id)
        assert found is not None
        for result in (*results, await self.of(storage)):
            assert result.job is not None
            assert (UpdateOutcome.APPLIED, event.id) == (result.outcome, result.event_id)
            assert self.moved == result.job == found
            assert event.created_at == result.job.updated_at == found.updated_at

    async def require_not_applied(self, storage: Storage) -> None:
        """Asserts that neither row nor log knows it."""
        found = await storage.graph_jobs.get_build_job(self.queued.tenant_id, self.queued.id)
        assert found is not None
        assert (self.queued, self.queued.updated_at) == (found, found.updated_at)
        assert 1 == len(await storage.graph_jobs.events(self.queued.tenant_id, self.queued.id))


@pytest_asyncio.fixture(params=["edit", "start"])
async def asked(request: pytest.FixtureRequest, storage: Storage, tenant: str) -> Asked:
    """A move that keeps the status, and one that changes it."""
    return Asked(await storage.graph_jobs.add(build_job(tenant)), request.param)


async def looked_for(watch: Watch, ask: Callable[[], Awaitable[None]]) -> None:
    """Does something, and waits until a move was looked for in the log after it."""
    since = await watch.connection.fetchval("SELECT clock_timestamp()")
    await ask()

    async def is_looked_for() -> bool:
        count: int = await watch.connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query_start > $1"
            " AND application_name = 'graphjobs' AND query LIKE '%transitionId%' AND query NOT LIKE '%INSERT%'",
            since,
        )
        return count > 0

    await watch.until(is_looked_for, "a look into the log", DEADLINE_SECONDS)


# --- a move whose answer is lost ---


async def test_a_move_whose_answer_is_lost_is_found_to_be_applied(
    wired: Storage, wire: Wire, storage: Storage, asked: Asked
) -> None:
    """The caller is told as if nothing had happened."""
    wire.fault = Fault.DROP_REPLY
    result = await asked.of(wired)
    assert 1 == wire.hit
    await asked.require_applied_once(storage, result)


async def test_a_move_that_never_reached_the_server_is_told_to_have_changed_nothing(
    wired: Storage, wire: Wire, storage: Storage, asked: Asked
) -> None:
    """It is believed only at the end of the server's side; then the caller may try again."""
    wire.fault = Fault.DROP_REQUEST
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await asked.of(wired)
    assert 1 == wire.hit
    await asked.require_not_applied(storage)
    await asked.require_applied_once(storage, await asked.of(wired))


async def test_a_lost_move_whose_answer_is_lost_changed_nothing(
    wired: Storage, wire: Wire, storage: Storage, asked: Asked
) -> None:
    """What is not in the log was not applied; asked again, the store tells who was first."""
    canceled = await storage.graph_jobs.update(asked.queued.cancel(at=AT), expected=QUEUED)
    wire.fault = Fault.DROP_REPLY
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await asked.of(wired)
    assert 1 == wire.hit
    again = await asked.of(wired)
    assert (UpdateOutcome.CONFLICT, canceled.job) == (again.outcome, again.job)


async def test_a_move_asked_again_whose_answer_is_lost_is_still_the_first_one(
    wired: Storage, wire: Wire, storage: Storage, asked: Asked
) -> None:
    """It is in the log by then, whichever call wrote it."""
    first = await asked.of(storage)
    wire.fault = Fault.DROP_REPLY
    second = await asked.of(wired)
    assert 1 == wire.hit
    await asked.require_applied_once(storage, first, second)


async def test_a_move_whose_answer_is_swallowed_is_found_to_be_applied(
    wire: Wire, shared_settings: Settings, storage: Storage, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No end and no answer: our own time-out ends the wait, and then it is looked up."""
    monkeypatch.setattr(engine_room, "COMMAND_TIMEOUT_MARGIN", timedelta(seconds=0.2))
    async with opened(wire, shared_settings, statement_timeout=0.3) as wired:
        wire.fault = Fault.SWALLOW_REPLY
        result = await asked.of(wired)
    assert 1 == wire.hit
    await asked.require_applied_once(storage, result)


async def test_a_move_nobody_can_look_up_is_told_to_be_unknown(
    wired: Storage, wire: Wire, storage: Storage, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network stays broken past the bound; the move landed, and asked again it says so."""
    monkeypatch.setattr(recovery, "_RESOLVE_SECONDS", 0.5)
    wire.lasts, wire.fault = True, Fault.DROP_REPLY
    async with asyncio.timeout(5):
        with pytest.raises(OutcomeUnknown):
            await asked.of(wired)
    wire.lasts, wire.fault = False, Fault.NONE
    assert wire.hit > 1
    await asked.require_applied_once(storage, await asked.of(wired))


# --- a move that waits for a lock when its connection is lost ---


async def test_a_waiting_move_that_lost_its_connection_is_answered_when_the_lock_is_free(
    wired: Storage, wire: Wire, storage: Storage, shared_watch: Watch, asked: Asked
) -> None:
    """Not in the log as yet, it is neither a conflict nor told to have changed nothing."""

    async def lose() -> None:
        wire.cut()

    async with shared_watch.holding(asked.queued.id):
        waiting = asyncio.create_task(asked.of(wired))
        await shared_watch.until_waiting()
        await looked_for(shared_watch, lose)
        assert not waiting.done()
    await asked.require_applied_once(storage, await waiting)


async def test_a_waiting_move_that_lost_its_connection_and_then_the_job_changed_nothing(
    wired: Storage, wire: Wire, storage: Storage, shared_watch: Watch, asked: Asked
) -> None:
    """Who held the lock moved the job: the waiting move ends without effect, and that is told."""

    async def lose() -> None:
        wire.cut()

    async with storage.session() as session, session.begin():
        canceled = await storage.graph_jobs.using(session).update(asked.queued.cancel(at=AT), expected=QUEUED)
        waiting = asyncio.create_task(asked.of(wired))
        await shared_watch.until_waiting()
        await looked_for(shared_watch, lose)
        assert not waiting.done()
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await waiting
    again = await asked.of(wired)
    assert (UpdateOutcome.CONFLICT, canceled.job) == (again.outcome, again.job)


async def test_a_waiting_move_whose_server_side_was_ended_changed_nothing(
    wired: Storage, wire: Wire, storage: Storage, shared_watch: Watch, asked: Asked
) -> None:
    """What has ended lands never; the lock is still held then."""

    async def lose() -> None:
        wire.cut()

    async with shared_watch.holding(asked.queued.id):
        waiting = asyncio.create_task(asked.of(wired))
        backends = await shared_watch.until_waiting()
        await looked_for(shared_watch, lose)
        await shared_watch.end(backends)
        with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
            await waiting
    await asked.require_not_applied(storage)


async def test_a_move_that_waits_past_the_bound_is_told_to_be_unknown(
    wired: Storage,
    wire: Wire,
    storage: Storage,
    shared_watch: Watch,
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may still land, and does; asked again, it is applied once."""
    monkeypatch.setattr(recovery, "_RESOLVE_SECONDS", 0.3)
    async with shared_watch.holding(asked.queued.id):
        waiting = asyncio.create_task(asked.of(wired))
        await shared_watch.until_waiting()
        wire.cut()
        with pytest.raises(OutcomeUnknown) as caught:
            await waiting
        assert caught.value.backend in await shared_watch.until_waiting()
        await asked.require_not_applied(storage)
    await shared_watch.until_settled()
    assert asked.moved == await storage.graph_jobs.get_build_job(asked.queued.tenant_id, asked.queued.id)
    await asked.require_applied_once(storage)


async def test_a_move_asked_again_while_the_first_lost_its_connection_is_applied_once(
    wired: Storage, wire: Wire, storage: Storage, shared_watch: Watch, asked: Asked
) -> None:
    """Both wait for the same lock, the first without a caller that hears it; both answer the same."""
    async with shared_watch.holding(asked.queued.id):
        first = asyncio.create_task(asked.of(wired))
        await shared_watch.until_waiting()
        wire.cut()
        second = asyncio.create_task(asked.of(storage))
        await shared_watch.until_waiting(2)
    await asked.require_applied_once(storage, await first, await second)


async def test_another_moves_event_under_its_id_does_not_say_that_a_lost_one_will_not_land(
    wired: Storage, wire: Wire, storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """Two moves were given one id; the second waits for a lock, and its answer is lost: it lands, and is told so."""
    queued, shared = await storage.graph_jobs.add(build_job(tenant)), uuid.uuid4()
    started = await storage.graph_jobs.update(queued.start(at=AT), expected=QUEUED, transition_id=shared)
    assert started.job is not None
    completed = started.job.complete(at=AT, graph_snapshot_id="graph")

    async def lose() -> None:
        wire.cut()

    async with shared_watch.holding(queued.id):
        waiting = asyncio.create_task(
            wired.graph_jobs.update(completed, expected=GraphJobStatus.RUNNING, transition_id=shared)
        )
        await shared_watch.until_waiting()
        await looked_for(shared_watch, lose)
        assert not waiting.done()

    assert (UpdateOutcome.APPLIED, completed) == ((await waiting).outcome, (await waiting).job)


# --- the same move asked twice ---


async def test_a_move_asked_again_while_it_waits_is_applied_once(
    storage: Storage, shared_watch: Watch, asked: Asked
) -> None:
    """A third holds the row's lock; both answer the same, and one event exists."""
    async with shared_watch.holding(asked.queued.id):
        both = [asyncio.create_task(asked.of(storage)) for _ in range(2)]
        await shared_watch.until_waiting(2)
    await asked.require_applied_once(storage, *await asyncio.gather(*both))


async def test_a_move_asked_by_many_at_once_is_applied_once(storage: Storage, asked: Asked) -> None:
    """Whoever is first, all are told the same."""
    await asked.require_applied_once(storage, *await asyncio.gather(*(asked.of(storage) for _ in range(30))))


async def test_a_move_asked_again_beside_an_open_transaction_waits_for_its_end(
    storage: Storage, shared_watch: Watch, asked: Asked
) -> None:
    """Committed, it is the first one's; rolled back, the second's."""
    for ending in ("rollback", "commit"):
        async with storage.session() as session:
            inside = storage.graph_jobs.using(session)
            first = await inside.update(asked.moved, expected=QUEUED, transition_id=asked.transition)
            second = asyncio.create_task(asked.of(storage))
            await shared_watch.until_waiting()
            await (session.rollback() if ending == "rollback" else session.commit())
        if ending == "rollback":
            await asked.require_applied_once(storage, await second)
            asked = Asked(await storage.graph_jobs.add(build_job(asked.queued.tenant_id)), "start")
        else:
            await asked.require_applied_once(storage, first, await second)


async def test_a_move_that_is_cancelled_anywhere_and_asked_again_is_applied_once(storage: Storage, tenant: str) -> None:
    """At each of its awaits, however the cancel comes."""
    for how in Cancel:
        for number in range(100):
            asked = Asked(await storage.graph_jobs.add(build_job(tenant)), "start" if number % 2 else "edit")
            reached, _ = await cancelled_at(number, asked.of(storage), how)
            await asked.require_applied_once(storage, await asked.of(storage))
            if not reached:
                break
        assert not reached
        assert number > 0


async def test_a_move_that_is_cancelled_while_it_waits_and_asked_again_is_applied_once(
    storage: Storage, shared_watch: Watch, asked: Asked
) -> None:
    """Cancelled, it leaves nothing that waits behind, or it lands: both are one move in the end."""
    async with shared_watch.holding(asked.queued.id):
        waiting = asyncio.create_task(asked.of(storage))
        await shared_watch.until_waiting()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        again = asyncio.create_task(asked.of(storage))
        await shared_watch.until_waiting()
    await asked.require_applied_once(storage, await again)


# --- additions ---


class Adding:
    """One addition of one job that can be asked again, word for word."""

    def __init__(self, tenant: str) -> None:
        self.job, self.transition = overlay_job(tenant), uuid.uuid4()

    async def of(self, storage: Storage) -> Any:
        """Asks for it."""
        return await storage.graph_jobs.add(self.job, transition_id=self.transition)

    async def require_added_once(self, storage: Storage, *answers: Any) -> None:
        """Asserts that all answers are the job that is stored, with its one event."""
        found = await storage.graph_jobs.get_overlay_job(self.job.tenant_id, self.job.id)
        (event,) = await storage.graph_jobs.events(self.job.tenant_id, self.job.id)
        assert found is not None
        assert str(self.transition) == event.payload["transitionId"]
        for answer in (*answers, await self.of(storage)):
            assert (self.job, self.job) == (answer, found)
            assert event.created_at == answer.updated_at == found.updated_at

    async def require_not_added(self, storage: Storage) -> None:
        """Asserts that neither table knows it."""
        assert await storage.graph_jobs.get_job(self.job.tenant_id, self.job.id) is None
        assert () == await storage.graph_jobs.events(self.job.tenant_id, self.job.id)


@pytest.fixture
def adding(tenant: str) -> Adding:
    """An addition."""
    return Adding(tenant)


async def test_an_addition_whose_answer_is_lost_is_found_to_be_there(
    wired: Storage, wire: Wire, storage: Storage, adding: Adding
) -> None:
    """With the version it has."""
    wire.fault = Fault.DROP_REPLY
    added = await adding.of(wired)
    assert 1 == wire.hit
    await adding.require_added_once(storage, added)


async def test_an_addition_that_never_reached_the_server_is_told_to_have_changed_nothing(
    wired: Storage, wire: Wire, storage: Storage, adding: Adding
) -> None:
    """And can be asked for again."""
    wire.fault = Fault.DROP_REQUEST
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await adding.of(wired)
    assert 1 == wire.hit
    await adding.require_not_added(storage)
    await adding.require_added_once(storage, await adding.of(wired))


async def test_an_addition_of_a_taken_id_whose_answer_is_lost_is_not_told_to_be_there(
    wired: Storage, wire: Wire, storage: Storage, adding: Adding
) -> None:
    """The job is there, but by another addition; asked again, it is told to be taken."""
    taken = await storage.graph_jobs.add(adding.job)
    wire.fault = Fault.DROP_REPLY
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await adding.of(wired)
    assert 1 == wire.hit
    with pytest.raises(JobAlreadyExists):
        await adding.of(wired)
    assert 1 == len(await storage.graph_jobs.events(taken.tenant_id, taken.id))


@pytest.mark.parametrize("lands", [True, False], ids=["rolled back", "committed"])
async def test_a_waiting_addition_that_lost_its_connection_is_answered_when_the_id_is_free_or_taken(
    wired: Storage, wire: Wire, storage: Storage, shared_watch: Watch, adding: Adding, lands: bool
) -> None:
    """Somebody else's open transaction holds the id: rolled back ours lands, committed it never will."""

    async def lose() -> None:
        wire.cut()

    async with storage.session() as session:
        await storage.graph_jobs.using(session).add(adding.job)
        waiting = asyncio.create_task(adding.of(wired))
        await shared_watch.until_waiting()
        await looked_for(shared_watch, lose)
        assert not waiting.done()
        await (session.rollback() if lands else session.commit())
    if lands:
        await adding.require_added_once(storage, await waiting)
    else:
        with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
            await waiting


async def test_an_addition_that_waits_past_the_bound_is_told_to_be_unknown(
    wired: Storage,
    wire: Wire,
    storage: Storage,
    shared_watch: Watch,
    adding: Adding,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may still land, and does; asked again, it is there once."""
    monkeypatch.setattr(recovery, "_RESOLVE_SECONDS", 0.3)
    async with storage.session() as session:
        await storage.graph_jobs.using(session).add(adding.job)
        waiting = asyncio.create_task(adding.of(wired))
        await shared_watch.until_waiting()
        wire.cut()
        with pytest.raises(OutcomeUnknown):
            await waiting
        await adding.require_not_added(storage)
        await session.rollback()
    await shared_watch.until_settled()
    await adding.require_added_once(storage)


async def test_many_whose_answer_is_lost_are_unknown_and_can_be_asked_for_again(
    wired: Storage, wire: Wire, storage: Storage, tenant: str
) -> None:
    """What is there is left out the second time, and has one event."""
    given = [build_job(tenant) for _ in range(3)]
    await wired.graph_jobs.add_many([build_job(f"{tenant}-nobody")])
    wire.fault = Fault.DROP_REPLY
    with pytest.raises(OutcomeUnknown):
        await wired.graph_jobs.add_many(given)
    assert 1 == wire.hit
    late = build_job(tenant)
    assert (late,) == await wired.graph_jobs.add_many([*given, late])
    assert [1] * 4 == [len(await storage.graph_jobs.events(tenant, job.id)) for job in (*given, late)]


async def test_an_addition_asked_by_many_at_once_is_one_job_and_one_event(storage: Storage, adding: Adding) -> None:
    """All are told the same."""
    await adding.require_added_once(storage, *await asyncio.gather(*(adding.of(storage) for _ in range(30))))


async def test_an_addition_asked_again_beside_an_open_transaction_waits_for_its_end(
    storage: Storage, shared_watch: Watch, adding: Adding
) -> None:
    """The second is told what the first committed."""
    async with storage.session() as session, session.begin():
        first = await storage.graph_jobs.using(session).add(adding.job, transition_id=adding.transition)
        second = asyncio.create_task(adding.of(storage))
        await shared_watch.until_waiting()
    await adding.require_added_once(storage, first, await second)


async def test_an_addition_that_is_cancelled_anywhere_and_asked_again_is_there_once(
    storage: Storage, tenant: str
) -> None:
    """At each of its awaits, however the cancel comes."""
    for how in Cancel:
        for number in range(100):
            adding = Adding(tenant)
            reached, _ = await cancelled_at(number, adding.of(storage), how)
            await adding.require_added_once(storage, await adding.of(storage))
            if not reached:
                break
        assert not reached
        assert number > 0


async def test_two_batches_of_the_same_ids_never_deadlock(storage: Storage, shared_watch: Watch, tenant: str) -> None:
    """Each in the other's order, both held up at the job amid them: every job is added once, by one of them."""
    given = sorted((build_job(tenant) for _ in range(3)), key=lambda job: job.id)
    async with storage.session() as session:
        await storage.graph_jobs.using(session).add(given[1])
        both = [asyncio.create_task(storage.graph_jobs.add_many(batch)) for batch in (given, given[::-1])]
        await shared_watch.until_waiting(2)
        await session.rollback()
    batches = await asyncio.gather(*both)
    assert [0, 3] == sorted(len(batch) for batch in batches)
    assert [1, 1, 1] == [len(await storage.graph_jobs.events(tenant, job.id)) for job in given]


# --- a job taken from its worker ---


async def test_a_late_finish_whose_answer_is_lost_is_never_told_to_be_applied(
    wired: Storage, wire: Wire, storage: Storage, tenant: str
) -> None:
    """The job runs again, at another attempt: the row looks as A left it, and A's finish is still not in the log."""
    store = storage.graph_jobs
    queued = await store.add(build_job(tenant))
    of_a = (await store.update(queued.start(at=AT), expected=QUEUED)).job
    assert of_a is not None
    given_back = (await store.update(of_a.requeue(at=AT), expected=RUNNING)).job
    assert given_back is not None
    of_b = (await store.update(given_back.start(at=AT), expected=QUEUED)).job
    finish = of_a.complete(at=AT, graph_snapshot_id="by A")
    wire.fault = Fault.DROP_REPLY
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await wired.graph_jobs.update(finish, expected=RUNNING)
    assert 1 == wire.hit
    assert of_b == await store.get_build_job(tenant, queued.id)
