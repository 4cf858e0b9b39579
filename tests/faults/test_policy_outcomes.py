"""What policy runs answer when the answer was lost: the truth, or that it cannot be told; and nothing is done twice."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from typing_extensions import override

from graphjobs import (
    DatabaseUnavailable,
    JobAlreadyExists,
    OutcomeUnknown,
    PolicyRunJob,
    PolicyRunStatus,
    open_storage,
)
from graphjobs.core import queue_flow, recovery
from graphjobs.core.results import FinishResult, StalledItem
from graphjobs.core.transitions import UpdateOutcome, UpdateResult
from graphjobs.policy_runs.attempt_results import LeaseResult
from graphjobs.policy_runs.repository import PolicyRunRepository, PostgresPolicyRunRepository
from graphjobs.policy_runs.service import PolicyRunCompletion, PolicyRunService
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of, run_request
from tests.faults.backend_monitor import Watch, checked_out, url_of, with_settings
from tests.faults.cancel_at_await import Cancel, cancelled_at
from tests.faults.faulty_proxy import Fault, Wire

Status = PolicyRunStatus

MINUTE: Final = timedelta(minutes=1)


@pytest_asyncio.fixture
async def wire(shared_settings: Settings, tmp_path: Path) -> AsyncIterator[Wire]:
    """A wire to the shared database, whole as yet."""
    wire = Wire(url_of(shared_settings), tmp_path)
    async with wire.running():
        yield wire


@pytest_asyncio.fixture
async def wired(wire: Wire, shared_settings: Settings) -> AsyncIterator[PolicyRunRepository]:
    """A repository behind the wire, its one connection open, with every statement that writes prepared."""
    given = with_settings(
        shared_settings,
        database_url=wire.url,
        pool_size=1,
        statement_timeout=20.0,
        lock_timeout=20.0,
        connect_timeout=2.0,
    )
    async with open_storage(given) as storage:
        await prepare(storage.policy_runs)
        yield storage.policy_runs
        assert (0, 0) == checked_out(storage)


async def prepare(runs: PolicyRunRepository) -> None:
    """Has the connection know every statement that writes, so that each is one piece on the wire."""
    nobody = policy_run(f"nobody-{uuid.uuid4()}")
    await runs.insert(nobody)
    (held,) = (await lease(runs, nobody.tenant_id)).runs
    await queue_of(runs).renew([held], MINUTE)
    await runs.replace(held.request_cancellation(at=AT), "A")
    await queue_of(runs).end([LeaseResult.submitted(held)])
    await runs.replace(held.submit(at=AT), "A")
    await queue_of(runs).rescue([seen(held)], attempts_max=3)
    assert await runs.get_by_run_id(nobody.tenant_id, nobody.run_id) is not None


async def lease(runs: PolicyRunRepository, tenant: str, *, limit: int = 1, attempts_max: int = 9) -> Any:
    """Leases for a minute."""
    return await queue_of(runs).lease("A", MINUTE, attempts_max=attempts_max, limit=limit, tenant_id=tenant)


async def leased(storage: Storage, tenant: str) -> PolicyRunJob:
    """A run that is leased."""
    await storage.policy_runs.insert(policy_run(tenant))
    (run,) = (await lease(storage.policy_runs, tenant)).runs
    assert isinstance(run, PolicyRunJob)
    return run


async def now(storage: Storage, run: PolicyRunJob) -> PolicyRunJob:
    """The run as it is."""
    found = await storage.policy_runs.get(run.tenant_id, run.id)
    assert found is not None
    return found


async def statuses(storage: Storage, run: PolicyRunJob) -> list[str]:
    """What the log tells, in order."""
    return [event.status.value for event in await storage.policy_runs.events(run.tenant_id, run.id)]


def seen(run: PolicyRunJob) -> StalledItem:
    """The run as a rescuer has seen it."""
    return StalledItem(run.id, run.tenant_id, run.updated_at, run.attempts)


async def ask_for_the_end(storage: Storage, run: PolicyRunJob) -> PolicyRunJob:
    """Has the run's cancellation requested."""
    return await PolicyRunService(storage.policy_runs).request_cancellation(run.tenant_id, run.run_id, reason="enough")


