"""The dispatcher's promises, on a real database: handed over once, tried again, given up, canceled, given back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from graphjobs import (
    ConfigurationError,
    DispatcherOptions,
    PolicyRunDispatcher,
    PolicyRunJob,
    PolicyRunRejected,
    PolicyRunService,
    PolicyRunStatus,
)
from graphjobs.policy_runs.attempt_results import LeaseResult, RetryBackoff
from graphjobs.storage import Storage
from graphjobs.worker import DispatchContext
from tests.builders import policy_run

Status = PolicyRunStatus

_SOON = timedelta(milliseconds=10)
_AT_ONCE = RetryBackoff(first=timedelta(milliseconds=1), cap=timedelta(milliseconds=1))


def options(tenant: str, **given: Any) -> DispatcherOptions:
    """Options of a dispatcher of one tenant that loses no time."""
    return DispatcherOptions(**{"tenant": tenant, "poll": _SOON, "backoff": _AT_ONCE, **given})


async def until(condition: Callable[[], bool]) -> None:
    """Waits until it is so."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def until_so(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until the database says so."""
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def now(storage: Storage, run: PolicyRunJob) -> PolicyRunJob:
    """The run as it is."""
    found = await storage.policy_runs.get(run.tenant_id, run.id)
    assert found is not None
    return found


async def _ended(storage: Storage, run: PolicyRunJob) -> bool:
    return (await now(storage, run)).status.is_final


async def statuses(storage: Storage, run: PolicyRunJob) -> list[str]:
    """What the log tells, in order."""
    return [event.status.value for event in await storage.policy_runs.events(run.tenant_id, run.id)]


async def taken(_run: PolicyRunJob, _context: DispatchContext) -> None:
    """Whoever runs policies has taken it."""


async def waits(_run: PolicyRunJob, _context: DispatchContext) -> None:
    """Never ends by itself."""
    await asyncio.Event().wait()


async def test_each_run_is_handed_over_once_and_submitted(storage: Storage, tenant: str) -> None:
    """By three dispatchers at once; each function sees the run as it was leased."""
    runs = [await storage.policy_runs.insert(policy_run(tenant)) for _ in range(60)]
    seen: list[PolicyRunJob] = []

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> None:
        assert (run, Status.DISPATCHING, 1) == (context.job, run.status, run.attempts)
        seen.append(run)

    dispatchers = [
        PolicyRunDispatcher(storage, dispatch, options=options(tenant, name=f"d{n}", batch=7)) for n in range(3)
    ]
    await asyncio.gather(*(dispatcher.run(until_empty=True) for dispatcher in dispatchers))

    assert sorted(run.id for run in runs) == sorted(run.id for run in seen)
    assert len(runs) == sum(dispatcher.counts.submitted for dispatcher in dispatchers)
    for run in runs:
        assert Status.SUBMITTED is (await now(storage, run)).status
    assert ["pending", "dispatching", "submitted"] == await statuses(storage, runs[0])


async def test_a_failed_attempt_is_tried_again_until_they_are_used_up(storage: Storage, tenant: str) -> None:
    """Each time with the reason; the context tells which one is the last."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    lasts: list[bool] = []

    async def dispatch(_run: PolicyRunJob, context: DispatchContext) -> None:
        lasts.append(context.last)
        raise OSError("the engine is away")

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options(tenant, attempts_max=3))
    working = asyncio.ensure_future(dispatcher.run())
    await until(lambda: dispatcher.counts.failed == 1)
    dispatcher.stop()
    await working

    failed = await now(storage, run)
    assert [False, False, True] == lasts
    assert (Status.FAILED, 3, "OSError: the engine is away") == (
        failed.status,
        failed.attempts,
        failed.last_error,
    )
    assert (2, 1, 3) == (dispatcher.counts.retried, dispatcher.counts.failed, dispatcher.counts.leased)
    assert ["pending", *["dispatching", "pending"] * 2, "dispatching", "failed"] == await statuses(storage, run)


async def test_a_failed_attempt_waits_for_the_next_one(storage: Storage, tenant: str) -> None:
    """As long as the back-off says, by the database's clock."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    backoff = RetryBackoff(first=timedelta(minutes=10), cap=timedelta(hours=1))

    async def dispatch(_run: PolicyRunJob, _context: DispatchContext) -> None:
        raise OSError("the engine is away")

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options(tenant, backoff=backoff))
    await dispatcher.run(until_empty=True)

    back = await now(storage, run)
    wait = back.available_at - back.updated_at
    assert (Status.PENDING, "OSError: the engine is away") == (back.status, back.last_error)
    assert timedelta(minutes=5) <= wait <= timedelta(minutes=10)
    assert (
        () == (await storage.policy_run_queue.lease("x", timedelta(minutes=1), attempts_max=5, tenant_id=tenant)).runs
    )


