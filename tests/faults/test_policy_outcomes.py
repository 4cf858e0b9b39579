"""Lost answers of calls that only policy runs have: run ids, priorities, cancellation requests and the use cases."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from graphjobs import DatabaseUnavailable, PolicyRunJob, PolicyRunStatus
from graphjobs.core import queue_flow, recovery
from graphjobs.policy_runs.attempt_results import LeaseBatch, LeaseResult
from graphjobs.policy_runs.requests import PolicyRunCompletion
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.settings import Settings
from tests.builders import AT, policy_run, run_request
from tests.contract.domains import MINUTE, OWNER, PolicyRuns
from tests.contract.wired_storage import cut_while_it_waits, injected, open_wired
from tests.faults.backend_monitor import Watch
from tests.faults.faulty_proxy import Fault, Wire

Status = PolicyRunStatus


@pytest_asyncio.fixture
async def wired(wire: Wire, shared_settings: Settings, runs: PolicyRuns) -> AsyncIterator[PolicyRuns]:
    """Policy runs behind the wire, with one connection and each statement prepared."""
    async with open_wired(wire, shared_settings) as storage:
        behind = runs.on(storage)
        await behind.prepare()
        yield behind


async def lease(runs: PolicyRuns, *, limit: int = 1, attempts_max: int = 9) -> LeaseBatch:
    """Lease runs for a minute."""
    batch: LeaseBatch = await runs.queue.lease(
        OWNER, MINUTE, attempts_max=attempts_max, limit=limit, tenant_id=runs.tenant
    )
    return batch


async def request_cancellation(runs: PolicyRuns, run: PolicyRunJob) -> PolicyRunJob:
    """Request the cancellation of a run."""
    return await PolicyRunService(runs.store).request_cancellation(run.tenant_id, run.run_id, reason="enough")


# Insertions


async def test_an_insertion_of_a_stored_run_id_with_a_lost_answer_returns_the_first_run(
    wired: PolicyRuns, wire: Wire, runs: PolicyRuns
) -> None:
    """As it is now, with the later cancellation."""
    first = await runs.store.insert(policy_run(runs.tenant, run_id="nightly"))
    canceled = await request_cancellation(runs, first)
    with injected(wire):
        answer = await wired.store.insert(policy_run(runs.tenant, run_id="nightly"))
    assert canceled == answer
    assert ["pending", "canceled"] == await runs.log(first)


async def test_a_waiting_insertion_that_lost_its_connection_and_then_its_run_id_returns_the_other_run(
    wired: PolicyRuns, wire: Wire, runs: PolicyRuns, shared_watch: Watch
) -> None:
    """The transaction that holds the run id commits."""
    item = policy_run(runs.tenant, run_id="nightly")
    async with runs.transaction() as inside:
        other = await inside.store.insert(runs.rival(item))
        waiting = await cut_while_it_waits(wired.store.insert(item), wire, shared_watch)
    assert (other,) == (await runs.store.list(runs.tenant)).runs
    assert other == await waiting
    assert ["pending"] == await runs.log(other)


# Leases


async def test_a_lease_with_a_lost_answer_returns_the_runs_by_priority_with_their_last_attempts(
    wired: PolicyRuns, wire: Wire, runs: PolicyRuns
) -> None:
    """The runs of an earlier lease are not among the last attempts."""
    before = await runs.add_started()
    for priority in ("normal", "high", "normal", "emergency", "normal"):
        await runs.store.insert(policy_run(runs.tenant, priority=priority))
    with injected(wire):
        answer = await lease(wired, limit=3, attempts_max=1)
    assert ["emergency", "high", "normal"] == [run.priority for run in answer.runs]
    assert [await runs.read(run) for run in answer.runs] == list(answer.runs)
    assert frozenset(run.id for run in answer.runs) == answer.final_attempt_ids
    assert ((), ()) == (answer.exhausted, answer.unreadable)
    assert before.id not in answer.final_attempt_ids
    for run in answer.runs:
        assert (Status.DISPATCHING, 1, OWNER) == (run.status, run.attempts, run.lease_owner)
        assert ["pending", "dispatching"] == await runs.log(run)
    assert 2 == len((await runs.start(limit=9)).items)
    assert {run.id for run in answer.runs} == (await runs.complete(*answer.runs)).versions.keys()


async def test_a_lease_with_a_lost_answer_does_not_count_released_attempts(
    wired: PolicyRuns, wire: Wire, runs: PolicyRuns
) -> None:
    """As with an answer: the run is leased, and does not fail after too many attempts."""
    run = await runs.add_started()
    for _ in range(2):
        await runs.release(run)
        (run,) = (await lease(runs, attempts_max=1)).runs
    await runs.release(run)
    with injected(wire):
        answer = await lease(wired, attempts_max=1)
    assert ([(run.id, 4)], ()) == ([(again.id, again.attempts) for again in answer.runs], answer.exhausted)
    assert {run.id} == answer.final_attempt_ids
    assert Status.DISPATCHING is (await runs.read(run)).status


async def test_a_lease_with_a_lost_answer_fails_exhausted_runs(wired: PolicyRuns, wire: Wire, runs: PolicyRuns) -> None:
    exhausted, fresh = [await runs.add() for _ in range(2)]
    async with runs.storage.session() as session, session.begin():
        connection = await session.connection()
        await connection.exec_driver_sql("UPDATE scheduler.policy_runs SET attempts = 3 WHERE id = $1", (exhausted.id,))
    with injected(wire):
        answer = await lease(wired, limit=9, attempts_max=3)
    assert ([fresh.id], (exhausted.id,)) == ([run.id for run in answer.runs], answer.exhausted)
    assert Status.FAILED is (await runs.read(exhausted)).status


async def test_a_lease_with_a_lost_answer_returns_a_run_with_a_later_cancellation_request(
    wired: PolicyRuns, wire: Wire, runs: PolicyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its owner can finish the lease in order, so the owner must get the run and the request."""
    run, untouched = [await runs.add() for _ in range(2)]
    resolve_outcome = recovery.resolve_outcome

    async def resolve_after_the_request(*arguments: Any) -> Any:
        await request_cancellation(runs, run)
        return await resolve_outcome(*arguments)

    monkeypatch.setattr(queue_flow, "resolve_outcome", resolve_after_the_request)
    with injected(wire):
        answer = await lease(wired, limit=9)
    expected = {(run.id, True), (untouched.id, False)}
    assert expected == {(leased.id, leased.cancellation_requested) for leased in answer.runs}