# Insertions


@dataclass
class Adding:
    """One insertion that can be asked for again, word for word."""

    run: PolicyRunJob

    async def of(self, runs: PolicyRunRepository) -> PolicyRunJob:
        """Asks for it."""
        return await runs.insert(self.run)

    async def require_there_once(self, storage: Storage, *answers: PolicyRunJob) -> None:
        """Asserts that all answers, and one more, are the run that is stored, with its one event."""
        found = await storage.policy_runs.get(self.run.tenant_id, self.run.id)
        assert found is not None
        assert found.spec() == self.run.spec()
        assert [found] * (len(answers) + 1) == [*answers, await self.of(storage.policy_runs)]
        assert ["pending"] == await statuses(storage, self.run)


@pytest.fixture
def adding(tenant: str) -> Adding:
    """An insertion."""
    return Adding(policy_run(tenant, run_id="nightly"))


async def test_an_insertion_whose_answer_is_lost_gives_the_run(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, adding: Adding
) -> None:
    """As if nothing had happened."""
    wire.fault = Fault.DROP_REPLY
    answer = await adding.of(wired)
    assert 1 == wire.hit
    await adding.require_there_once(storage, answer)


async def test_an_insertion_that_never_reached_the_server_changed_nothing(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, adding: Adding
) -> None:
    """And can be asked for again."""
    wire.fault = Fault.DROP_REQUEST
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await adding.of(wired)
    assert 1 == wire.hit
    assert () == (await storage.policy_runs.list(adding.run.tenant_id)).runs
    await adding.require_there_once(storage, await adding.of(wired))


async def test_an_insertion_of_a_name_that_is_there_gives_the_first_though_its_answer_is_lost(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, adding: Adding
) -> None:
    """Whoever stored it, and whatever became of it since."""
    first = await adding.of(storage.policy_runs)
    canceled = await ask_for_the_end(storage, first)
    wire.fault = Fault.DROP_REPLY
    answer = await wired.insert(policy_run(first.tenant_id, run_id="nightly"))
    assert 1 == wire.hit
    assert canceled == answer
    assert ["pending", "canceled"] == await statuses(storage, first)


async def test_an_insertion_of_a_taken_id_whose_answer_is_lost_is_not_told_to_be_there(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, adding: Adding
) -> None:
    """Asked again, it is told to be taken."""
    await storage.policy_runs.insert(policy_run(f"{adding.run.tenant_id}-other", id=adding.run.id))
    wire.fault = Fault.DROP_REPLY
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await adding.of(wired)
    assert 1 == wire.hit
    with pytest.raises(JobAlreadyExists):
        await adding.of(wired)
    assert () == (await storage.policy_runs.list(adding.run.tenant_id)).runs


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_waiting_insertion_that_lost_its_connection_is_answered_when_the_name_is_free_or_taken(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, shared_watch: Watch, adding: Adding, ending: str
) -> None:
    """Somebody else's open transaction holds the name: rolled back ours lands, committed it is that one."""
    other = policy_run(adding.run.tenant_id, run_id="nightly")
    async with storage.session() as session:
        await storage.policy_runs.using(session).insert(other)
        waiting = asyncio.create_task(adding.of(wired))
        await shared_watch.until_waiting()
        wire.cut()
        await (session.commit() if ending == "commit" else session.rollback())
    answer = await waiting
    (stored,) = (await storage.policy_runs.list(adding.run.tenant_id)).runs
    assert stored == answer
    assert (other if ending == "commit" else adding.run).id == stored.id
    assert ["pending"] == await statuses(storage, stored)


# Leases