async def test_a_rejected_run_fails_at_once(storage: Storage, tenant: str) -> None:
    """No other attempt would help."""
    run = await storage.policy_runs.insert(policy_run(tenant))

    async def dispatch(_run: PolicyRunJob, _context: DispatchContext) -> None:
        raise PolicyRunRejected("there is no such policy")

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options(tenant))
    await dispatcher.run(until_empty=True)

    failed = await now(storage, run)
    assert (Status.FAILED, 1) == (failed.status, failed.attempts)
    assert "PolicyRunRejected: there is no such policy" == failed.last_error


async def test_a_function_that_takes_too_long_has_failed_the_attempt(storage: Storage, tenant: str) -> None:
    """It is cut, and the run is tried again."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    dispatcher = PolicyRunDispatcher(
        storage, waits, options=options(tenant, time_limit=timedelta(milliseconds=50), attempts_max=2)
    )
    working = asyncio.ensure_future(dispatcher.run())
    await until(lambda: dispatcher.counts.failed == 1)
    dispatcher.stop()
    await working

    failed = await now(storage, run)
    assert (Status.FAILED, 2) == (failed.status, failed.attempts)
    assert "took longer than 0:00:00.050000" in str(failed.last_error)


async def test_a_leased_run_is_canceled_when_its_holder_next_asks(storage: Storage, tenant: str) -> None:
    """With the next heartbeat: the function is cancelled, its context says so, and nothing is submitted."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    contexts: list[DispatchContext] = []

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> None:
        contexts.append(context)
        await waits(run, context)

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options(tenant, lease=timedelta(seconds=1)))
    working = asyncio.ensure_future(dispatcher.run())
    await until(lambda: bool(contexts))
    asked = await PolicyRunService(storage.policy_runs).request_cancellation(tenant, run.run_id, reason="not needed")
    assert (Status.DISPATCHING, True) == (asked.status, asked.cancellation_requested)
    await until(lambda: dispatcher.counts.canceled == 1)
    dispatcher.stop()
    await working

    canceled = await now(storage, run)
    assert contexts[0].cancelled
    assert (Status.CANCELED, "not needed", None) == (
        canceled.status,
        canceled.cancellation_reason,
        canceled.submitted_at,
    )
    assert ["pending", "dispatching", "dispatching", "canceled"] == await statuses(storage, run)


async def test_a_function_may_ask_itself_whether_it_should_go_on(storage: Storage, tenant: str) -> None:
    """One that was told so, and returns, has handed nothing over: submitted, its run would wait for ever."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    service = PolicyRunService(storage.policy_runs)
    asked: list[bool] = []

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> None:
        asked.append(await context.renew())
        await service.request_cancellation(tenant, run.run_id)
        asked.append(await context.renew())
        assert context.job.cancellation_requested

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options(tenant))
    await dispatcher.run(until_empty=True)

    canceled = await now(storage, run)
    assert [True, False] == asked
    assert (Status.CANCELED, None) == (canceled.status, canceled.submitted_at)
    assert 1 == dispatcher.counts.canceled


@pytest.mark.parametrize("why", ["its end was asked for", "its time is up", "the dispatcher stops"])
async def test_a_function_that_swallows_its_cancel_has_handed_nothing_over(
    storage: Storage, tenant: str, why: str
) -> None:
    """Whatever it was cancelled for: what it returns is no word that anybody has the run."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    begun = asyncio.Event()

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> None:
        begun.set()
        try:
            await waits(run, context)
        except asyncio.CancelledError:
            return

    limit = timedelta(milliseconds=50) if why == "its time is up" else timedelta(minutes=1)
    given = options(tenant, lease=timedelta(seconds=1), time_limit=limit, attempts_max=1)
    dispatcher = PolicyRunDispatcher(storage, dispatch, options=given)
    working = asyncio.ensure_future(dispatcher.run())
    await begun.wait()
    counts, status = (0, 1, 0), Status.FAILED
    if why == "its end was asked for":
        counts, status = (1, 0, 0), Status.CANCELED
        await PolicyRunService(storage.policy_runs).request_cancellation(tenant, run.run_id)
    elif why == "the dispatcher stops":
        counts, status = (0, 0, 1), Status.PENDING
        dispatcher.stop(grace=timedelta(0))
    await until(lambda: counts == (dispatcher.counts.canceled, dispatcher.counts.failed, dispatcher.counts.given_back))
    dispatcher.stop()
    await working
    assert (status, None) == ((ended := await now(storage, run)).status, ended.submitted_at)


