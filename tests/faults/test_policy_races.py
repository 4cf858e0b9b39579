"""Concurrent calls for one policy run that graph jobs do not have: priorities, owners, cancellations, run ids."""

import asyncio
import dataclasses
from typing import Final

import pytest
from uuid_utils.compat import uuid7

from graphjobs import JobAlreadyExists, JobConflict, PolicyRunJob, PolicyRunStatus
from graphjobs.core.transitions import UpdateOutcome
from graphjobs.policy_runs.attempt_results import LeaseResult
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, run_request
from tests.contract.domains import MINUTE, PolicyRuns
from tests.faults.backend_monitor import Watch

Status = PolicyRunStatus
RUNS: Final = PolicyRuns.table
REASON: Final = "not wanted"


@pytest.fixture
def own(graphjobs_storage: Storage) -> PolicyRuns:
    """Policy runs on a database of this test, for leases of all tenants."""
    return PolicyRuns(graphjobs_storage, "acme")


# Leases


@pytest.mark.parametrize("all_tenants", [False, True], ids=["one tenant", "all tenants"])
async def test_a_lease_takes_normal_runs_while_all_emergencies_are_locked(
    own: PolicyRuns, watch: Watch, all_tenants: bool
) -> None:
    normal = [await own.add(number) for number in range(3)]
    urgent = [await own.add(number, priority="emergency") for number in range(2)]
    async with watch.holding(*(run.id for run in urgent), table=RUNS), asyncio.timeout(5):
        during = await own.start(limit=2, all_tenants=all_tenants)
    after = await own.start(limit=2, all_tenants=all_tenants)
    assert [run.id for run in normal[:2]] == [run.id for run in during.items]
    assert [run.id for run in urgent] == [run.id for run in after.items]


async def test_a_tenant_with_locked_runs_does_not_block_other_tenants(own: PolicyRuns, watch: Watch) -> None:
    """As many leases as there are tenants serve each tenant with an unlocked run."""
    locked, free = await own.add(), await dataclasses.replace(own, tenant="beta").add()
    cursor, leased = None, []
    async with watch.holding(locked.id, table=RUNS):
        for _ in range(2):
            items, cursor = await own.start(all_tenants=True, cursor=cursor)
            leased += items
    assert [free.id] == [run.id for run in leased]


async def test_a_locked_emergency_does_not_hide_that_of_another_tenant(own: PolicyRuns, watch: Watch) -> None:
    """While any tenant has an unlocked emergency, a lease takes nothing else."""
    locked = await own.add(priority="emergency")
    urgent = await dataclasses.replace(own, tenant="beta").add(priority="emergency")
    await own.add(priority="high")
    async with watch.holding(locked.id, table=RUNS):
        during = await own.start(all_tenants=True)
    assert [urgent.id] == [run.id for run in during.items]


# Former and other owners


@pytest.mark.parametrize("owner", ["A", "B"], ids=["same owner", "other owner"])
async def test_the_holder_of_a_former_lease_can_change_nothing(runs: PolicyRuns, owner: str) -> None:
    first = await runs.add_started()
    await runs.release(first)
    (second,) = (await runs.start(owner=owner)).items
    before = await runs.log(first)

    for result in runs.results.values():
        finished = await runs.finish(result(first))
        reason = runs.lost_reason(first, "dispatching", 2, owner)
        assert ({}, {first.id: reason}) == (finished.versions, finished.lost)
    renewed = await runs.renew(first)
    assert ({}, frozenset({first.id})) == (renewed.versions, renewed.lost)
    for late in (
        first.submit(at=AT),
        first.release(at=AT, available_at=AT),
        first.fail(at=AT, error="late"),
        first.cancel(at=AT),
        first.renew(at=AT, until=AT),
        # The newest version does not help: the attempts are those of the second lease.
        first.renew(at=AT, until=AT).stored(updated_at=second.updated_at),
    ):
        lost = await runs.update(first, late)
        assert (UpdateOutcome.CONFLICT, second) == (lost.outcome, lost.job)

    assert second == await runs.read(first)
    assert before == await runs.log(first)


async def test_another_owner_can_change_nothing_of_a_lease(runs: PolicyRuns) -> None:
    run = await runs.add_started()
    forged = run.replace(lease_owner="B")

    finished = await runs.complete(forged)
    renewed = await runs.renew(forged)
    updated = [
        await runs.store.replace(run.submit(at=AT), "B"),
        await runs.store.replace(run.renew(at=AT, until=AT), "B"),
        await runs.store.replace(run.fail(at=AT, error="forged"), "B"),
        await runs.store.replace(run.fail(at=AT, error="forged"), None),
    ]

    assert ({}, frozenset({run.id})) == (finished.versions, frozenset(finished.lost))
    assert ({}, frozenset({run.id})) == (renewed.versions, renewed.lost)
    assert [(UpdateOutcome.CONFLICT, run)] * 4 == [(result.outcome, result.job) for result in updated]
    assert run == await runs.read(run)
    assert ["pending", "dispatching"] == await runs.log(run)