async def test_a_lease_whose_answer_is_lost_gives_the_very_runs(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, tenant: str
) -> None:
    """Those it took and no others, as they now are, the most urgent first."""
    runs = storage.policy_runs
    before = await leased(storage, tenant)
    for priority in ("normal", "high", "normal", "emergency", "normal"):
        await runs.insert(policy_run(tenant, priority=priority))
    wire.fault = Fault.DROP_REPLY
    answer = await lease(wired, tenant, limit=3, attempts_max=1)
    assert 1 == wire.hit
    assert ["emergency", "high", "normal"] == [run.priority for run in answer.runs]
    assert [await now(storage, run) for run in answer.runs] == list(answer.runs)
    assert (frozenset(run.id for run in answer.runs), (), ()) == (
        answer.final_attempt_ids,
        answer.exhausted,
        answer.unreadable,
    )
    assert before.id not in answer.final_attempt_ids
    for run in answer.runs:
        assert (Status.DISPATCHING, 1, "A") == (run.status, run.attempts, run.lease_owner)
        assert ["pending", "dispatching"] == await statuses(storage, run)
    rest = await lease(runs, tenant, limit=9)
    assert 2 == len(rest.runs)
    assert {run.id for run in answer.runs} == set(
        (await storage.policy_run_queue.end(map(LeaseResult.submitted, answer.runs))).versions
    )


async def test_a_lease_that_never_reached_the_server_changed_nothing(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, tenant: str
) -> None:
    """And can be asked for again."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    wire.fault = Fault.DROP_REQUEST
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await lease(wired, tenant)
    assert 1 == wire.hit
    assert run == await now(storage, run)
    assert [(run.id, 1)] == [(again.id, again.attempts) for again in (await lease(wired, tenant)).runs]
    assert ["pending", "dispatching"] == await statuses(storage, run)


async def test_a_lease_of_nothing_whose_answer_is_lost_changed_nothing(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, tenant: str
) -> None:
    """That it took none cannot be told from that it did not land; it can be asked for again."""
    held = await leased(storage, tenant)
    wire.fault = Fault.DROP_REPLY
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await lease(wired, tenant)
    assert 1 == wire.hit
    assert () == (await lease(wired, tenant)).runs
    assert held == await now(storage, held)


async def test_a_lease_whose_answer_is_lost_does_not_count_what_was_given_back_in_order(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, tenant: str
) -> None:
    """As one whose answer arrives: the run is leased, and not failed for having had too many attempts."""
    runs, run = storage.policy_runs, await leased(storage, tenant)
    for _ in range(2):
        await storage.policy_run_queue.end([LeaseResult.released(run)])
        (run,) = (await lease(runs, tenant, attempts_max=1)).runs
    await storage.policy_run_queue.end([LeaseResult.released(run)])
    wire.fault = Fault.DROP_REPLY
    answer = await lease(wired, tenant, attempts_max=1)
    assert 1 == wire.hit
    assert ([(run.id, 4)], ()) == ([(again.id, again.attempts) for again in answer.runs], answer.exhausted)
    assert {run.id} == answer.final_attempt_ids
    assert Status.DISPATCHING is (await now(storage, run)).status


async def test_a_lease_whose_answer_is_lost_fails_what_cannot_be_dispatched(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, tenant: str
) -> None:
    """Exhausted runs are told and failed, as if the answer had arrived."""
    spent, fresh = [await storage.policy_runs.insert(policy_run(tenant)) for _ in range(2)]
    async with storage.session() as session, session.begin():
        connection = await session.connection()
        await connection.exec_driver_sql("UPDATE scheduler.policy_runs SET attempts = 3 WHERE id = $1", (spent.id,))
    wire.fault = Fault.DROP_REPLY
    answer = await lease(wired, tenant, limit=9, attempts_max=3)
    assert 1 == wire.hit
    assert ([fresh.id], (spent.id,)) == ([run.id for run in answer.runs], answer.exhausted)
    assert Status.FAILED is (await now(storage, spent)).status


async def test_a_lease_whose_answer_is_lost_finds_a_run_whose_cancellation_was_requested_since(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the owner's all the same, and he learns of the request: nothing else would end that lease in order."""
    run, untouched = [await storage.policy_runs.insert(policy_run(tenant)) for _ in range(2)]
    find_out = recovery.resolve_outcome

    async def after_the_request(*given: Any) -> Any:
        await ask_for_the_end(storage, run)
        return await find_out(*given)

    monkeypatch.setattr(queue_flow, "resolve_outcome", after_the_request)
    wire.fault = Fault.DROP_REPLY
    answer = await lease(wired, tenant, limit=9)
    assert 1 == wire.hit
    assert {(run.id, True), (untouched.id, False)} == {(got.id, got.cancellation_requested) for got in answer.runs}


