"""Calls on policy runs cancelled at every await: no backend stays busy, no connection leaks, no row is half changed."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import pytest
from sqlalchemy import text

from graphjobs import PolicyRunJob, open_storage
from graphjobs.core.results import StalledItem
from graphjobs.policy_runs.attempt_results import LeaseResult
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of
from tests.contract.domains import MINUTE
from tests.faults.backend_monitor import Watch, checked_out, with_settings
from tests.faults.cancel_at_await import Cancel, cancel_twice, cancelled_at_each_await


@dataclass(frozen=True)
class Scene:
    """The runs of one tenant: a pending, an exhausted and a leased one, and one that is not stored."""

    pending: PolicyRunJob
    exhausted: PolicyRunJob
    leased: PolicyRunJob
    new: PolicyRunJob

    @property
    def tenant(self) -> str:
        """The tenant of the runs."""
        return self.leased.tenant_id


Call = Callable[[PolicyRunRepository, Scene], Coroutine[Any, Any, object]]
# Each call, and the states it may leave runs in: of a run's status and the length of its log, before and after.
BEFORE: Final = {"pending": ("pending", 1), "exhausted": ("pending", 1), "leased": ("dispatching", 2), "new": None}
CALLS: Final[dict[str, tuple[Call, dict[str, Any]]]] = {
    "insert": (lambda runs, scene: runs.insert(scene.new), {"new": ("pending", 1)}),
    "get": (lambda runs, scene: runs.get(scene.tenant, scene.leased.id), {}),
    "list": (lambda runs, scene: runs.list(scene.tenant), {}),
    "lease": (
        lambda runs, scene: queue_of(runs).lease("B", MINUTE, attempts_max=3, limit=9, tenant_id=scene.tenant),
        {"pending": ("dispatching", 2), "exhausted": ("failed", 3)},
    ),
    "renew": (lambda runs, scene: queue_of(runs).renew([scene.leased], timedelta(hours=1)), {}),
    "end": (
        lambda runs, scene: queue_of(runs).end([LeaseResult.submitted(scene.leased)]),
        {"leased": ("submitted", 3)},
    ),
    "replace": (
        lambda runs, scene: runs.replace(scene.leased.fail(at=AT, error="no engine"), "A"),
        {"leased": ("failed", 3)},
    ),
    "expired": (lambda runs, scene: queue_of(runs).expired(tenant_id=scene.tenant), {}),
    "bring forward": (lambda runs, scene: queue_of(runs).bring_forward(MINUTE, tenant_id=scene.tenant), {}),
    "rescue": (
        lambda runs, scene: queue_of(runs).rescue(
            [StalledItem(scene.leased.id, scene.tenant, scene.leased.updated_at, 1)], attempts_max=3
        ),
        {"leased": ("pending", 3)},
    ),
    "metrics": (lambda runs, scene: runs.metrics(scene.tenant), {}),
    "request cancellation": (
        lambda runs, scene: PolicyRunService(runs).request_cancellation(scene.tenant, scene.leased.run_id),
        {"leased": ("dispatching", 3)},
    ),
}
# A lease that fails an exhausted run needs two statements: the log may have only the first.
BETWEEN: Final = {("lease", "exhausted"): ("dispatching", 2)}


async def alone(storage: Storage, call: Call, scene: Scene) -> None:
    """Make a call in autocommit."""
    await call(storage.policy_runs, scene)


async def in_session(storage: Storage, call: Call, scene: Scene) -> None:
    """Make a call between two statements of a session, and commit."""
    async with storage.session() as session, session.begin():
        await session.execute(text("SELECT 1"))
        await call(storage.policy_runs.using(session), scene)
        await session.execute(text("SELECT 2"))


WAYS = {"alone": alone, "in a session": in_session}


async def set_scene(storage: Storage, tenant: str) -> Scene:
    """Store the runs."""
    runs = storage.policy_runs
    await runs.insert(policy_run(tenant))
    (leased,) = (await storage.policy_run_queue.lease("A", MINUTE, attempts_max=9, tenant_id=tenant)).runs
    pending, exhausted = await runs.insert(policy_run(tenant)), await runs.insert(policy_run(tenant, attempts=3))
    return Scene(pending, exhausted, leased, policy_run(tenant))


async def states(storage: Storage, scene: Scene) -> dict[str, Any]:
    """Assert that each run agrees with its log, and return the status and the length of the log of each run."""
    found: dict[str, Any] = {}
    for name in BEFORE:
        run_id = getattr(scene, name).id
        run = await storage.policy_runs.get(scene.tenant, run_id)
        events = await storage.policy_runs.events(scene.tenant, run_id)
        if run is None:
            assert () == events
            found[name] = None
            continue
        assert run.status is events[-1].status
        assert run.attempts == events[-1].payload["attempts"]
        assert run.updated_at >= events[-1].created_at
        found[name] = (run.status.value, len(events))
    return found


WAYS_AND_HOWS = [pytest.param(way, how, id=f"{way}-{how.name.lower()}") for way, how in itertools.product(WAYS, Cancel)]


@pytest.mark.parametrize(("way", "how"), WAYS_AND_HOWS)
@pytest.mark.parametrize("verb", CALLS)
async def test_a_call_may_be_cancelled_at_any_await(
    small: Storage, storage: Storage, shared_watch: Watch, tenant: str, verb: str, way: str, how: Cancel
) -> None:
    """Each run is in the state before or after the call, its log agrees, and the storage stays usable."""
    call, after = CALLS[verb]
    scenes: list[Scene] = []

    async def begin() -> Coroutine[Any, Any, None]:
        scenes.append(await set_scene(storage, f"{tenant}-{len(scenes)}"))
        return WAYS[way](small, call, scenes[-1])

    async def check(is_cancelled: bool) -> None:
        scene = scenes[-1]
        assert (0, 0) == checked_out(small)
        await shared_watch.until_settled(seconds=3)
        found = await states(storage, scene)
        for name, state in found.items():
            legal = [BEFORE[name]]
            if name in after:
                legal = [after[name], BEFORE[name], BETWEEN.get((verb, name))] if is_cancelled else [after[name]]
            assert state in legal, (name, legal)
        run = await small.policy_runs.get(scene.tenant, scene.leased.id)
        assert run is not None
        if verb == "renew":
            # The end of the lease and the version, both or neither.
            assert (run.updated_at == scene.leased.updated_at) == (
                run.lease_expires_at == scene.leased.lease_expires_at
            )
        async with small.session() as session, session.begin():
            assert run == await small.policy_runs.using(session).get(scene.tenant, scene.leased.id)
        assert (0, 0) == checked_out(small)

    runs = await cancelled_at_each_await(begin, how, check)

    assert runs > (1 if way == "alone" else 3)


@pytest.mark.parametrize("way", ["alone", "in a session"])
@pytest.mark.parametrize("verb", ["replace", "request cancellation"])
async def test_an_update_that_is_cancelled_while_it_waits_ends_at_the_server_too(
    shared_settings: Settings, storage: Storage, shared_watch: Watch, tenant: str, way: str, verb: str
) -> None:
    """It must not stay at the server, where it would hold locks or be applied after the lock."""
    scene = await set_scene(storage, tenant)
    async with open_storage(with_settings(shared_settings, pool_size=8)) as small:
        async with shared_watch.holding(scene.leased.id, table="policy_runs"):
            tasks = [asyncio.create_task(WAYS[way](small, CALLS[verb][0], scene)) for _ in range(8)]
            await shared_watch.until_waiting(8)
            await cancel_twice(tasks)
            await asyncio.wait(tasks, timeout=5)
            assert [True] * 8 == [task.cancelled() for task in tasks]
            await shared_watch.until_settled(seconds=3)
        assert (0, 0) == checked_out(small)
    assert BEFORE == await states(storage, scene)


@pytest.mark.parametrize("way", ["alone", "in a session"])
async def test_an_insertion_that_is_cancelled_while_it_waits_ends_at_the_server_too(
    small: Storage, storage: Storage, shared_watch: Watch, tenant: str, way: str
) -> None:
    """The other insertion of the run id is rolled back afterwards: the cancelled one is not applied."""
    scene = await set_scene(storage, tenant)
    async with storage.session() as session:
        await storage.policy_runs.using(session).insert(policy_run(tenant, run_id=scene.new.run_id))
        waiting = asyncio.create_task(WAYS[way](small, CALLS["insert"][0], scene))
        await shared_watch.until_waiting()
        waiting.cancel()
        await asyncio.wait([waiting], timeout=5)
        assert waiting.cancelled()
        await session.rollback()
    await shared_watch.until_settled(seconds=3)
    assert (0, 0) == checked_out(small)
    assert BEFORE == await states(storage, scene)