# Cancellation requests


async def test_a_release_with_a_lost_answer_reports_the_cancellation_that_it_became(
    wired: PolicyRuns, wire: Wire, runs: PolicyRuns
) -> None:
    """The cancellation of one of two released runs was requested."""
    released, requested = [await runs.add_started() for _ in range(2)]
    await request_cancellation(runs, requested)
    with injected(wire):
        answer = await wired.finish(*map(LeaseResult.released, (released, requested)))
    found = [await runs.read(run) for run in (released, requested)]
    assert ({run.id: run.updated_at for run in found}, {}) == (answer.versions, answer.lost)
    assert [Status.PENDING, Status.CANCELED] == [run.status for run in found]


@pytest.mark.parametrize("answer_is_lost", [False, True], ids=["repeated", "lost answer"])
async def test_an_update_reports_a_cancellation_request_that_it_did_not_read(
    wired: PolicyRuns, wire: Wire, runs: PolicyRuns, answer_is_lost: bool
) -> None:
    """The row keeps the request, and each repeated call has the same answer."""
    run = await runs.add_started()
    submitted = run.submit(at=AT)
    requested = await request_cancellation(runs, run)
    if answer_is_lost:
        wire.fault = Fault.DROP_REPLY
    first = await wired.update(run, submitted, transition_id=run.id)
    assert int(answer_is_lost) == wire.hit
    second = await wired.update(run, submitted, transition_id=run.id)
    found = await runs.read(run)
    assert (Status.SUBMITTED, requested.cancellation_requested_at) == (found.status, found.cancellation_requested_at)
    assert [found, found] == [first.job, second.job]


# The service


class FaultyRepository:
    """A repository that turns a fault on before its next write."""

    def __init__(self, repository: Any, wire: Wire) -> None:
        self._repository, self._wire = repository, wire
        self.fault = Fault.NONE

    def __getattr__(self, name: str) -> Any:
        if name in ("insert", "replace"):
            self._wire.fault, self.fault = self.fault, Fault.NONE
        return getattr(self._repository, name)


@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.DROP_REQUEST], ids=lambda fault: fault.name.lower())
async def test_a_use_case_with_a_lost_write_answers_the_truth_and_can_be_repeated(
    wired: PolicyRuns, wire: Wire, runs: PolicyRuns, fault: Fault
) -> None:
    """An applied write has its usual answer; a write that never reached the server is applied the second time."""
    repository: Any = FaultyRepository(wired.store, wire)
    service, request = PolicyRunService(repository), run_request(runs.tenant, run_id="nightly", queued_at=AT)

    async def call(use_case: Callable[[], Awaitable[PolicyRunJob]]) -> PolicyRunJob:
        await wired.prepare()
        assert await wired.store.get_by_run_id("other", "nightly") is None
        repository.fault, wire.hit = fault, 0
        if fault is Fault.DROP_REQUEST:
            with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
                await use_case()
        answer = await use_case()
        assert 1 == wire.hit
        assert answer == await use_case() == await runs.read(answer)
        return answer

    pending = await call(lambda: service.enqueue(request))
    (leased,) = (await runs.start()).items
    requested = await call(lambda: service.request_cancellation(runs.tenant, "nightly", reason="enough"))
    await runs.complete(leased)
    completion = PolicyRunCompletion(run_id="nightly", status="completed")
    completed = await call(lambda: service.complete(runs.tenant, completion))
    again = await call(lambda: service.retry(runs.tenant, "nightly", new_run_id="nightly, again"))

    statuses = [run.status for run in (pending, requested, completed)]
    assert [Status.PENDING, Status.DISPATCHING, Status.COMPLETED] == statuses
    assert {pending.id} == {requested.id, completed.id}
    assert {"retryOf": "nightly"} == dict(again.metadata)
    log = ["pending", "dispatching", "dispatching", "submitted", "completed"]
    assert log == await runs.log(pending)
    assert 2 == (await runs.store.count(runs.tenant)).value
