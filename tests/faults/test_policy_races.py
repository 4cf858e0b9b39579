"""Leases, heartbeats, ends, rescues, cancellations and insertions that meet at one policy run, interleaved by locks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import pytest
from uuid_utils.compat import uuid7

from graphjobs import (
    DatabaseUnavailable,
    JobAlreadyExists,
    JobConflict,
    PolicyRunJob,
    PolicyRunStatus,
)
from graphjobs.core.results import StalledItem
from graphjobs.core.transitions import UpdateOutcome, UpdateResult
from graphjobs.policy_runs.attempt_results import LeaseBatch, LeaseResult, RetryBackoff, TenantCursors
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of, run_request
from tests.faults.backend_monitor import Watch

Status = PolicyRunStatus

MINUTE: Final = timedelta(minutes=1)
RUNS: Final = "policy_runs"

How = Callable[[PolicyRunJob], LeaseResult]
SUBMITTED: Final[How] = LeaseResult.submitted
GIVEN_BACK: Final[How] = LeaseResult.released


def failed(run: PolicyRunJob) -> LeaseResult:
    """How it ends badly."""
    return LeaseResult.failed(run, "no engine took it")


def later(step: float) -> dict[str, Any]:
    """The fields of a run that has been available since so many seconds after a fixed time."""
    at = AT + timedelta(seconds=step)
    return {"available_at": at, "created_at": at}


@asynccontextmanager
async def transaction(storage: Storage) -> AsyncIterator[PolicyRunRepository]:
    """The repository inside a transaction, which holds its locks until the end, and commits then."""
    async with storage.session() as session, session.begin():
        yield storage.policy_runs.using(session)


async def lease(
    runs: PolicyRunRepository, tenant: str | None, owner: str = "A", *, limit: int = 1, **more: Any
) -> LeaseBatch:
    """Leases for a minute, and waits for nobody."""
    async with asyncio.timeout(5):
        return await queue_of(runs).lease(owner, MINUTE, attempts_max=9, limit=limit, tenant_id=tenant, **more)


async def leased(storage: Storage, tenant: str, owner: str = "A") -> PolicyRunJob:
    """A run that somebody leases."""
    await storage.policy_runs.insert(policy_run(tenant))
    (run,) = (await lease(storage.policy_runs, tenant, owner)).runs
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


def ids(answer: LeaseBatch) -> list[Any]:
    """Which runs a lease took, in its order."""
    return [run.id for run in answer.runs]


# Leases


@pytest.mark.parametrize("everybodys", [False, True], ids=["of a tenant", "of everybody"])
async def test_a_lease_does_not_wait_for_the_leases_of_others(graphjobs_storage: Storage, everybodys: bool) -> None:
    """It goes past what they hold, and takes the next; what one of them rolls back is another's again."""
    runs, whose = graphjobs_storage.policy_runs, None if everybodys else "acme"
    added = [(await runs.insert(policy_run("acme", **later(step)))).id for step in range(6)]
    async with transaction(graphjobs_storage) as first, graphjobs_storage.session() as second:
        one = await lease(first, whose, "A", limit=2)
        two = await lease(runs.using(second), whose, "B", limit=2)
        three = await lease(runs, whose, "C", limit=1)
        await second.rollback()
    again = await lease(runs, whose, "D", limit=9)
    assert [added[:2], added[2:4], added[4:5]] == [ids(one), ids(two), ids(three)]
    assert [*added[2:4], *added[5:]] == ids(again)
    assert {1} == {run.attempts for run in again.runs}