async def test_a_run_that_was_lost_unnoticed_and_leased_again_is_at_its_last_attempt(
    storage: Storage, tenant: str
) -> None:
    """By the same dispatcher, which has the attempt before in hand still: it fails as any other at its last one."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    lasts: list[bool] = []

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> None:
        lasts.append(context.last)
        if not context.last:
            await storage.policy_run_queue.end([LeaseResult.released(run, error="by hand")])
            await waits(run, context)
        raise OSError("the engine is away")

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options(tenant, attempts_max=2))
    working = asyncio.ensure_future(dispatcher.run())
    await until_so(lambda: _ended(storage, run))
    dispatcher.stop()
    await working
    assert [False, True] == lasts
    assert (2, "OSError: the engine is away") == ((failed := await now(storage, run)).attempts, failed.last_error)
    assert (0, 1) == (dispatcher.counts.exhausted, dispatcher.counts.failed)


async def test_a_run_whose_end_was_asked_for_is_canceled_at_its_last_attempt_too(storage: Storage, tenant: str) -> None:
    """It has what was asked for, whichever attempt it was that failed; and keeps why it did."""
    run = await storage.policy_runs.insert(policy_run(tenant))

    async def dispatch(run: PolicyRunJob, _context: DispatchContext) -> None:
        await PolicyRunService(storage.policy_runs).request_cancellation(tenant, run.run_id)
        raise OSError("the engine is away")

    await PolicyRunDispatcher(storage, dispatch, options=options(tenant, attempts_max=1)).run(until_empty=True)
    canceled = await now(storage, run)
    assert (Status.CANCELED, "OSError: the engine is away") == (canceled.status, canceled.last_error)


async def test_a_run_that_is_canceled_while_its_attempt_fails_is_not_tried_again(storage: Storage, tenant: str) -> None:
    """Given back, it is canceled in its place; and the log says so."""
    run = await storage.policy_runs.insert(policy_run(tenant))

    async def dispatch(run: PolicyRunJob, _context: DispatchContext) -> None:
        await PolicyRunService(storage.policy_runs).request_cancellation(tenant, run.run_id)
        raise OSError("the engine is away")

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options(tenant))
    await dispatcher.run(until_empty=True)

    canceled = await now(storage, run)
    (*_, event) = await storage.policy_runs.events(tenant, run.id)
    assert (Status.CANCELED, "OSError: the engine is away") == (canceled.status, canceled.last_error)
    assert (Status.CANCELED, "canceled") == (event.status, event.payload["to"])


async def test_a_dispatcher_that_stops_gives_back_what_it_holds_and_the_attempt_does_not_count(
    storage: Storage, tenant: str
) -> None:
    """However often: three deploys do not use up the attempts of a run."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    for deploy in range(3):
        dispatcher = PolicyRunDispatcher(storage, waits, options=options(tenant, attempts_max=2))
        working = asyncio.ensure_future(dispatcher.run())
        await until(lambda dispatcher=dispatcher: dispatcher.counts.leased == 1)  # type: ignore[misc]
        dispatcher.stop(grace=timedelta(0))
        await working
        back = await now(storage, run)
        assert (Status.PENDING, deploy + 1, None) == (back.status, back.attempts, back.last_error)
        assert 1 == dispatcher.counts.given_back

    lasts: list[bool] = []

    async def dispatch(_run: PolicyRunJob, context: DispatchContext) -> None:
        lasts.append(context.last)
        raise OSError("so")

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options(tenant, attempts_max=2))
    working = asyncio.ensure_future(dispatcher.run())
    await until(lambda: dispatcher.counts.failed == 1)
    dispatcher.stop()
    await working
    assert [False, True] == lasts
    assert 5 == (await now(storage, run)).attempts