# Heartbeats


async def test_a_heartbeat_whose_answer_is_lost_is_unknown_and_can_be_asked_for_again(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, tenant: str
) -> None:
    """It landed, or did not; a second one does no harm, for the lease is the owner's."""
    for fault, landed in ((Fault.DROP_REPLY, True), (Fault.DROP_REQUEST, False)):
        run = await leased(storage, tenant)
        await prepare(wired)
        wire.hit, wire.fault = 0, fault
        with pytest.raises(OutcomeUnknown):
            await queue_of(wired).renew([run], timedelta(hours=1))
        assert 1 == wire.hit
        between = await now(storage, run)
        assert landed == (between.updated_at > run.updated_at)
        (again,) = (await queue_of(wired).renew([run], timedelta(hours=2))).runs
        assert again == await now(storage, run)
        assert again.updated_at > between.updated_at
        assert ["pending", "dispatching"] == await statuses(storage, run)


# Ends


@dataclass
class Ending:
    """One end of one lease that can be asked for again, word for word."""

    run: PolicyRunJob
    how: str
    transition: uuid.UUID = field(default_factory=uuid.uuid4)

    async def of(self, runs: PolicyRunRepository) -> FinishResult:
        """Asks for it."""
        ending = {
            "submitted": LeaseResult.submitted(self.run),
            "pending": LeaseResult.released(self.run),
            "failed": LeaseResult.failed(self.run, "no engine took it"),
        }[self.how]
        return await queue_of(runs).end([ending], transition_id=self.transition)

    async def require_applied_once(self, storage: Storage, *answers: FinishResult) -> None:
        """Asserts that all answers, and one more, tell of the one end that row and log hold."""
        found = await now(storage, self.run)
        assert (self.how, None) == (found.status, found.lease_owner)
        assert ["pending", "dispatching", self.how] == await statuses(storage, self.run)
        for answer in (*answers, await self.of(storage.policy_runs)):
            assert FinishResult({self.run.id: found.updated_at}, {}) == answer

    async def require_not_applied(self, storage: Storage) -> None:
        """Asserts that neither row nor log knows it."""
        assert self.run == await now(storage, self.run)
        assert ["pending", "dispatching"] == await statuses(storage, self.run)


@pytest_asyncio.fixture(params=["submitted", "pending", "failed"])
async def ending(request: pytest.FixtureRequest, storage: Storage, tenant: str) -> Ending:
    """An end of each kind."""
    return Ending(await leased(storage, tenant), request.param)


async def test_an_end_whose_answer_is_lost_is_told_to_be_ended(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, ending: Ending
) -> None:
    """With the version it has."""
    wire.fault = Fault.DROP_REPLY
    answer = await ending.of(wired)
    assert 1 == wire.hit
    await ending.require_applied_once(storage, answer)


async def test_an_end_that_never_reached_the_server_changed_nothing(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, ending: Ending
) -> None:
    """Asked again with its transition id, it is applied once."""
    wire.fault = Fault.DROP_REQUEST
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await ending.of(wired)
    assert 1 == wire.hit
    await ending.require_not_applied(storage)
    await ending.require_applied_once(storage, await ending.of(wired))


async def test_an_end_asked_again_whose_answer_is_lost_is_still_the_first_one(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, ending: Ending
) -> None:
    """It is in the log by then, whichever call wrote it."""
    first = await ending.of(storage.policy_runs)
    wire.fault = Fault.DROP_REPLY
    second = await ending.of(wired)
    assert 1 == wire.hit
    await ending.require_applied_once(storage, first, second)


