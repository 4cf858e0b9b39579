"""The dispatcher of policy runs on a real database: retries, rejections, cancellations, lost leases and priorities."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from graphjobs import ConfigurationError, PolicyRunDispatcher, PolicyRunJob, PolicyRunRejected, PolicyRunStatus
from graphjobs.policy_runs.attempt_results import LeaseResult, RetryBackoff
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.storage import Storage
from graphjobs.worker import DispatchContext
from tests.builders import policy_run
from tests.worker.twins import RunTwin, execute
from tests.worker.worker_control import Handler, run_until, wait_forever, wait_until, working

Status = PolicyRunStatus


@pytest.fixture
def twin(storage: Storage, tenant: str) -> RunTwin:
    """Return the runs of a tenant."""
    return RunTwin(storage, tenant)


@pytest_asyncio.fixture
async def run(twin: RunTwin) -> PolicyRunJob:
    """A pending run."""
    added: PolicyRunJob = await twin.add()
    return added


async def _fail(_run: PolicyRunJob, _context: DispatchContext) -> None:
    raise OSError("the engine is away")


def _fail_and_record(final: list[bool]) -> Handler:
    """Build a function that fails, after it has recorded whether the attempt is the final one."""

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> Any:
        final.append(context.is_final_attempt)
        await _fail(run, context)

    return dispatch


async def _request_cancellation(storage: Storage, run: PolicyRunJob, reason: str | None = None) -> PolicyRunJob:
    service = PolicyRunService(storage.policy_runs)
    return await service.request_cancellation(run.tenant_id, run.run_id, reason=reason)


# Retries


async def test_a_failed_attempt_is_retried_until_no_attempt_is_left(twin: RunTwin, run: PolicyRunJob) -> None:
    """Each attempt stores its error; the context reports the final attempt."""
    final: list[bool] = []
    dispatcher = twin.worker(_fail_and_record(final), attempts_max=3)
    await run_until(dispatcher, lambda: dispatcher.stats.failed == 1)

    failed = await twin.get(run)
    assert [False, False, True] == final
    assert (Status.FAILED, 3, "OSError: the engine is away") == (failed.status, failed.attempts, failed.last_error)
    assert (2, 1, 3) == (dispatcher.stats.retried, dispatcher.stats.failed, dispatcher.stats.leased)
    assert ["pending", *["dispatching", "pending"] * 2, "dispatching", "failed"] == await twin.statuses(run)


async def test_the_next_attempt_waits_for_the_back_off(twin: RunTwin, run: PolicyRunJob, tenant: str) -> None:
    backoff = RetryBackoff(first=timedelta(minutes=10), cap=timedelta(hours=1))

    await twin.worker(_fail, backoff=backoff).run(until_empty=True)

    released = await twin.get(run)
    wait = released.available_at - released.updated_at
    assert (Status.PENDING, "OSError: the engine is away") == (released.status, released.last_error)
    assert timedelta(minutes=5) <= wait <= timedelta(minutes=10)
    queue = twin.storage.policy_run_queue
    assert () == (await queue.lease("another", timedelta(minutes=1), attempts_max=5, tenant_id=tenant)).runs


async def test_a_rejected_run_fails_at_once(twin: RunTwin, run: PolicyRunJob) -> None:

    async def dispatch(_run: PolicyRunJob, _context: DispatchContext) -> None:
        raise PolicyRunRejected("there is no such policy")

    await twin.worker(dispatch).run(until_empty=True)

    failed = await twin.get(run)
    assert (Status.FAILED, 1) == (failed.status, failed.attempts)
    assert "PolicyRunRejected: there is no such policy" == failed.last_error


async def test_released_attempts_do_not_count(twin: RunTwin, run: PolicyRunJob) -> None:
    """Three deployments do not use up the attempts of a run."""
    for deployment in range(3):
        dispatcher = twin.worker(wait_forever, attempts_max=2, grace=timedelta(0))
        await run_until(dispatcher, lambda dispatcher=dispatcher: dispatcher.stats.leased == 1)  # type: ignore[misc]
        released = await twin.get(run)
        assert (Status.PENDING, deployment + 1, None) == (released.status, released.attempts, released.last_error)
        assert 1 == dispatcher.stats.released

    final: list[bool] = []
    dispatcher = twin.worker(_fail_and_record(final), attempts_max=2)
    await run_until(dispatcher, lambda: dispatcher.stats.failed == 1)
    assert [False, True] == final
    assert 5 == (await twin.get(run)).attempts


# Cancellations


async def test_a_leased_run_is_canceled_at_the_next_heartbeat(twin: RunTwin, run: PolicyRunJob) -> None:
    """The function is cancelled, its context reports it, and nothing is submitted."""
    contexts: list[DispatchContext] = []

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> None:
        contexts.append(context)
        requested = await _request_cancellation(twin.storage, run, "not needed")
        assert (Status.DISPATCHING, True) == (requested.status, requested.cancellation_requested)
        await wait_forever(run, context)

    dispatcher = twin.worker(dispatch, lease=timedelta(seconds=1))
    await run_until(dispatcher, lambda: dispatcher.stats.canceled == 1)

    canceled = await twin.get(run)
    assert contexts[0].cancelled
    assert (Status.CANCELED, "not needed") == (canceled.status, canceled.cancellation_reason)
    assert canceled.submitted_at is None
    assert ["pending", "dispatching", "dispatching", "canceled"] == await twin.statuses(run)


async def test_renew_reports_a_cancellation_request(twin: RunTwin, run: PolicyRunJob) -> None:
    """A function that returns after such a report has not submitted the run, which otherwise would wait forever."""
    renewed: list[bool] = []

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> None:
        renewed.append(await context.renew())
        await _request_cancellation(twin.storage, run)
        renewed.append(await context.renew())
        assert context.job.cancellation_requested

    dispatcher = twin.worker(dispatch)
    await dispatcher.run(until_empty=True)

    canceled = await twin.get(run)
    assert [True, False] == renewed
    assert (Status.CANCELED, None) == (canceled.status, canceled.submitted_at)
    assert 1 == dispatcher.stats.canceled


@pytest.mark.parametrize(
    ("cause", "status", "expected"),
    [
        ("request", Status.CANCELED, (1, 0, 0)),
        ("time limit", Status.FAILED, (0, 1, 0)),
        ("stop", Status.PENDING, (0, 0, 1)),
    ],
)
async def test_a_function_that_ignores_its_cancellation_has_submitted_nothing(
    twin: RunTwin, run: PolicyRunJob, cause: str, status: PolicyRunStatus, expected: tuple[int, int, int]
) -> None:
    """Its return does not mean that the policy engine has the run, whatever the cause of the cancellation."""
    started = asyncio.Event()

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> None:
        started.set()
        try:
            await wait_forever(run, context)
        except asyncio.CancelledError:
            return

    limit = timedelta(milliseconds=50) if cause == "time limit" else timedelta(minutes=1)
    dispatcher = twin.worker(dispatch, lease=timedelta(seconds=1), time_limit=limit, attempts_max=1)

    async def has_expected_stats() -> bool:
        return expected == (dispatcher.stats.canceled, dispatcher.stats.failed, dispatcher.stats.released)

    running = asyncio.ensure_future(run_until(dispatcher, has_expected_stats))
    await started.wait()
    if cause == "request":
        await _request_cancellation(twin.storage, run)
    elif cause == "stop":
        dispatcher.stop(grace=timedelta(0))
    await running
    stored = await twin.get(run)
    assert (status, None) == (stored.status, stored.submitted_at)


@pytest.mark.parametrize("attempts_max", [1, 5])
async def test_a_run_with_a_cancellation_request_is_canceled_if_its_attempt_fails(
    twin: RunTwin, run: PolicyRunJob, attempts_max: int
) -> None:
    """It is neither failed after the last attempt nor retried after an earlier one, and keeps the error."""

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> None:
        await _request_cancellation(twin.storage, run)
        await _fail(run, context)

    await twin.worker(dispatch, attempts_max=attempts_max).run(until_empty=True)

    canceled = await twin.get(run)
    (*_, event) = await twin.events(run)
    assert (Status.CANCELED, "OSError: the engine is away") == (canceled.status, canceled.last_error)
    assert (Status.CANCELED, "canceled") == (event.status, event.payload["to"])


# Lost leases


async def test_a_run_lost_unnoticed_and_leased_again_fails_at_its_final_attempt(
    twin: RunTwin, run: PolicyRunJob
) -> None:
    """The dispatcher still has the earlier attempt in flight."""
    final: list[bool] = []

    async def dispatch(run: PolicyRunJob, context: DispatchContext) -> None:
        final.append(context.is_final_attempt)
        if not context.is_final_attempt:
            await twin.storage.policy_run_queue.end([LeaseResult.released(run, error="by hand")])
            await wait_forever(run, context)
        await _fail(run, context)

    dispatcher = twin.worker(dispatch, attempts_max=2)

    async def has_ended() -> bool:
        status: PolicyRunStatus = (await twin.get(run)).status
        return status.is_final

    await run_until(dispatcher, has_ended)
    failed = await twin.get(run)
    assert [False, True] == final
    assert (2, "OSError: the engine is away") == (failed.attempts, failed.last_error)
    assert (0, 1) == (dispatcher.stats.exhausted, dispatcher.stats.failed)


async def test_a_lost_run_is_not_submitted(twin: RunTwin, run: PolicyRunJob, caplog: pytest.LogCaptureFixture) -> None:
    """Another process ended its lease; the dispatcher reports it and changes nothing."""

    async def dispatch(run: PolicyRunJob, _context: DispatchContext) -> None:
        await twin.storage.policy_run_queue.end([LeaseResult.failed(run, "by hand")])

    dispatcher = twin.worker(dispatch)
    with caplog.at_level(logging.WARNING):
        await dispatcher.run(until_empty=True)

    assert (1, 0) == (dispatcher.stats.lost, dispatcher.stats.submitted)
    assert (Status.FAILED, 1) == await twin.status(run)
    assert "a later read found the run failed at attempt 1" in caplog.text


# Order


async def _dispatched_in_order(twin: RunTwin) -> list[PolicyRunJob]:
    """Dispatch all runs one by one, and return them in their order."""
    runs: list[PolicyRunJob] = []

    async def dispatch(run: PolicyRunJob, _context: DispatchContext) -> None:
        runs.append(run)

    await twin.worker(dispatch, concurrency=1).run(until_empty=True)
    return runs


async def test_emergencies_are_dispatched_first(twin: RunTwin, storage: Storage, tenant: str) -> None:
    recent = datetime.now(UTC) - timedelta(minutes=1)  # no run of normal priority is overdue
    for priority in ("normal", "high", "emergency"):
        await storage.policy_runs.insert(policy_run(tenant, priority=priority, run_id=priority, available_at=recent))
    assert ["emergency", "high", "normal"] == [run.run_id for run in await _dispatched_in_order(twin)]


async def test_tenants_are_served_in_rotation(graphjobs_storage: Storage) -> None:
    """Tenants wait for one lease of each other tenant, however many runs that tenant has."""
    twin = RunTwin(graphjobs_storage, None)
    for tenant in (*["a"] * 12, "b", "c"):
        await twin.add(tenant)
    order = [run.tenant_id for run in await _dispatched_in_order(twin)]
    assert {"a", "b", "c"} == set(order[:3])
    assert 14 == len(order)


async def test_a_run_from_when_the_clock_was_ahead_is_dispatched(twin: RunTwin, run: PolicyRunJob) -> None:
    """The server's clock was a day ahead when the run was added: it would wait for a day."""
    await execute(
        twin.storage,
        "UPDATE scheduler.policy_runs SET updated_at = now() + interval '1 day', queued_at = now() + interval '1 day',"
        " available_at = now() + interval '1 day' WHERE id = $1",
        run.id,
    )
    worker = twin.worker(lease=timedelta(seconds=1))
    async with working(worker):
        await wait_until(lambda: twin.finished_by(worker) == 1)
    assert (Status.SUBMITTED, 1) == await twin.status(run)
    assert ["pending", "dispatching", "submitted"] == await twin.statuses(run)


async def test_an_invalid_function_is_refused_and_any_return_value_submits(
    twin: RunTwin, run: PolicyRunJob, storage: Storage
) -> None:
    """The return value of a dispatch function is ignored."""
    with pytest.raises(ConfigurationError, match="dispatch must be an `async def` function"):
        PolicyRunDispatcher(storage, "dispatch")  # type: ignore[arg-type]

    async def dispatch(_run: PolicyRunJob, _context: DispatchContext) -> str:
        return "submitted"

    await twin.worker(dispatch).run(until_empty=True)
    assert (Status.SUBMITTED, 1) == await twin.status(run)