# Cancellations


def request_cancellation(runs: PolicyRuns, run: PolicyRunJob) -> "asyncio.Task[PolicyRunJob]":
    """Request the cancellation of a run."""
    service = PolicyRunService(runs.store)
    return asyncio.create_task(service.request_cancellation(run.tenant_id, run.run_id, reason=REASON))


def cancellation(run: PolicyRunJob) -> tuple[PolicyRunStatus, bool, str | None]:
    """Return the status of a run and its cancellation request."""
    return run.status, run.cancellation_requested, run.cancellation_reason


@pytest.mark.parametrize(
    ("other", "status", "log"),
    [
        ("release", Status.CANCELED, ["pending", "canceled"]),
        ("complete", Status.SUBMITTED, ["submitted", "submitted"]),
        ("renew", Status.DISPATCHING, ["dispatching"]),
        ("rescue", Status.CANCELED, ["pending", "canceled"]),
    ],
)
async def test_a_cancellation_that_waits_for_another_call_is_not_lost(
    runs: PolicyRuns, shared_watch: Watch, other: str, status: PolicyRunStatus, log: list[str]
) -> None:
    """It reads the run again, and requests the cancellation of the new status and version."""
    run = await runs.add_started()
    async with runs.transaction() as holder:
        await getattr(holder, other)(run)
        waiting = request_cancellation(runs, run)
        await shared_watch.until_waiting()
    answer = await waiting
    assert (status, True, REASON) == cancellation(answer)
    assert answer == await runs.read(run)
    assert ["pending", "dispatching", *log] == await runs.log(run)


@pytest.mark.parametrize(("result", "status"), [("pending", Status.CANCELED), ("submitted", Status.SUBMITTED)])
async def test_a_lease_result_that_meets_a_cancellation_does_not_lose_it(
    runs: PolicyRuns, result: str, status: PolicyRunStatus
) -> None:
    """The request locks the row; then a released run is canceled, and a submitted run keeps the request."""
    run = await runs.add_started()
    async with runs.transaction() as service:
        await request_cancellation(service, run)
        async with asyncio.timeout(5):
            during = await runs.finish(runs.results[result](run))
    after = await runs.finish(runs.results[result](run))
    found = await runs.read(run)
    assert ({}, {}, frozenset({run.id})) == (during.versions, during.lost, during.busy)
    assert {run.id: found.updated_at} == after.versions
    assert (status, True, REASON) == cancellation(found)
    assert (status is Status.CANCELED) == (found.canceled_at is not None)
    assert ["pending", "dispatching", "dispatching", status.value] == await runs.log(run)
    *_, event = await runs.events(run)
    assert ("dispatching", status.value) == (event.payload["from"], event.payload["to"])


async def test_a_heartbeat_that_meets_a_cancellation_reports_it_the_next_time(runs: PolicyRuns) -> None:
    """It does not wait: the run is busy, and the heartbeat after it reports the request."""
    run = await runs.add_started()
    async with runs.transaction() as service:
        requested = await request_cancellation(service, run)
        async with asyncio.timeout(5):
            during = await runs.queue.renew([run], MINUTE)
    (after,) = (await runs.queue.renew([run], MINUTE)).runs
    assert ((), frozenset(), frozenset({run.id})) == (during.runs, during.lost, during.busy)
    assert (Status.DISPATCHING, True, REASON) == cancellation(after)
    assert requested.cancellation_requested_at == after.cancellation_requested_at
    assert after == await runs.read(run)


async def test_a_cancellation_that_waits_for_a_lease_asks_its_holder(runs: PolicyRuns, shared_watch: Watch) -> None:
    """The run was pending when it was read; the holder of the new lease keeps it."""
    run = await runs.add()
    async with runs.transaction() as leaser:
        (leased,) = (await leaser.start()).items
        waiting = request_cancellation(runs, run)
        await shared_watch.until_waiting()
    answer = await waiting
    assert (Status.DISPATCHING, True, "A") == (answer.status, answer.cancellation_requested, answer.lease_owner)
    assert {run.id} == (await runs.release(leased)).versions.keys()
    assert ["pending", "dispatching", "dispatching", "canceled"] == await runs.log(run)


async def test_a_lease_skips_a_run_with_a_cancellation_in_progress(runs: PolicyRuns) -> None:
    run = await runs.add()
    async with runs.transaction() as service:
        canceled = await request_cancellation(service, run)
        async with asyncio.timeout(5):
            during = await runs.start()
    after = await runs.start()
    assert [[], []] == [during.items, after.items]
    assert (Status.CANCELED, canceled) == (canceled.status, await runs.read(run))
    assert ["pending", "canceled"] == await runs.log(run)