async def test_an_end_nobody_can_look_up_is_told_to_be_unknown(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network stays broken past the bound; the end landed, and asked again it says so."""
    monkeypatch.setattr(recovery, "_RESOLVE_SECONDS", 0.3)
    wire.lasts, wire.fault = True, Fault.DROP_REPLY
    with pytest.raises(OutcomeUnknown):
        await ending.of(wired)
    wire.lasts, wire.fault = False, Fault.NONE
    await ending.require_applied_once(storage, await ending.of(wired))


async def test_a_late_end_whose_answer_is_lost_is_never_told_to_be_applied(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, ending: Ending
) -> None:
    """The run was rescued, and is another attempt's; asked again, it is told to be lost."""
    await storage.policy_run_queue.rescue([seen(ending.run)], attempts_max=3)
    after = await now(storage, ending.run)
    wire.fault = Fault.DROP_REPLY
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await ending.of(wired)
    assert 1 == wire.hit
    assert ({}, {ending.run.id}) == ((await ending.of(wired)).versions, set((await ending.of(wired)).lost))
    assert after == await now(storage, ending.run)


async def test_of_many_ends_whose_answer_is_lost_each_is_told_what_became_of_it(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """One ended, one was lost before, one is held by somebody, and one is canceled as it was asked for."""
    ended, lost, held, asked = [await leased(storage, tenant) for _ in range(4)]
    await storage.policy_run_queue.rescue([seen(lost)], attempts_max=3)
    await ask_for_the_end(storage, asked)
    async with shared_watch.holding(held.id, table="policy_runs"):
        wire.fault = Fault.DROP_REPLY
        answer = await queue_of(wired).end([LeaseResult.released(run) for run in (ended, lost, held, asked)])
    assert 1 == wire.hit
    assert {run.id: (await now(storage, run)).updated_at for run in (ended, asked)} == answer.versions
    assert ({lost.id}, frozenset({held.id})) == (set(answer.lost), answer.busy)
    assert [Status.PENDING, Status.CANCELED] == [(await now(storage, run)).status for run in (ended, asked)]


# Rescues


async def test_a_rescue_whose_answer_is_lost_is_told_what_it_did(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, tenant: str
) -> None:
    """Which wait again, which failed, and neither what was not touched."""
    stopped, spent, lively = [await leased(storage, tenant) for _ in range(3)]
    await storage.policy_run_queue.renew([lively], MINUTE)
    sightings = [seen(stopped), StalledItem(spent.id, tenant, spent.updated_at, 9), seen(lively)]
    wire.fault = Fault.DROP_REPLY
    answer = await queue_of(wired).rescue(sightings, attempts_max=3)
    assert 1 == wire.hit
    assert ((stopped.id,), (spent.id,)) == (answer.requeued, answer.failed)
    found = [(await now(storage, run)).status for run in (stopped, spent, lively)]
    assert [Status.PENDING, Status.FAILED, Status.DISPATCHING] == found
    assert ["pending", "dispatching", "pending"] == await statuses(storage, stopped)


async def test_a_rescue_that_never_reached_the_server_changed_nothing(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, tenant: str
) -> None:
    """And can be asked for again."""
    run = await leased(storage, tenant)
    wire.fault = Fault.DROP_REQUEST
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await queue_of(wired).rescue([seen(run)], attempts_max=3)
    assert 1 == wire.hit
    assert run == await now(storage, run)
    assert (run.id,) == (await queue_of(wired).rescue([seen(run)], attempts_max=3)).requeued
    assert ["pending", "dispatching", "pending"] == await statuses(storage, run)


# Moves


@dataclass
class Asked:
    """One move that can be asked for again, word for word."""

    run: PolicyRunJob
    moved: PolicyRunJob
    transition: uuid.UUID = field(default_factory=uuid.uuid4)

    async def of(self, runs: PolicyRunRepository) -> UpdateResult[PolicyRunJob]:
        """Asks for it."""
        return await runs.replace(self.moved, "A", transition_id=self.transition)

    async def require_applied_once(self, storage: Storage, *results: UpdateResult[PolicyRunJob]) -> None:
        """Asserts that all answers, and one more, tell of the one move that row and log hold."""
        found = await now(storage, self.run)
        *_, event = await storage.policy_runs.events(self.run.tenant_id, self.run.id)
        assert 3 == len(await statuses(storage, self.run))
        assert self.moved.status is found.status
        for result in (*results, await self.of(storage.policy_runs)):
            assert (UpdateOutcome.APPLIED, event.id, found) == (result.outcome, result.event_id, result.job)

    async def require_not_applied(self, storage: Storage) -> None:
        """Asserts that neither row nor log knows it."""
        assert self.run == await now(storage, self.run)
        assert ["pending", "dispatching"] == await statuses(storage, self.run)


MOVES: Final[dict[str, Callable[[PolicyRunJob], PolicyRunJob]]] = {
    "to the same status": lambda run: run.request_cancellation(at=AT, reason="enough"),
    "to another status": lambda run: run.submit(at=AT),
}


@pytest_asyncio.fixture(params=MOVES)
async def asked(request: pytest.FixtureRequest, storage: Storage, tenant: str) -> Asked:
    """A move that keeps the status, and one that changes it."""
    run = await leased(storage, tenant)
    return Asked(run, MOVES[request.param](run))


async def test_a_move_whose_answer_is_lost_is_found_to_be_applied(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, asked: Asked
) -> None:
    """The caller is told as if nothing had happened."""
    wire.fault = Fault.DROP_REPLY
    result = await asked.of(wired)
    assert 1 == wire.hit
    await asked.require_applied_once(storage, result)


async def test_a_move_that_never_reached_the_server_changed_nothing(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, asked: Asked
) -> None:
    """Asked again with its transition id, it is applied once."""
    wire.fault = Fault.DROP_REQUEST
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await asked.of(wired)
    assert 1 == wire.hit
    await asked.require_not_applied(storage)
    await asked.require_applied_once(storage, await asked.of(wired))


async def test_a_lost_move_whose_answer_is_lost_changed_nothing(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, asked: Asked
) -> None:
    """What is not in the log was not applied; asked again, it is told who was first."""
    await storage.policy_run_queue.end([LeaseResult.failed(asked.run, "first")])
    wire.fault = Fault.DROP_REPLY
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await asked.of(wired)
    assert 1 == wire.hit
    again = await asked.of(wired)
    assert (UpdateOutcome.CONFLICT, await now(storage, asked.run)) == (again.outcome, again.job)


async def test_a_waiting_move_that_lost_its_connection_is_answered_when_the_lock_is_free(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, shared_watch: Watch, asked: Asked
) -> None:
    """Not in the log as yet, it is neither a conflict nor told to have changed nothing."""
    async with shared_watch.holding(asked.run.id, table="policy_runs"):
        waiting = asyncio.create_task(asked.of(wired))
        await shared_watch.until_waiting()
        wire.cut()
        other = asyncio.create_task(asked.of(storage.policy_runs))
        await shared_watch.until_waiting(2)
        assert not waiting.done()
    await asked.require_applied_once(storage, await waiting, await other)


async def test_a_move_that_waits_past_the_bound_is_told_to_be_unknown(
    wired: PolicyRunRepository,
    wire: Wire,
    storage: Storage,
    shared_watch: Watch,
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may still land, and does; asked again, it is applied once."""
    monkeypatch.setattr(recovery, "_RESOLVE_SECONDS", 0.3)
    async with shared_watch.holding(asked.run.id, table="policy_runs"):
        waiting = asyncio.create_task(asked.of(wired))
        await shared_watch.until_waiting()
        wire.cut()
        with pytest.raises(OutcomeUnknown) as caught:
            await waiting
        assert caught.value.backend in await shared_watch.until_waiting()
        await asked.require_not_applied(storage)
    await shared_watch.until_settled()
    await asked.require_applied_once(storage)


@pytest.mark.parametrize("answer_is_lost", [False, True], ids=["asked again", "its answer is lost"])
async def test_a_move_tells_each_time_that_the_end_of_the_run_was_asked_for_meanwhile(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, tenant: str, answer_is_lost: bool
) -> None:
    """The mover had not seen it; the row keeps it, and whoever asks again, or lost the answer, is told the same."""
    run = await leased(storage, tenant)
    asked = Asked(run, run.submit(at=AT))
    requested = await ask_for_the_end(storage, run)
    if answer_is_lost:
        wire.fault = Fault.DROP_REPLY
    first = await asked.of(wired)
    assert int(answer_is_lost) == wire.hit
    second = await asked.of(wired)
    found = await now(storage, run)
    assert (Status.SUBMITTED, requested.cancellation_requested_at) == (
        found.status,
        found.cancellation_requested_at,
    )
    assert [found, found] == [first.job, second.job]


# Cancelled, and asked again


async def test_what_is_cancelled_anywhere_and_asked_again_is_applied_once(storage: Storage, tenant: str) -> None:
    """An insertion, an end and a move, at each of their awaits, however the cancel comes."""

    async def an_insertion() -> Any:
        return Adding(policy_run(tenant))

    async def an_end() -> Any:
        return Ending(await leased(storage, tenant), "submitted")

    async def a_move() -> Any:
        run = await leased(storage, tenant)
        return Asked(run, run.submit(at=AT))

    for make in (an_insertion, an_end, a_move):
        for how in Cancel:
            reached, number = True, 0
            while reached:
                asked = await make()
                reached, _ = await cancelled_at(number, asked.of(storage.policy_runs), how)
                require = asked.require_there_once if make is an_insertion else asked.require_applied_once
                await require(storage, await asked.of(storage.policy_runs))
                number += 1
            assert number > 1


# The service


class Struck(PostgresPolicyRunRepository):
    """A repository whose next write, whichever that is, meets a fault."""

    def __init__(self, runs: PolicyRunRepository, wire: Wire) -> None:
        assert isinstance(runs, PostgresPolicyRunRepository)
        super().__init__(runs._executor)
        self._wire = wire
        self.fault = Fault.NONE

    def _strike(self) -> None:
        self._wire.fault, self.fault = self.fault, Fault.NONE

    @override
    async def insert(self, job: PolicyRunJob, *, actor: str | None = None) -> PolicyRunJob:
        self._strike()
        return await super().insert(job, actor=actor)

    @override
    async def replace(
        self, job: PolicyRunJob, expected_lease_owner: str | None, **named: Any
    ) -> UpdateResult[PolicyRunJob]:
        self._strike()
        return await super().replace(job, expected_lease_owner, **named)


@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.DROP_REQUEST], ids=lambda fault: fault.name.lower())
async def test_a_use_case_whose_write_is_lost_is_told_truly_and_can_be_asked_for_again(
    wired: PolicyRunRepository, wire: Wire, storage: Storage, tenant: str, fault: Fault
) -> None:
    """Landed, it is answered as if nothing had happened; lost before, it did nothing, and does it the second time."""
    runs = Struck(wired, wire)
    service, request = PolicyRunService(runs), run_request(tenant, run_id="nightly", queued_at=AT)

    async def asked(ask: Callable[[], Awaitable[PolicyRunJob]]) -> PolicyRunJob:
        await prepare(wired)
        runs.fault, wire.hit = fault, 0
        if fault is Fault.DROP_REPLY:
            answer = await ask()
        else:
            with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
                await ask()
            answer = await ask()
        assert 1 == wire.hit
        assert answer == await ask() == await now(storage, answer)
        return answer

    pending = await asked(lambda: service.enqueue(request))
    (held,) = (await lease(storage.policy_runs, tenant)).runs
    requested = await asked(lambda: service.request_cancellation(tenant, "nightly", reason="enough"))
    await storage.policy_run_queue.end([LeaseResult.submitted(held)])
    completion = PolicyRunCompletion(run_id="nightly", status="completed")
    completed = await asked(lambda: service.complete(tenant, completion))
    again = await asked(lambda: service.retry(tenant, "nightly", new_run_id="nightly, again"))

    assert [Status.PENDING, Status.DISPATCHING, Status.COMPLETED] == [
        run.status for run in (pending, requested, completed)
    ]
    assert {pending.id} == {requested.id, completed.id}
    assert {"retryOf": "nightly"} == dict(again.metadata)
    log = ["pending", "dispatching", "dispatching", "submitted", "completed"]
    assert log == await statuses(storage, pending)
    assert 2 == (await storage.policy_runs.count(tenant)).value