async def test_a_live_run_is_renewed_for_as_long_as_its_function_runs(storage: Storage, tenant: str) -> None:
    """Well past its lease, beside another dispatcher that rescues; nobody else has it."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    lease = timedelta(seconds=1)
    go_on = asyncio.Event()
    leased_until: list[datetime | None] = []

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> None:
        leased_until.append(run.lease_expires_at)
        await go_on.wait()
        leased_until.append(context.job.lease_expires_at)

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options(tenant, lease=lease, name="holder"))
    other = PolicyRunDispatcher(storage, taken, options=options(tenant, lease=lease, name="other"))
    working = asyncio.gather(dispatcher.run(), other.run())
    await until(lambda: dispatcher.counts.leased + other.counts.leased == 1)
    if dispatcher.counts.leased:
        await asyncio.sleep(2.5 * lease.total_seconds())
        assert ("holder", 1) == ((held := await now(storage, run)).lease_owner, held.attempts)
    go_on.set()
    await until(lambda: dispatcher.counts.submitted + other.counts.submitted == 1)
    for one in (dispatcher, other):
        one.stop()
    await working
    if dispatcher.counts.leased:
        before, after = leased_until
        assert before is not None
        assert after is not None
        assert before + 2 * lease < after
    assert 0 == dispatcher.counts.rescued + other.counts.rescued
    assert ["pending", "dispatching", "submitted"] == await statuses(storage, run)


async def test_a_run_whose_dispatcher_is_gone_is_rescued_and_submitted(storage: Storage, tenant: str) -> None:
    """By another, after its lease ran out, at the next attempt; its log says why."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    await storage.policy_run_queue.lease("gone", timedelta(milliseconds=1), attempts_max=5, tenant_id=tenant)

    dispatcher = PolicyRunDispatcher(storage, taken, options=options(tenant, lease=timedelta(seconds=1)))
    working = asyncio.ensure_future(dispatcher.run())
    await until(lambda: dispatcher.counts.submitted == 1)
    dispatcher.stop()
    await working

    submitted = await now(storage, run)
    events = await storage.policy_runs.events(tenant, run.id)
    assert (2, 1) == (submitted.attempts, dispatcher.counts.rescued)
    assert ["pending", "dispatching", "pending", "dispatching", "submitted"] == [event.status for event in events]
    assert (True, "the dispatcher stopped sending heartbeats, and its lease expired") == (
        events[2].payload["rescued"],
        events[2].payload["error"],
    )