async def test_a_rescue_of_a_run_with_a_cancellation_request_cancels_it(runs: PolicyRuns) -> None:
    """While the request is in progress it locks the row; a rescue of the new version cancels the run."""
    run = await runs.add_started()
    async with runs.transaction() as service:
        await request_cancellation(service, run)
        during = await runs.rescue(run)
    stale = await runs.rescue(run)
    after = await runs.rescue(await runs.read(run))
    assert [(), (), (run.id,)] == [during.requeued, stale.requeued, after.requeued]
    found = await runs.read(run)
    assert (Status.CANCELED, None) == (found.status, found.lease_owner)
    assert ["pending", "dispatching", "dispatching", "canceled"] == await runs.log(run)


async def test_a_cancellation_that_waits_for_a_failure_is_refused(runs: PolicyRuns, shared_watch: Watch) -> None:
    """A failed run keeps its status and its error."""
    run = await runs.add_started()
    async with runs.transaction() as holder:
        await holder.finish(LeaseResult.failed(run, "no engine took it"))
        waiting = request_cancellation(runs, run)
        await shared_watch.until_waiting()
    with pytest.raises(JobConflict, match="the run is already failed"):
        await waiting
    found = await runs.read(run)
    assert (Status.FAILED, False, None) == cancellation(found)
    assert "no engine took it" == found.last_error


async def test_a_release_by_a_holder_that_has_not_read_the_cancellation_is_a_conflict(runs: PolicyRuns) -> None:
    """The answer of `replace` has the request, so that the holder can cancel the run."""
    run = await runs.add_started()
    requested = await request_cancellation(runs, run)
    result = await runs.update(run, run.release(at=AT, available_at=AT))
    assert (UpdateOutcome.CONFLICT, requested) == (result.outcome, result.job)
    assert requested.cancellation_requested
    assert requested == await runs.read(run)


async def test_fifty_concurrent_cancellations_are_one_request(runs: PolicyRuns) -> None:
    """All answers have the same request, and the log has it once."""
    run = await runs.add_started()
    answers = await asyncio.gather(*(request_cancellation(runs, run) for _ in range(50)))
    assert {(Status.DISPATCHING, True, answers[0].cancellation_requested_at)} == {
        (answer.status, answer.cancellation_requested, answer.cancellation_requested_at) for answer in answers
    }
    assert ["pending", "dispatching", "dispatching"] == await runs.log(run)


# Insertions


@pytest.mark.parametrize("by_service", [False, True], ids=["repository", "service"])
async def test_twenty_concurrent_insertions_of_one_run_id_are_one_run(runs: PolicyRuns, by_service: bool) -> None:
    """Each caller makes its own id, and the service sets the time; all answers are the stored run with one event."""
    if by_service:
        service = PolicyRunService(runs.store)
        calls = [service.enqueue(run_request(runs.tenant, run_id="nightly")) for _ in range(20)]
    else:
        inserted = [policy_run(runs.tenant, run_id="nightly") for _ in range(20)]
        assert 20 == len({run.id for run in inserted})
        calls = [runs.store.insert(run) for run in inserted]
    answers = await asyncio.gather(*calls)
    (stored,) = (await runs.store.list(runs.tenant)).runs
    assert [stored] * 20 == answers
    assert ["pending"] == await runs.log(stored)


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("in_session", [False, True], ids=["autocommit", "in a session"])
async def test_an_insertion_waits_for_an_uncommitted_one_of_the_same_run_id(
    runs: PolicyRuns, shared_watch: Watch, end: str, in_session: bool
) -> None:
    """After a commit it returns the committed run; after a rollback it is stored itself."""
    first, second = [policy_run(runs.tenant, run_id="nightly") for _ in range(2)]

    async def insert_second() -> PolicyRunJob:
        if not in_session:
            return await runs.storage.policy_runs.insert(second)
        async with runs.transaction() as inside:
            answer: PolicyRunJob = await inside.store.insert(second)
            return answer

    async with runs.storage.session() as session:
        await runs.using(session).store.insert(first)
        waiting = asyncio.create_task(insert_second())
        await shared_watch.until_waiting()
        await getattr(session, end)()
    answer = await waiting
    (stored,) = (await runs.store.list(runs.tenant)).runs
    assert (first if end == "commit" else second).id == answer.id == stored.id
    assert answer == stored
    assert ["pending"] == await runs.log(stored)


async def test_an_insertion_of_an_id_that_another_tenant_commits_is_refused(
    runs: PolicyRuns, shared_watch: Watch
) -> None:
    """It waits for the other insertion; its run is not stored, and the error does not name the other tenant."""
    shared = uuid7()
    async with runs.transaction() as other:
        await other.store.insert(policy_run(f"{runs.tenant}-other", id=shared))
        waiting = asyncio.create_task(runs.store.insert(policy_run(runs.tenant, id=shared)))
        await shared_watch.until_waiting()
    with pytest.raises(JobAlreadyExists) as caught:
        await waiting
    assert runs.tenant not in str(caught.value)
    assert () == (await runs.store.list(runs.tenant)).runs