@pytest.mark.parametrize("everybodys", [False, True], ids=["of a tenant", "of everybody"])
@pytest.mark.parametrize("limit", [1, 7, 50])
async def test_many_leases_at_once_never_take_the_same_run(
    graphjobs_storage: Storage, limit: int, everybodys: bool
) -> None:
    """And together take all, none more than it asked for, of whatever priority."""
    runs, tenants = graphjobs_storage.policy_runs, ["acme"] if not everybodys else ["acme", "beta", "gamma"]
    priorities = ["normal", "high", "emergency"]
    added = await asyncio.gather(
        *(
            runs.insert(policy_run(tenants[number % len(tenants)], priority=priorities[number // 4 % 3]))
            for number in range(300)
        )
    )
    taken: list[PolicyRunJob] = []

    async def leaser(owner: str) -> None:
        turns = TenantCursors()
        while len(taken) < len(added):
            answer = await lease(runs, None if everybodys else "acme", owner, limit=limit, after=turns)
            turns = answer.cursors
            assert len(answer.runs) <= limit
            assert {owner} >= {run.lease_owner for run in answer.runs}
            taken.extend(answer.runs)

    async with asyncio.timeout(30):
        await asyncio.gather(*(leaser(f"leaser-{number}") for number in range(12)))

    assert sorted(run.id for run in added) == sorted(run.id for run in taken)
    assert {1} == {run.attempts for run in taken}
    assert ["pending", "dispatching"] == await statuses(graphjobs_storage, added[-1])


@pytest.mark.parametrize("everybodys", [False, True], ids=["of a tenant", "of everybody"])
async def test_a_lease_goes_past_the_rows_that_somebody_holds(
    graphjobs_storage: Storage, watch: Watch, everybodys: bool
) -> None:
    """Of whatever priority they are; free again, they come first."""
    runs, whose = graphjobs_storage.policy_runs, None if everybodys else "acme"
    for priority in ("emergency", "high", "normal"):
        held, free = [await runs.insert(policy_run("acme", priority=priority, **later(step))) for step in range(2)]
        async with watch.holding(held.id, table=RUNS):
            during = await lease(runs, whose)
        assert [free.id] == ids(during)
        assert [held.id] == ids(await lease(runs, whose))


@pytest.mark.parametrize("everybodys", [False, True], ids=["of a tenant", "of everybody"])
async def test_a_lease_takes_normal_runs_where_all_emergencies_are_held(
    graphjobs_storage: Storage, watch: Watch, everybodys: bool
) -> None:
    """What cannot be taken goes before nothing; an emergency that is free again goes before all."""
    runs, whose = graphjobs_storage.policy_runs, None if everybodys else "acme"
    normal = [await runs.insert(policy_run("acme", **later(step))) for step in range(3)]
    urgent = [await runs.insert(policy_run("acme", priority="emergency", **later(step))) for step in range(2)]
    async with watch.holding(*(run.id for run in urgent), table=RUNS):
        during = await lease(runs, whose, limit=2)
    after = await lease(runs, whose, limit=2)
    assert [run.id for run in normal[:2]] == ids(during)
    assert [run.id for run in urgent] == ids(after)


async def test_a_tenant_whose_runs_are_held_does_not_keep_others_from_their_turn(
    graphjobs_storage: Storage, watch: Watch
) -> None:
    """Whoever holds them, and for how long: with as many leases as there are tenants, each that waits is served."""
    runs = graphjobs_storage.policy_runs
    held, free = await runs.insert(policy_run("acme")), await runs.insert(policy_run("beta"))
    turns, served = TenantCursors(), []
    async with watch.holding(held.id, table=RUNS):
        for _ in range(2):
            answer = await lease(runs, None, after=turns)
            turns = answer.cursors
            served += ids(answer)
    assert [free.id] == served


async def test_an_emergency_that_is_held_does_not_hide_another_tenants(
    graphjobs_storage: Storage, watch: Watch
) -> None:
    """As long as one of anybody's can be taken, a lease takes nothing else."""
    runs = graphjobs_storage.policy_runs
    held = await runs.insert(policy_run("acme", priority="emergency"))
    urgent = await runs.insert(policy_run("beta", priority="emergency"))
    await runs.insert(policy_run("acme", priority="high"))
    async with watch.holding(held.id, table=RUNS):
        during = await lease(runs, None)
    assert [urgent.id] == ids(during)


# Rescues, ends and heartbeats


async def test_a_rescue_leaves_a_run_alone_whose_end_is_under_way(storage: Storage, tenant: str) -> None:
    """It does not wait for it either: there is life in that run."""
    run = await leased(storage, tenant)
    async with transaction(storage) as holder:
        ended = await queue_of(holder).end([LeaseResult.submitted(run)])
        async with asyncio.timeout(5):
            during = await storage.policy_run_queue.rescue([seen(run)], attempts_max=3)
    after = await storage.policy_run_queue.rescue([seen(run)], attempts_max=3)
    assert [(), (), (), ()] == [during.requeued, during.failed, after.requeued, after.failed]
    assert {run.id} == set(ended.versions)
    assert ["pending", "dispatching", "submitted"] == await statuses(storage, run)


@pytest.mark.parametrize("how", [SUBMITTED, GIVEN_BACK, failed, LeaseResult.canceled])
async def test_an_end_that_meets_a_rescue_is_refused(storage: Storage, tenant: str, how: How) -> None:
    """It waits for nobody: as long as the rescue is under way it is told so, and then that its lease is over."""
    run = await leased(storage, tenant)
    async with transaction(storage) as rescuer:
        rescued = await queue_of(rescuer).rescue([seen(run)], attempts_max=3)
        async with asyncio.timeout(5):
            during = await storage.policy_run_queue.end([how(run)])
    ended = await storage.policy_run_queue.end([how(run)])
    assert ((run.id,), ()) == (rescued.requeued, rescued.failed)
    assert ({}, {}, frozenset({run.id})) == (during.versions, during.lost, during.busy)
    assert ({}, {run.id}, frozenset()) == (ended.versions, set(ended.lost), ended.busy)
    told = "the lease of 'A' at attempt 1 is lost: a later read found the run pending at attempt 1"
    assert told == ended.lost[run.id]
    assert ["pending", "dispatching", "pending"] == await statuses(storage, run)


async def test_an_end_that_meets_a_rescue_that_rolls_back_is_done(storage: Storage, tenant: str) -> None:
    """What never happened does not fence."""
    run = await leased(storage, tenant)
    async with storage.session() as session:
        await storage.policy_run_queue.using(session).rescue([seen(run)], attempts_max=3)
        during = await storage.policy_run_queue.end([LeaseResult.submitted(run)])
        await session.rollback()
    after = await storage.policy_run_queue.end([LeaseResult.submitted(run)])
    assert (frozenset({run.id}), {run.id}) == (during.busy, set(after.versions))
    assert ["pending", "dispatching", "submitted"] == await statuses(storage, run)


async def test_an_end_that_meets_a_heartbeat_is_done(storage: Storage, tenant: str) -> None:
    """A heartbeat changes the row under it, and not its attempt: the end must not be lost on the way."""
    run = await leased(storage, tenant)
    async with transaction(storage) as beating:
        (renewed,) = (await queue_of(beating).renew([run], MINUTE)).runs
        during = await storage.policy_run_queue.end([LeaseResult.submitted(run)])
    ended = await storage.policy_run_queue.end([LeaseResult.submitted(run)])
    assert (frozenset({run.id}), {run.id}) == (during.busy, set(ended.versions))
    assert ended.versions[run.id] > renewed.updated_at > run.updated_at
    assert Status.SUBMITTED is (await now(storage, run)).status


async def test_a_heartbeat_that_meets_an_end_neither_waits_nor_revives(storage: Storage, tenant: str) -> None:
    """Under way, the run counts as held still; once it is committed, as lost."""
    run = await leased(storage, tenant)
    async with transaction(storage) as holder:
        await queue_of(holder).end([LeaseResult.submitted(run)])
        async with asyncio.timeout(5):
            during = await storage.policy_run_queue.renew([run], MINUTE)
    after = await storage.policy_run_queue.renew([run], MINUTE)
    assert ((), frozenset(), frozenset({run.id})) == (during.runs, during.lost, during.busy)
    assert ((), frozenset({run.id}), frozenset()) == (after.runs, after.lost, after.busy)
    assert (Status.SUBMITTED, None) == (
        (await now(storage, run)).status,
        (await now(storage, run)).lease_expires_at,
    )


async def test_a_rescue_leaves_a_run_alone_whose_heartbeat_is_under_way(storage: Storage, tenant: str) -> None:
    """Uncommitted, it holds the row; committed, it has raised the version that was seen."""
    run = await leased(storage, tenant)
    async with transaction(storage) as holder:
        await queue_of(holder).renew([run], MINUTE)
        async with asyncio.timeout(5):
            during = await storage.policy_run_queue.rescue([seen(run)], attempts_max=3)
    after = await storage.policy_run_queue.rescue([seen(run)], attempts_max=3)
    assert [(), ()] == [during.requeued, after.requeued]
    assert ["pending", "dispatching"] == await statuses(storage, run)


async def test_a_heartbeat_that_meets_a_rescue_neither_waits_nor_revives(storage: Storage, tenant: str) -> None:
    """Under way, the run counts as held still; once it is committed, as lost."""
    run = await leased(storage, tenant)
    async with transaction(storage) as rescuer:
        await queue_of(rescuer).rescue([seen(run)], attempts_max=3)
        async with asyncio.timeout(5):
            during = await storage.policy_run_queue.renew([run], MINUTE)
    after = await storage.policy_run_queue.renew([run], MINUTE)
    assert ((), frozenset(), frozenset({run.id})) == (during.runs, during.lost, during.busy)
    assert ((), frozenset({run.id}), frozenset()) == (after.runs, after.lost, after.busy)
    assert ["pending", "dispatching", "pending"] == await statuses(storage, run)


async def test_one_row_that_is_held_does_not_stop_the_heartbeats_of_others(storage: Storage, tenant: str) -> None:
    """Each run's heartbeat is its own, though they are one statement."""
    held, free = await leased(storage, tenant), await leased(storage, tenant)
    async with transaction(storage) as somebody:
        await queue_of(somebody).renew([held], MINUTE)
        async with asyncio.timeout(5):
            renewed = await storage.policy_run_queue.renew([held, free], MINUTE)
    assert ([free.id], frozenset(), frozenset({held.id})) == (
        [run.id for run in renewed.runs],
        renewed.lost,
        renewed.busy,
    )


async def test_a_row_that_somebody_holds_is_not_seen_as_run_out(
    storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """It cannot be renewed meanwhile: a rescue would race the first heartbeat once the row is free."""
    held, stopped = await leased(storage, tenant), await leased(storage, tenant)
    await storage.policy_run_queue.renew([held, stopped], timedelta(microseconds=1))
    async with shared_watch.holding(held.id, table=RUNS), asyncio.timeout(5):
        during = await storage.policy_run_queue.expired(tenant_id=tenant)
    after = await storage.policy_run_queue.expired(tenant_id=tenant)
    assert [stopped.id] == [sighting.job_id for sighting in during]
    assert {held.id, stopped.id} == {sighting.job_id for sighting in after}


async def test_a_rescue_leaves_a_run_alone_that_was_leased_anew(storage: Storage, tenant: str) -> None:
    """Given back and taken by another, it is dispatched again, and is not what was seen."""
    run = await leased(storage, tenant)
    await storage.policy_run_queue.end([LeaseResult.released(run)])
    async with transaction(storage) as leaser:
        (again,) = (await lease(leaser, tenant, "B")).runs
        async with asyncio.timeout(5):
            during = await storage.policy_run_queue.rescue([seen(run)], attempts_max=3)
    after = await storage.policy_run_queue.rescue([seen(run)], attempts_max=3)
    assert [(), ()] == [during.requeued, after.requeued]
    assert (again, 2, "B") == (await now(storage, run), again.attempts, again.lease_owner)


async def test_a_lease_does_not_see_a_run_whose_rescue_is_under_way(storage: Storage, tenant: str) -> None:
    """Nor waits for it; once it is committed, and has waited, the run is the next lease's."""
    run = await leased(storage, tenant)
    soon = RetryBackoff(first=timedelta(microseconds=1), cap=timedelta(microseconds=1))
    async with transaction(storage) as rescuer:
        await queue_of(rescuer).rescue([seen(run)], attempts_max=3, backoff=soon)
        during = await lease(storage.policy_runs, tenant, "B")
    after = await lease(storage.policy_runs, tenant, "B")
    assert [] == ids(during)
    assert [(run.id, 2)] == [(again.id, again.attempts) for again in after.runs]


async def test_of_two_rescues_of_one_run_one_wins(storage: Storage, tenant: str) -> None:
    """The other, which saw the same, finds it moved."""
    run = await leased(storage, tenant)
    async with transaction(storage) as first:
        one = await queue_of(first).rescue([seen(run)], attempts_max=3)
        during = await storage.policy_run_queue.rescue([seen(run)], attempts_max=3)
    after = await storage.policy_run_queue.rescue([seen(run)], attempts_max=3)
    assert [(run.id,), (), ()] == [one.requeued, during.requeued, after.requeued]
    assert ["pending", "dispatching", "pending"] == await statuses(storage, run)


async def test_of_fifty_ends_of_one_lease_one_lands(storage: Storage, tenant: str) -> None:
    """However they end it; the others are told that it is over, or busy as long as it is under way."""
    run = await leased(storage, tenant)
    hows = [SUBMITTED, GIVEN_BACK, failed, LeaseResult.canceled]
    answers = await asyncio.gather(*(storage.policy_run_queue.end([hows[step % 4](run)]) for step in range(50)))
    landed = [answer for answer in answers if run.id in answer.versions]
    assert 1 == len(landed)
    assert 50 == len(landed) + sum((run.id in answer.lost) + (run.id in answer.busy) for answer in answers)
    assert landed[0].versions[run.id] == (await now(storage, run)).updated_at
    assert 3 == len(await statuses(storage, run))


# Who lost a run


@pytest.mark.parametrize("again_by", ["A", "B"], ids=["the same owner", "another owner"])
async def test_who_lost_a_run_can_do_nothing_with_it(storage: Storage, tenant: str, again_by: str) -> None:
    """Leased anew, even by a dispatcher of the same name: the first attempt cannot end, renew or move the second."""
    first = await leased(storage, tenant, "A")
    await storage.policy_run_queue.end([LeaseResult.released(first)])
    (second,) = (await lease(storage.policy_runs, tenant, again_by)).runs
    before = await statuses(storage, first)

    for how in (SUBMITTED, GIVEN_BACK, failed, LeaseResult.canceled):
        ended = await storage.policy_run_queue.end([how(first)])
        assert ({}, {first.id}) == (ended.versions, set(ended.lost))
        assert ended.lost[first.id].endswith(f"a later read found the run dispatching by {again_by!r} at attempt 2")
    renewed = await storage.policy_run_queue.renew([first], MINUTE)
    assert ((), frozenset({first.id})) == (renewed.runs, renewed.lost)
    for late in (
        first.submit(at=AT),
        first.release(at=AT, available_at=AT),
        first.fail(at=AT, error="late"),
        first.cancel(at=AT),
        first.renew(at=AT, until=AT),
        # Even with the newest version in hand: the attempts are not the first's any more.
        first.renew(at=AT, until=AT).stored(updated_at=second.updated_at),
    ):
        lost = await storage.policy_runs.replace(late, "A")
        assert (UpdateOutcome.CONFLICT, second) == (lost.outcome, lost.job)

    assert second == await now(storage, first)
    assert before == await statuses(storage, first)


async def test_another_owner_can_do_nothing_with_a_lease(storage: Storage, tenant: str) -> None:
    """Though he knows the attempt and the version."""
    run = await leased(storage, tenant, "A")
    forged = run.replace(lease_owner="B")

    ended = await storage.policy_run_queue.end([LeaseResult.submitted(forged)])
    renewed = await storage.policy_run_queue.renew([forged], MINUTE)
    moved = [
        await storage.policy_runs.replace(run.submit(at=AT), "B"),
        await storage.policy_runs.replace(run.renew(at=AT, until=AT), "B"),
        await storage.policy_runs.replace(run.fail(at=AT, error="forged"), "B"),
        await storage.policy_runs.replace(run.fail(at=AT, error="forged"), None),
    ]

    assert ({}, {run.id}) == (ended.versions, set(ended.lost))
    assert ((), frozenset({run.id})) == (renewed.runs, renewed.lost)
    assert [(UpdateOutcome.CONFLICT, run)] * 4 == [(result.outcome, result.job) for result in moved]
    assert run == await now(storage, run)
    assert ["pending", "dispatching"] == await statuses(storage, run)


# Cancellations


def asking(runs: PolicyRunRepository, run: PolicyRunJob) -> "asyncio.Task[PolicyRunJob]":
    """Asks for the end of a run."""
    service = PolicyRunService(runs)
    return asyncio.create_task(service.request_cancellation(run.tenant_id, run.run_id, reason="not wanted"))


AFTER_AN_END = {
    # how the lease ends: what the run then is, and what its log tells from its lease on.
    "given back": (GIVEN_BACK, Status.CANCELED, ["pending", "canceled"]),
    "submitted": (SUBMITTED, Status.SUBMITTED, ["submitted", "submitted"]),
}


@pytest.mark.parametrize("how", AFTER_AN_END)
async def test_a_cancellation_that_waits_for_an_end_is_not_lost(
    storage: Storage, shared_watch: Watch, tenant: str, how: str
) -> None:
    """It looks again at what the end made of the run, and asks of that."""
    ending, status, log = AFTER_AN_END[how]
    run = await leased(storage, tenant)
    async with transaction(storage) as holder:
        await queue_of(holder).end([ending(run)])
        waiting = asking(storage.policy_runs, run)
        await shared_watch.until_waiting()
    asked = await waiting
    assert (status, True, "not wanted") == (asked.status, asked.cancellation_requested, asked.cancellation_reason)
    assert asked == await now(storage, run)
    assert ["pending", "dispatching", *log] == await statuses(storage, run)


AFTER_A_CANCELLATION = {
    "given back": (GIVEN_BACK, Status.CANCELED, ["dispatching", "canceled"]),
    "submitted": (SUBMITTED, Status.SUBMITTED, ["dispatching", "submitted"]),
}


@pytest.mark.parametrize("how", AFTER_A_CANCELLATION)
async def test_an_end_that_meets_a_cancellation_does_not_lose_it(storage: Storage, tenant: str, how: str) -> None:
    """Under way, it holds the row; then what is given back is canceled, and what is submitted keeps the request."""
    ending, status, log = AFTER_A_CANCELLATION[how]
    run = await leased(storage, tenant)
    async with transaction(storage) as service:
        await asking(service, run)
        async with asyncio.timeout(5):
            during = await storage.policy_run_queue.end([ending(run)])
    after = await storage.policy_run_queue.end([ending(run)])
    found = await now(storage, run)
    assert ({}, {}, frozenset({run.id})) == (during.versions, during.lost, during.busy)
    assert {run.id: found.updated_at} == after.versions
    assert (status, True, "not wanted") == (found.status, found.cancellation_requested, found.cancellation_reason)
    assert (status is Status.CANCELED) == (found.canceled_at is not None)
    assert ["pending", "dispatching", *log] == await statuses(storage, run)
    *_, event = await storage.policy_runs.events(tenant, run.id)
    assert ("dispatching", status.value) == (event.payload["from"], event.payload["to"])


async def test_a_cancellation_that_waits_for_a_heartbeat_is_not_lost(
    storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """The heartbeat raised the version it was to change; it looks again, and the next heartbeat tells the holder."""
    run = await leased(storage, tenant)
    async with transaction(storage) as beating:
        await queue_of(beating).renew([run], MINUTE)
        waiting = asking(storage.policy_runs, run)
        await shared_watch.until_waiting()
    asked = await waiting
    (told,) = (await storage.policy_run_queue.renew([run], MINUTE)).runs
    assert (Status.DISPATCHING, True, "not wanted") == (
        told.status,
        told.cancellation_requested,
        told.cancellation_reason,
    )
    assert asked.cancellation_requested_at == told.cancellation_requested_at
    assert ["pending", "dispatching", "dispatching"] == await statuses(storage, run)


async def test_a_heartbeat_that_meets_a_cancellation_learns_of_it_next_time(storage: Storage, tenant: str) -> None:
    """It does not wait: the run is held still, and the one after it tells."""
    run = await leased(storage, tenant)
    async with transaction(storage) as service:
        await asking(service, run)
        async with asyncio.timeout(5):
            during = await storage.policy_run_queue.renew([run], MINUTE)
    (after,) = (await storage.policy_run_queue.renew([run], MINUTE)).runs
    assert ((), frozenset(), frozenset({run.id})) == (during.runs, during.lost, during.busy)
    assert (True, "not wanted") == (after.cancellation_requested, after.cancellation_reason)
    assert after == await now(storage, run)


async def test_a_cancellation_that_waits_for_a_lease_asks_its_holder(
    storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """It was pending when it was looked at; it is not canceled under whoever has it now."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    async with transaction(storage) as leaser:
        (held,) = (await lease(leaser, tenant)).runs
        waiting = asking(storage.policy_runs, run)
        await shared_watch.until_waiting()
    asked = await waiting
    assert (Status.DISPATCHING, True, "A") == (asked.status, asked.cancellation_requested, asked.lease_owner)
    ended = await storage.policy_run_queue.end([LeaseResult.released(held)])
    assert {run.id} == set(ended.versions)
    assert ["pending", "dispatching", "dispatching", "canceled"] == await statuses(storage, run)


async def test_a_lease_goes_past_a_run_whose_cancellation_is_under_way(storage: Storage, tenant: str) -> None:
    """And never has it afterwards."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    async with transaction(storage) as service:
        canceled = await asking(service, run)
        during = await lease(storage.policy_runs, tenant)
    after = await lease(storage.policy_runs, tenant)
    assert [[], []] == [ids(during), ids(after)]
    assert (Status.CANCELED, canceled) == (canceled.status, await now(storage, run))
    assert ["pending", "canceled"] == await statuses(storage, run)


async def test_a_cancellation_that_waits_for_a_rescue_is_not_lost(
    storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """It cancels what waits again."""
    run = await leased(storage, tenant)
    async with transaction(storage) as rescuer:
        await queue_of(rescuer).rescue([seen(run)], attempts_max=3)
        waiting = asking(storage.policy_runs, run)
        await shared_watch.until_waiting()
    assert Status.CANCELED is (await waiting).status
    assert ["pending", "dispatching", "pending", "canceled"] == await statuses(storage, run)


async def test_a_rescue_of_a_run_whose_cancellation_was_requested_cancels_it(storage: Storage, tenant: str) -> None:
    """Under way, the request holds the row; seen after it, the run is canceled and does not wait again."""
    run = await leased(storage, tenant)
    async with transaction(storage) as service:
        await asking(service, run)
        during = await storage.policy_run_queue.rescue([seen(run)], attempts_max=3)
    stale = await storage.policy_run_queue.rescue([seen(run)], attempts_max=3)
    after = await storage.policy_run_queue.rescue([seen(await now(storage, run))], attempts_max=3)
    assert [(), (), (run.id,)] == [during.requeued, stale.requeued, after.requeued]
    assert (Status.CANCELED, None) == ((await now(storage, run)).status, (await now(storage, run)).lease_owner)
    assert ["pending", "dispatching", "dispatching", "canceled"] == await statuses(storage, run)


async def test_a_cancellation_that_waits_for_a_failure_is_told_that_it_is_too_late(
    storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """A run that has failed cannot be canceled, and keeps why it failed."""
    run = await leased(storage, tenant)
    async with transaction(storage) as holder:
        await queue_of(holder).end([failed(run)])
        waiting = asking(storage.policy_runs, run)
        await shared_watch.until_waiting()
    with pytest.raises(JobConflict, match="the run is already failed"):
        await waiting
    found = await now(storage, run)
    assert (Status.FAILED, "no engine took it", False) == (
        found.status,
        found.last_error,
        found.cancellation_requested,
    )


async def test_a_give_back_by_its_holder_that_has_not_seen_the_cancellation_is_refused(
    storage: Storage, tenant: str
) -> None:
    """By `replace` it is a conflict, and what is to be done is in the answer: the request stands."""
    run = await leased(storage, tenant)
    asked = await asking(storage.policy_runs, run)
    result = await storage.policy_runs.replace(run.release(at=AT, available_at=AT), "A")
    assert (UpdateOutcome.CONFLICT, asked) == (result.outcome, result.job)
    assert asked.cancellation_requested
    assert asked == await now(storage, run)


async def test_fifty_cancellations_at_once_are_one(storage: Storage, tenant: str) -> None:
    """All are told the same request, and the log tells of it once."""
    run = await leased(storage, tenant)
    answers = await asyncio.gather(*(asking(storage.policy_runs, run) for _ in range(50)))
    assert {(Status.DISPATCHING, True, answers[0].cancellation_requested_at)} == {
        (answer.status, answer.cancellation_requested, answer.cancellation_requested_at) for answer in answers
    }
    assert ["pending", "dispatching", "dispatching"] == await statuses(storage, run)


# Insertions


async def test_a_run_inserted_by_twenty_at_once_is_one_run(storage: Storage, tenant: str) -> None:
    """Each made an id of its own; all are told the one that is stored, and its log has one event."""
    given = [policy_run(tenant, run_id="nightly") for _ in range(20)]
    answers = await asyncio.gather(*(storage.policy_runs.insert(run) for run in given))
    (stored,) = (await storage.policy_runs.list(tenant)).runs
    assert 20 == len({run.id for run in given})
    assert [stored] * 20 == list(answers)
    assert ["pending"] == await statuses(storage, stored)


async def test_a_run_enqueued_by_twenty_at_once_is_one_run(storage: Storage, tenant: str) -> None:
    """The same holds for the service, whose callers give no time."""
    service = PolicyRunService(storage.policy_runs)
    answers = await asyncio.gather(*(service.enqueue(run_request(tenant, run_id="nightly")) for _ in range(20)))
    (stored,) = (await storage.policy_runs.list(tenant)).runs
    assert [stored] * 20 == list(answers)
    assert ["pending"] == await statuses(storage, stored)


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("in_session", [False, True], ids=["alone", "in a session"])
async def test_an_insertion_waits_for_an_uncommitted_one_of_the_same_name(
    storage: Storage, shared_watch: Watch, tenant: str, ending: str, in_session: bool
) -> None:
    """Committed, it is told that one; rolled back, it is stored itself."""
    first, second = [policy_run(tenant, run_id="nightly") for _ in range(2)]

    async def insert_second() -> PolicyRunJob:
        if not in_session:
            return await storage.policy_runs.insert(second)
        async with transaction(storage) as runs:
            return await runs.insert(second)

    async with storage.session() as session:
        await storage.policy_runs.using(session).insert(first)
        waiting = asyncio.create_task(insert_second())
        await shared_watch.until_waiting()
        await (session.commit() if ending == "commit" else session.rollback())
    answer = await waiting
    (stored,) = (await storage.policy_runs.list(tenant)).runs
    assert (first if ending == "commit" else second).id == answer.id == stored.id
    assert answer == stored
    assert ["pending"] == await statuses(storage, stored)


async def test_an_insertion_of_an_id_that_another_commits_is_refused(
    storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """It waited for it, and its own run of another name is not stored; nor is it told whose the id is."""
    shared = uuid7()
    async with transaction(storage) as runs:
        await runs.insert(policy_run(f"{tenant}-other", id=shared))
        waiting = asyncio.create_task(storage.policy_runs.insert(policy_run(tenant, id=shared)))
        await shared_watch.until_waiting()
    with pytest.raises(JobAlreadyExists) as caught:
        await waiting
    assert tenant not in str(caught.value)
    assert () == (await storage.policy_runs.list(tenant)).runs


# Moves


async def replaced_by_fifty(
    storage: Storage, moves: list[PolicyRunJob], owner: str | None
) -> tuple[list[UpdateResult[PolicyRunJob]], PolicyRunJob]:
    """Asks for all of these moves at once; gives the answers, and the one that was applied."""
    answers = await asyncio.gather(*(storage.policy_runs.replace(move, owner) for move in moves))
    (applied,) = [answer for answer in answers if answer.applied]
    assert applied.job is not None
    assert {UpdateOutcome.CONFLICT} == {answer.outcome for answer in answers if answer is not applied}
    assert applied.job == await now(storage, moves[0])
    return answers, applied.job


async def test_of_fifty_requests_of_one_version_one_wins(storage: Storage, tenant: str) -> None:
    """They keep status, owner and attempts, so that the version alone tells who was late."""
    run = await leased(storage, tenant)
    moves = [run.request_cancellation(at=AT, reason=f"racer {step}") for step in range(50)]
    answers, won = await replaced_by_fifty(storage, moves, "A")
    assert moves[[bool(answer) for answer in answers].index(True)].cancellation_reason == won.cancellation_reason
    assert 3 == len(await statuses(storage, run))


async def test_of_fifty_leases_of_one_pending_run_one_wins(storage: Storage, tenant: str) -> None:
    """By attempts and status: all of them would make it the first attempt."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    moves = [run.lease(at=AT, owner=f"racer {step}", until=AT) for step in range(50)]
    answers, won = await replaced_by_fifty(storage, moves, None)
    winner = [bool(answer) for answer in answers].index(True)
    assert (f"racer {winner}", 1) == (won.lease_owner, won.attempts)
    assert ["pending", "dispatching"] == await statuses(storage, run)


async def test_of_fifty_ends_of_one_lease_by_replace_one_wins(storage: Storage, tenant: str) -> None:
    """By owner and status: each leaves the run to nobody."""
    run = await leased(storage, tenant)
    moves = [
        (run.submit(at=AT), run.fail(at=AT, error=f"racer {step}"), run.release(at=AT, available_at=AT))[step % 3]
        for step in range(50)
    ]
    _, won = await replaced_by_fifty(storage, moves, "A")
    assert won.lease_owner is None
    assert 3 == len(await statuses(storage, run))


async def test_batches_in_opposite_orders_never_deadlock(storage: Storage, tenant: str) -> None:
    """Ends, heartbeats and rescues of the same runs at once; each locks in the order of ids."""
    await asyncio.gather(*(storage.policy_runs.insert(policy_run(tenant)) for _ in range(200)))
    runs = list((await lease(storage.policy_runs, tenant, limit=200)).runs)
    assert 200 == len(runs)

    async def at_random(turn: int) -> int:
        order = runs if turn % 2 else runs[::-1]
        match turn % 3:
            case 0:
                number, left = 0, {run.id for run in runs}
                while left:
                    ended = await storage.policy_run_queue.end([SUBMITTED(run) for run in order if run.id in left])
                    number += len(ended.versions)
                    left &= ended.busy
                return number
            case 1:
                await storage.policy_run_queue.renew(order, MINUTE)
            case _:
                rescued = await storage.policy_run_queue.rescue([seen(run) for run in order], attempts_max=3)
                return len(rescued.requeued)
        return 0

    moved = await asyncio.gather(*(at_random(turn) for turn in range(24)))

    assert len(runs) == sum(moved)
    for run in runs[:20]:
        assert 3 == len(await statuses(storage, run))


async def test_a_lost_race_under_repeatable_read_is_an_error_and_no_answer(storage: Storage, tenant: str) -> None:
    """A caller that chose REPEATABLE READ gets 40001 in place of an answer: nothing was done, and a new try tells."""

    async def by_replace(runs: PolicyRunRepository, run: PolicyRunJob) -> object:
        return await runs.replace(run.submit(at=AT), "A")

    async def by_end(runs: PolicyRunRepository, run: PolicyRunJob) -> object:
        return await storage.policy_run_queue.using(session).end([LeaseResult.submitted(run)])

    async def by_renewal(runs: PolicyRunRepository, run: PolicyRunJob) -> object:
        return await storage.policy_run_queue.using(session).renew([run], MINUTE)

    async def by_rescue(runs: PolicyRunRepository, run: PolicyRunJob) -> object:
        return await storage.policy_run_queue.using(session).rescue([seen(run)], attempts_max=3)

    for call in (by_replace, by_end, by_renewal, by_rescue):
        run = await leased(storage, tenant)
        async with storage.session() as session:
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            runs = storage.policy_runs.using(session)
            assert run == await runs.get(tenant, run.id)
            (renewed,) = (await storage.policy_run_queue.renew([run], MINUTE)).runs
            with pytest.raises(DatabaseUnavailable) as caught:
                await call(runs, run)
            with pytest.raises(DatabaseUnavailable, match="roll it back") as afterwards:
                await runs.get(tenant, run.id)
            await session.rollback()
            assert renewed == await runs.get(tenant, run.id)
        assert ("40001", "25P02") == (caught.value.sqlstate, afterwards.value.sqlstate)
        assert ["pending", "dispatching"] == await statuses(storage, run)