async def test_a_run_whose_dispatchers_are_gone_at_the_last_attempt_has_failed(storage: Storage, tenant: str) -> None:
    """It is not tried for ever."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    await storage.policy_run_queue.lease("gone", timedelta(milliseconds=1), attempts_max=1, tenant_id=tenant)
    dispatcher = PolicyRunDispatcher(
        storage, taken, options=options(tenant, lease=timedelta(seconds=1), attempts_max=1)
    )
    working = asyncio.ensure_future(dispatcher.run())
    await until(lambda: dispatcher.counts.rescued_to_fail == 1)
    dispatcher.stop()
    await working
    failed = await now(storage, run)
    assert Status.FAILED is failed.status
    assert "stopped sending heartbeats at attempt 1; at most 1 attempts are made" in str(failed.last_error)


async def test_a_run_that_was_lost_is_not_submitted_by_who_lost_it(
    storage: Storage, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else ended its lease meanwhile; the dispatcher says so, and changes nothing."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    go_on = asyncio.Event()

    async def dispatch(run: PolicyRunJob, _context: DispatchContext) -> None:
        await storage.policy_run_queue.end([LeaseResult.failed(run, "by hand")])
        go_on.set()

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options(tenant))
    with caplog.at_level(logging.WARNING):
        await dispatcher.run(until_empty=True)

    assert (1, 0) == (dispatcher.counts.lost, dispatcher.counts.submitted)
    assert Status.FAILED is (await now(storage, run)).status
    assert "a later read found the run failed at attempt 1" in caplog.text


async def test_emergencies_are_dispatched_first(storage: Storage, tenant: str) -> None:
    """Though they came last."""
    recent = datetime.now(UTC) - timedelta(minutes=1)  # no run of normal priority is overdue
    for priority in ("normal", "high", "emergency"):
        await storage.policy_runs.insert(policy_run(tenant, priority=priority, run_id=priority, available_at=recent))
    seen: list[str] = []

    async def dispatch(run: PolicyRunJob, _context: DispatchContext) -> None:
        seen.append(run.run_id)

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=options(tenant, concurrency=1))
    await dispatcher.run(until_empty=True)
    assert ["emergency", "high", "normal"] == seen


async def test_tenants_have_their_turns(graphjobs_storage: Storage) -> None:
    """However much one of them has, the others wait for one lease each."""
    storage = graphjobs_storage
    for number in range(12):
        await storage.policy_runs.insert(policy_run("a", run_id=f"{number}"))
    for tenant in ("b", "c"):
        await storage.policy_runs.insert(policy_run(tenant))
    seen: list[str] = []

    async def dispatch(run: PolicyRunJob, _context: DispatchContext) -> None:
        seen.append(run.tenant_id)

    dispatcher = PolicyRunDispatcher(storage, dispatch, options=DispatcherOptions(concurrency=1, poll=_SOON))
    await dispatcher.run(until_empty=True)
    assert {"a", "b", "c"} == set(seen[:3])
    assert 14 == len(seen)


async def test_a_notice_wakes_a_dispatcher_that_listens(graphjobs_settings: Any) -> None:
    """It does not wait for its poll."""
    from graphjobs import open_storage

    settings = graphjobs_settings.model_copy(update={"notify": True})
    async with open_storage(settings) as storage:
        dispatcher = PolicyRunDispatcher(
            storage, taken, options=DispatcherOptions(poll=timedelta(hours=1), listen=True)
        )
        working = asyncio.ensure_future(dispatcher.run())
        await asyncio.sleep(0.5)
        await storage.policy_runs.insert(policy_run("acme"))
        await until(lambda: dispatcher.counts.submitted == 1)
        dispatcher.stop()
        await working


async def test_what_is_no_function_is_refused_and_what_returns_something_has_handed_over(
    storage: Storage, tenant: str
) -> None:
    """A plain function ends the dispatcher with an error, and its run waits for those who can."""
    with pytest.raises(ConfigurationError, match="dispatch: it should be an `async def`"):
        PolicyRunDispatcher(storage, "dispatch")  # type: ignore[arg-type]
    run = await storage.policy_runs.insert(policy_run(tenant))

    def plain(_run: PolicyRunJob, _context: DispatchContext) -> None:
        return None

    dispatcher = PolicyRunDispatcher(storage, plain, options=options(tenant))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="cannot be awaited"):
        await dispatcher.run()
    assert Status.PENDING is (await now(storage, run)).status

    async def answers(_run: PolicyRunJob, _context: DispatchContext) -> str:
        return "taken"

    dispatcher = PolicyRunDispatcher(storage, answers, options=options(tenant))
    await dispatcher.run(until_empty=True)
    assert Status.SUBMITTED is (await now(storage, run)).status


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"attempts_max": 0}, "attempts_max"),
        ({"lease": timedelta(0)}, "lease"),
        ({"lease": timedelta(days=3650)}, "lease"),
        ({"name": "x" * 10_000}, "name"),
        ({"batch": 1_001}, "batch"),
        ({"backoff": timedelta(seconds=1)}, "backoff"),
    ],
)
def test_an_option_out_of_its_bounds_is_named(given: dict[str, Any], named: str) -> None:
    """Before anything is leased."""
    with pytest.raises(ConfigurationError, match=f"^{named}: "):
        DispatcherOptions(**given)


def test_the_back_off_doubles_up_to_its_cap_and_is_cut_at_random() -> None:
    """By up to a half, so that many do not come back at once; and no number of attempts overflows it."""
    backoff = RetryBackoff(first=timedelta(seconds=1), cap=timedelta(seconds=10))
    whole = [backoff.after(attempts, jitter=lambda: 0.0).total_seconds() for attempts in (1, 2, 3, 4, 5, 99_999)]
    halved = [backoff.after(attempts, jitter=lambda: 1.0).total_seconds() for attempts in (1, 5)]
    assert [1, 2, 4, 8, 10, 10] == whole
    assert [0.5, 5] == halved
    assert len({backoff.after(3) for _ in range(20)}) > 1
