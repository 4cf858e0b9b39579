"""Rules of the worker and the dispatcher alike, on a real database: claims, heartbeats, rescues and the shutdown."""

import asyncio
import logging
import sys
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timedelta
from typing import Any

import pytest

from graphjobs import ConfigurationError, open_storage
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.storage import Storage
from graphjobs.worker import BuildResult
from tests.worker.twins import TWINS, JobTwin, Twin
from tests.worker.worker_control import run_until, wait_forever, wait_until, working

_LEASE = timedelta(seconds=1)


@pytest.fixture(params=[*TWINS.values()], ids=[*TWINS])
def twin_class(request: pytest.FixtureRequest) -> Any:
    """Return the twin of jobs, then that of runs."""
    return request.param


@pytest.fixture
def twin(twin_class: Any, storage: Storage, tenant: str) -> Twin:
    """Return a twin on the shared database, with a tenant of its own."""
    built: Twin = twin_class(storage, tenant)
    return built


# Claims


async def test_each_item_is_processed_once_within_the_concurrency_limit(twin: Twin, tenant: str) -> None:
    """Several workers share the queue, and each handler gets the item as it was claimed."""
    number = 400 if isinstance(twin, JobTwin) else 60
    items = await twin.add_many(number, tenant)
    at_once, at_once_max, processed = 0, 0, []

    async def handler(item: Any, context: Any) -> BuildResult:
        nonlocal at_once, at_once_max
        assert (item, twin.running, 1) == (context.job, item.status.value, item.attempts)
        at_once += 1
        at_once_max = max(at_once_max, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        processed.append(item.id)
        return BuildResult("graph")

    workers = [twin.worker(handler, name=f"worker-{index}", concurrency=5, batch=3) for index in range(4)]
    await asyncio.gather(*(worker.run(until_empty=True) for worker in workers))

    assert sorted(item.id for item in items) == sorted(processed)
    assert at_once_max <= 20
    assert number == sum(twin.finished_by(worker) for worker in workers)
    assert {(twin.finished, 1)} == {await twin.status(item) for item in items}
    for item in items[:30]:
        assert [twin.queued, twin.running, twin.finished] == await twin.statuses(item)


async def test_a_handler_that_is_not_async_fails_no_item(twin: Twin, tenant: str) -> None:
    """The worker ends with an error, and its items return to the queue."""
    items = await twin.add_many(5, tenant)

    def handler(_item: object, _context: object) -> BuildResult:
        return BuildResult("graph")

    worker = twin.worker(handler)
    with pytest.raises(ConfigurationError, match="handler is not asynchronous: define it with `async def`"):
        await asyncio.wait_for(worker.run(), 10)

    assert {twin.queued} == {(await twin.get(item)).status.value for item in items}


async def test_a_handler_beyond_its_time_limit_is_cancelled_and_its_attempt_fails(twin: Twin) -> None:
    """Its context reports the cancellation; a policy run gets another attempt."""
    item = await twin.add()
    cancelled: list[bool] = []

    async def handler(item: Any, context: Any) -> BuildResult:
        try:
            return await wait_forever(item, context)
        finally:
            cancelled.append(context.cancelled)

    worker = twin.worker(handler, time_limit=timedelta(milliseconds=50), attempts_max=2)
    await run_until(worker, lambda: worker.stats.failed == 1)

    attempts = 1 if isinstance(twin, JobTwin) else 2
    assert [True] * attempts == cancelled
    assert ("failed", attempts) == await twin.status(item)
    assert "the handler exceeded its time limit of 0:00:00.050000" == await twin.error(item)


async def test_an_observer_that_raises_is_logged_and_affects_no_item(
    twin: Twin, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The items are finished, and the others are processed."""
    items = await twin.add_many(3, tenant)

    def on_ended(_result: object) -> None:
        raise ValueError("the observer")

    worker = twin.worker(batch=1, on_ended=on_ended)
    with caplog.at_level(logging.ERROR):
        await worker.run(until_empty=True)

    assert 3 == twin.finished_by(worker)
    assert Counter({twin.finished: 3}) == Counter([(await twin.get(item)).status.value for item in items])
    assert "observer" in caplog.text


async def test_a_notification_wakes_a_worker_with_a_long_poll(twin_class: type[Twin], graphjobs_settings: Any) -> None:
    """The storage must notify and the worker must listen."""
    async with open_storage(graphjobs_settings.model_copy(update={"notify": True})) as storage:
        twin = twin_class(storage, "acme")
        ended = asyncio.Event()
        worker = twin.worker(poll=timedelta(hours=1), listen=True, on_ended=lambda _result: ended.set())
        async with working(worker):
            for _ in range(3):
                await asyncio.sleep(0.2)
                ended.clear()
                await twin.add()
                await asyncio.wait_for(ended.wait(), 5)
    assert 3 == twin.finished_by(worker)


# Heartbeats and rescues


async def test_a_running_item_gets_heartbeats_and_is_not_rescued(twin: Twin) -> None:
    """It runs for several leases, beside a worker that rescues."""
    item = await twin.add()
    values: list[Any] = []
    proceed = asyncio.Event()

    async def handler(_item: object, context: Any) -> BuildResult:
        values.append(context.job)
        await proceed.wait()
        values.append(context.job)
        return BuildResult("graph")

    worker = twin.worker(handler, name="holder", lease=_LEASE, rescue=False)
    rescuer = twin.worker(name="rescuer", lease=_LEASE)
    async with working(worker):
        await wait_until(lambda: twin.claimed_by(worker) == 1)
        async with working(rescuer):
            await asyncio.sleep(3.5 * _LEASE.total_seconds())
            held = await twin.get(item)
            proceed.set()
            await wait_until(lambda: twin.finished_by(worker) == 1)

    assert (0, 0) == (rescuer.stats.rescued, twin.claimed_by(rescuer))
    assert (twin.finished, 1) == await twin.status(item)
    assert [twin.queued, twin.running, twin.finished] == await twin.statuses(item)
    before, after = map(_heartbeat_time, values)
    assert before + 2 * _LEASE < after
    assert not isinstance(held, PolicyRunJob) or "holder" == held.lease_owner


def _heartbeat_time(item: Any) -> datetime:
    heartbeat_time = item.lease_expires_at if isinstance(item, PolicyRunJob) else item.updated_at
    assert isinstance(heartbeat_time, datetime)
    return heartbeat_time


async def test_the_item_of_a_dead_worker_is_rescued_and_finished(twin: Twin) -> None:
    """Another worker finishes it at the next attempt, and the event log names the reason."""
    item = await twin.add()
    await twin.claim_without_worker()

    worker = twin.worker(lease=_LEASE)
    await run_until(worker, lambda: twin.finished_by(worker) == 1)

    assert (twin.finished, 2) == await twin.status(item)
    assert 1 == worker.stats.rescued
    assert [twin.queued, twin.running] * 2 + [twin.finished] == await twin.statuses(item)
    rescue = list(await twin.events(item))[2].payload
    assert rescue["rescued"] is True
    reason = "the dispatcher stopped sending heartbeats, and its lease expired"
    assert isinstance(twin, JobTwin) or reason == rescue["error"]


async def test_the_item_of_a_dead_worker_fails_after_its_last_attempt(twin: Twin) -> None:
    item = await twin.add()
    await twin.claim_without_worker(attempts_max=1)

    worker = twin.worker(lease=_LEASE, attempts_max=1)
    await run_until(worker, lambda: worker.stats.rescue_failed == 1)

    assert ("failed", 1) == await twin.status(item)
    reason = "stopped sending heartbeats at attempt 1; at most 1 attempts are made"
    assert reason in list(await twin.events(item))[-1].payload["error"]


# Shutdown


async def test_a_stopped_worker_lets_handlers_end_in_the_grace_period(twin: Twin) -> None:
    """It claims no more, and the context reports the stop."""
    items = [await twin.add() for _ in range(2)]
    stopping: list[bool] = []

    async def handler(_item: object, context: Any) -> BuildResult:
        worker.stop()
        await asyncio.sleep(0.05)
        stopping.append(context.stopping)
        return BuildResult("graph")

    worker = twin.worker(handler, concurrency=1)
    await asyncio.wait_for(worker.run(), 5)

    assert [True] == stopping
    assert Counter([twin.finished, twin.queued]) == Counter([(await twin.get(item)).status.value for item in items])
    assert 0 == worker.in_flight


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenProcessPool("a child died")])
async def test_an_item_is_released_if_the_signal_to_stop_also_ends_its_processes(
    twin: Twin, error: BaseException
) -> None:
    """A signal reaches the whole process group: the item is not the cause."""
    item = await twin.add()

    async def handler(_item: object, _context: object) -> BuildResult:
        worker.stop()
        raise error

    worker = twin.worker(handler, concurrency=1)  # no other claim runs when the item is released
    await asyncio.wait_for(worker.run(), 10)

    assert (twin.queued, 1) == await twin.status(item)
    assert 1 == worker.stats.released


async def test_the_end_of_the_grace_period_releases_the_rest(twin: Twin) -> None:
    items = [await twin.add() for _ in range(3)]
    worker = twin.worker(wait_forever, grace=timedelta(milliseconds=50))
    await run_until(worker, lambda: twin.claimed_by(worker) == 3)

    assert 3 == worker.stats.released
    for item in items:
        assert (twin.queued, 1) == await twin.status(item)
        assert [twin.queued, twin.running, twin.queued] == await twin.statuses(item)


async def test_a_cancelled_worker_releases_its_items_at_once(twin: Twin) -> None:
    """The cancellation is raised only after that, and a second one changes nothing."""
    item = await twin.add()
    worker = twin.worker(wait_forever, grace=timedelta(hours=1))
    running = asyncio.ensure_future(worker.run())
    await wait_until(lambda: twin.claimed_by(worker) == 1)
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 5)

    assert twin.queued == (await twin.get(item)).status.value


async def test_a_second_stop_shortens_the_grace_period(twin: Twin) -> None:
    """As a user who presses Ctrl-C twice expects."""
    await twin.add()
    worker = twin.worker(wait_forever, grace=timedelta(hours=1))
    async with asyncio.timeout(5), working(worker, grace=timedelta(0)):
        await wait_until(lambda: twin.claimed_by(worker) == 1)
        worker.stop()

    assert 1 == worker.stats.released


async def test_a_worker_runs_only_once(twin: Twin) -> None:
    """Stopped before its start, it ends at once. It does not start again."""
    worker = twin.worker()
    worker.stop()
    await asyncio.wait_for(worker.run(), 5)
    with pytest.raises(ConfigurationError, match=f"a {type(worker).__name__} runs only once"):
        await worker.run()


_ENDS_ITS_EVENT_LOOP = """
import asyncio, sys
from graphjobs import open_storage
from graphjobs.settings import Settings
from tests.worker.twins import TWINS
from tests.worker.worker_control import wait_forever

async def main():
    storage = await open_storage(Settings.load(database_url=sys.argv[1])).__aenter__()
    twin = TWINS[sys.argv[2]](storage, "acme")
    worker = twin.worker(wait_forever)
    tasks.append(asyncio.ensure_future(worker.run()))
    while twin.claimed_by(worker) < 5:
        await asyncio.sleep(0.01)

tasks = []
asyncio.run(main())
"""


@pytest.mark.parametrize("kind", TWINS)
async def test_the_end_of_the_event_loop_releases_all_items(
    graphjobs_storage: Storage, graphjobs_settings: Any, kind: str
) -> None:
    """`asyncio.run` cancels all tasks at once."""
    twin = TWINS[kind](graphjobs_storage, "acme")
    items = await twin.add_many(5, "acme")
    url = graphjobs_settings.database_url.get_secret_value()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _ENDS_ITS_EVENT_LOOP, url, kind)
    assert 0 == await asyncio.wait_for(process.wait(), 20)
    for item in items:
        assert [twin.queued, twin.running, twin.queued] == await twin.statuses(item)
