"""Concurrent calls of a queue for one item, ordered by row locks: one call wins, and the log shows which."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import pytest

from graphjobs import DatabaseUnavailable
from graphjobs.core.results import RescueResult
from graphjobs.core.transitions import UpdateOutcome
from graphjobs.storage import Storage
from tests.contract.calls import params
from tests.contract.domains import DOMAINS, Domain, Heartbeat
from tests.faults.backend_monitor import Watch

NOT_RESCUED: Final = RescueResult((), ())
RESULTS: Final = params((domain, name) for domain in DOMAINS for name in domain.results)
UPDATES: Final = params((domain, name) for domain in DOMAINS for name in domain.updates)
SCOPES: Final = pytest.mark.parametrize("all_tenants", [False, True], ids=["one tenant", "all tenants"])
FAST_SECONDS: Final = 5
"""A call that takes longer has waited for a lock."""


@pytest.fixture
def own(domain: Domain, graphjobs_storage: Storage) -> Domain:
    """The domain on a database of this test, for claims of all tenants."""
    return dataclasses.replace(domain.on(graphjobs_storage), tenant="acme")


def ids(items: Sequence[Any]) -> list[Any]:
    """Return the ids of items in order."""
    return [item.id for item in items]


# Rescues, results and heartbeats


@pytest.mark.parametrize("other", ["complete", "renew", "rescue"])
async def test_a_rescue_skips_an_item_that_another_call_changes(domain: Domain, other: str) -> None:
    """It does not wait for the lock of the uncommitted call; after the commit the item has a newer version."""
    item = await domain.add_started()
    async with domain.transaction() as first:
        await getattr(first, other)(item)
        async with asyncio.timeout(FAST_SECONDS):
            during = await domain.rescue(item)
    assert (NOT_RESCUED, NOT_RESCUED) == (during, await domain.rescue(item))
    log = {"complete": [domain.finished], "renew": [], "rescue": [domain.waiting]}[other]
    assert [domain.waiting, domain.started, *log] == await domain.log(item)
    assert (await domain.log(item))[-1] == (await domain.read(item)).status


@pytest.mark.parametrize(("domain", "result"), RESULTS, indirect=["domain"])
async def test_a_result_that_meets_a_rescue_is_lost(domain: Domain, result: str) -> None:
    """It does not wait: the item is busy while the rescue is in progress, and lost after its commit."""
    item = await domain.add_started()
    async with domain.transaction() as rescuer:
        rescued = await rescuer.rescue(item)
        async with asyncio.timeout(FAST_SECONDS):
            during = await domain.finish(domain.results[result](item))
    after = await domain.finish(domain.results[result](item))
    found = await domain.read(item)
    assert RescueResult((item.id,), ()) == rescued
    assert ({}, {}, frozenset({item.id})) == (during.versions, during.lost, during.busy)
    reason = domain.lost_reason(item, domain.waiting, 1)
    assert ({}, {item.id: reason}, frozenset()) == (after.versions, after.lost, after.busy)
    assert domain.released(item, found) == found
    assert [domain.waiting, domain.started, domain.waiting] == await domain.log(item)


async def test_a_result_that_meets_a_rescue_that_rolls_back_is_stored(domain: Domain) -> None:
    """An uncommitted rescue does not fence."""
    item = await domain.add_started()
    async with domain.storage.session() as session:
        await domain.using(session).rescue(item)
        during = await domain.complete(item)
        await session.rollback()
    after = await domain.complete(item)
    assert ([item.id], [item.id]) == (list(during.busy), list(after.versions))
    assert [domain.waiting, domain.started, domain.finished] == await domain.log(item)


async def test_a_result_that_meets_a_heartbeat_is_stored(domain: Domain) -> None:
    """A heartbeat changes the version of the row, but not its attempt."""
    item = await domain.add_started()
    async with domain.transaction() as worker:
        renewed = await worker.renew(item)
        during = await domain.complete(item)
    finished = await domain.complete(item)
    assert ([item.id], [item.id]) == (list(during.busy), list(finished.versions))
    assert finished.versions[item.id] > renewed.versions[item.id] > item.updated_at
    assert domain.finished == (await domain.read(item)).status


@pytest.mark.parametrize("other", ["rescue", "complete"])
async def test_a_heartbeat_that_meets_a_rescue_or_a_result_neither_waits_nor_revives(
    domain: Domain, other: str
) -> None:
    """The item is busy while the other call is in progress, and lost after its commit."""
    item = await domain.add_started()
    async with domain.transaction() as first:
        await getattr(first, other)(item)
        async with asyncio.timeout(FAST_SECONDS):
            during = await domain.renew(item)
    assert Heartbeat({}, frozenset(), frozenset({item.id})) == during
    assert Heartbeat({}, frozenset({item.id}), frozenset()) == await domain.renew(item)
    status = domain.waiting if other == "rescue" else domain.finished
    found = await domain.read(item)
    assert (status, None) == (found.status, getattr(found, "lease_expires_at", None))
    assert [domain.waiting, domain.started, status] == await domain.log(item)


async def test_a_locked_row_is_not_listed_as_stalled(domain: Domain, shared_watch: Watch) -> None:
    """No heartbeat can be stored: a rescue would race the first heartbeat after the lock."""
    locked, silent = await domain.add_started(), await domain.add_started()
    await domain.end_leases(locked, silent)
    async with shared_watch.holding(locked.id, table=domain.table), asyncio.timeout(FAST_SECONDS):
        during = await domain.stalled()
    assert {silent.id} == during
    assert {locked.id, silent.id} == await domain.stalled()


async def test_one_locked_row_does_not_stop_the_heartbeats_of_others(domain: Domain) -> None:
    """One statement renews many items, but each for itself."""
    locked, free = await domain.add_started(), await domain.add_started()
    async with domain.transaction() as other:
        await other.renew(locked)
        async with asyncio.timeout(FAST_SECONDS):
            renewed = await domain.renew(locked, free)
    assert ([free.id], set(), {locked.id}) == (list(renewed.versions), set(renewed.lost), set(renewed.busy))


async def test_a_rescue_skips_an_item_that_was_started_again(domain: Domain) -> None:
    """After a release and another start the item has another version."""
    item = await domain.add_started()
    await domain.release(item)
    async with domain.transaction() as other:
        (again,) = (await other.start(owner="B")).items
        async with asyncio.timeout(FAST_SECONDS):
            during = await domain.rescue(item)
    assert (NOT_RESCUED, NOT_RESCUED) == (during, await domain.rescue(item))
    assert (again, 2) == (await domain.read(item), again.attempts)


async def test_a_start_skips_an_item_with_a_rescue_in_progress(domain: Domain) -> None:
    """It does not wait; after the commit of the rescue the next start takes the item."""
    item = await domain.add_started()
    async with domain.transaction() as rescuer:
        await rescuer.rescue(item)
        async with asyncio.timeout(FAST_SECONDS):
            during = await domain.start()
    after = await domain.start()
    assert [] == during.items
    assert [(item.id, 2)] == [(again.id, again.attempts) for again in after.items]


async def test_of_fifty_results_of_one_attempt_one_is_stored(domain: Domain) -> None:
    """Of whatever kind; the others report that the item is lost, or busy while another result is in progress."""
    item = await domain.add_started()
    kinds = list(domain.results.values())
    answers = await asyncio.gather(*(domain.finish(kinds[n % len(kinds)](item)) for n in range(50)))
    (applied,) = [answer for answer in answers if item.id in answer.versions]
    assert 49 == sum((item.id in answer.lost) + (item.id in answer.busy) for answer in answers)
    assert applied.versions[item.id] == (await domain.read(item)).updated_at
    assert 3 == len(await domain.log(item))


# Starts


@SCOPES
async def test_a_start_does_not_wait_for_other_starts(own: Domain, all_tenants: bool) -> None:
    """It skips locked items and takes the next ones; items of a rolled-back start are available again."""
    added = [(await own.add(number)).id for number in range(6)]
    async with own.transaction() as first, own.storage.session() as session, asyncio.timeout(FAST_SECONDS):
        one = await first.start(limit=2, all_tenants=all_tenants)
        two = await own.using(session).start(limit=2, owner="B", all_tenants=all_tenants)
        three = await own.start(owner="C", all_tenants=all_tenants)
        await session.rollback()
    again = await own.start(limit=9, owner="D", all_tenants=all_tenants)
    assert [added[:2], added[2:4], added[4:5]] == [ids(batch.items) for batch in (one, two, three)]
    assert [*added[2:4], *added[5:]] == ids(again.items)
    assert {1} == {item.attempts for item in again.items}


@SCOPES
@pytest.mark.parametrize("limit", [1, 7, 50])
async def test_many_concurrent_starts_take_each_item_once(own: Domain, limit: int, all_tenants: bool) -> None:
    """Together they take all items, and no start takes more than its limit."""
    tenants = ["acme", "beta", "gamma"] if all_tenants else ["acme"]
    domains = [dataclasses.replace(own, tenant=tenant) for tenant in tenants]
    added = await asyncio.gather(
        *(
            domains[number % len(domains)].add(number, **own.variants[number // 4 % len(own.variants)])
            for number in range(300)
        )
    )
    started: list[Any] = []

    async def start_until_all_are_started(owner: str) -> None:
        cursor = None
        while len(started) < len(added):
            batch = await own.start(limit=limit, owner=owner, all_tenants=all_tenants, cursor=cursor)
            cursor = batch.cursor
            assert len(batch.items) <= limit
            started.extend(batch.items)

    async with asyncio.timeout(30):
        await asyncio.gather(*(start_until_all_are_started(f"worker {number}") for number in range(12)))

    assert sorted(ids(added)) == sorted(ids(started))
    assert {1} == {item.attempts for item in started}
    assert [own.waiting, own.started] == await own.log(added[-1])


@SCOPES
async def test_a_start_skips_locked_rows(own: Domain, watch: Watch, all_tenants: bool) -> None:
    """Of whatever variant; after the lock they come first."""
    for fields in own.variants:
        locked, free = [await own.add(number, **fields) for number in range(2)]
        async with watch.holding(locked.id, table=own.table), asyncio.timeout(FAST_SECONDS):
            during = await own.start(all_tenants=all_tenants)
        assert [free.id] == ids(during.items)
        assert [locked.id] == ids((await own.start(all_tenants=all_tenants)).items)


# Updates and batches


@pytest.mark.parametrize(("domain", "update"), UPDATES, indirect=["domain"])
async def test_of_fifty_updates_of_one_version_one_wins(domain: Domain, update: str) -> None:
    """Also where the updates keep status and attempts, so that only the version differs."""
    needs_start, target = domain.updates[update]
    item = await (domain.add_started() if needs_start else domain.add())
    before = await domain.log(item)
    targets = [target(item, number) for number in range(50)]

    answers = await asyncio.gather(*(domain.update(item, value) for value in targets))

    (applied,) = [answer for answer in answers if answer.applied]
    assert applied.job is not None
    assert {UpdateOutcome.CONFLICT} == {answer.outcome for answer in answers if answer is not applied}
    expected = targets[answers.index(applied)].stored(updated_at=applied.job.updated_at)
    found = await domain.read(item)
    assert (expected, applied.job, applied.job.updated_at) == (applied.job, found, found.updated_at)
    assert [*before, applied.job.status] == await domain.log(item)


async def test_batches_in_opposite_orders_never_deadlock(domain: Domain) -> None:
    """Results, heartbeats and rescues of the same items at once: each statement locks in the order of ids."""
    await asyncio.gather(*(domain.add() for _ in range(200)))
    items = (await domain.start(limit=200)).items
    assert 200 == len(items)

    async def call(turn: int) -> int:
        order = items if turn % 2 else items[::-1]
        match turn % 3:
            case 0:
                number, remaining = 0, set(ids(items))
                while remaining:
                    finished = await domain.complete(*(item for item in order if item.id in remaining))
                    number += len(finished.versions)
                    remaining &= finished.busy
                return number
            case 1:
                await domain.renew(*order)
            case _:
                return len((await domain.rescue(*order)).requeued)
        return 0

    counts = await asyncio.gather(*(call(turn) for turn in range(24)))

    assert len(items) == sum(counts)
    for item in items[:20]:
        assert 3 == len(await domain.log(item))


@pytest.mark.parametrize("call", ["update", "complete", "renew", "rescue"])
async def test_a_lost_race_under_repeatable_read_is_an_error(domain: Domain, call: str) -> None:
    """A session in REPEATABLE READ gets SQLSTATE 40001: nothing is changed, and a new transaction can try again."""
    item = await domain.add_started()
    async with domain.storage.session() as session:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        inside = domain.using(session)
        assert item == await inside.get(item)
        renewed = await domain.renew(item)
        arguments = (item, domain.updates["finish"].target(item, 0)) if call == "update" else (item,)
        with pytest.raises(DatabaseUnavailable) as caught:
            await getattr(inside, call)(*arguments)
        with pytest.raises(DatabaseUnavailable, match="roll it back") as afterwards:
            await inside.get(item)
        await session.rollback()
        assert renewed.versions[item.id] == (await inside.read(item)).updated_at
    assert ("40001", "25P02") == (caught.value.sqlstate, afterwards.value.sqlstate)
    assert [domain.waiting, domain.started] == await domain.log(item)
