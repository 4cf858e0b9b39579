"""Answers of writes after a lost connection or a cancellation: they are true, and no write is repeated."""

import asyncio
import uuid
from collections.abc import Iterable
from datetime import timedelta

import pytest
import pytest_asyncio

from graphjobs import DatabaseUnavailable, JobAlreadyExists, OutcomeUnknown
from graphjobs.core import recovery
from graphjobs.core.results import FinishResult, RescueResult
from graphjobs.core.transitions import UpdateOutcome
from graphjobs.database import engine as engine_module
from graphjobs.settings import Settings
from tests.contract.calls import INSERTIONS, RESULTS, UPDATES, Call, UpdateCall, make_call, params
from tests.contract.domains import Domain
from tests.contract.wired_storage import changes_nothing, cut_while_it_waits, injected, open_wired
from tests.faults.backend_monitor import Watch
from tests.faults.cancel_at_await import Cancel, cancelled_at
from tests.faults.faulty_proxy import Fault, Wire

NOTHING_CHANGED = "nothing was changed"


def of(calls: Iterable[tuple[type[Domain], str]]) -> pytest.MarkDecorator:
    """Return the parameters of a test of these calls."""
    return pytest.mark.parametrize(("domain", "call"), params(calls), indirect=True)


CALLS = [*INSERTIONS, *UPDATES, *RESULTS]
each_call = of(CALLS)
each_call_that_waits = of([*INSERTIONS, *UPDATES])
"""Results do not wait: they report busy items."""
each_update = of(UPDATES)


@pytest_asyncio.fixture
async def call(request: pytest.FixtureRequest, domain: Domain) -> Call:
    """The call under test, before it is made."""
    return await make_call(domain, request.param)


# Lost answers


@each_call
@pytest.mark.parametrize("is_repeated", [False, True], ids=["first call", "repeated call"])
async def test_a_call_with_a_lost_answer_is_found_to_be_applied(
    wired: Domain, wire: Wire, domain: Domain, call: Call, is_repeated: bool
) -> None:
    """The caller gets the same answer as without the fault, also if an earlier call has written the event."""
    answers = [await call.run(domain)] if is_repeated else []
    with injected(wire):
        answers.append(await call.run(wired))
    await call.assert_applied_once(domain, *answers)


@each_call
async def test_a_call_that_never_reached_the_server_changed_nothing(
    wired: Domain, wire: Wire, domain: Domain, call: Call
) -> None:
    """The error says so once the server process has ended; the caller can try again."""
    with changes_nothing(wire, Fault.DROP_REQUEST):
        await call.run(wired)
    await call.assert_not_applied(domain)
    await call.assert_applied_once(domain, await call.run(wired))


@each_call
async def test_a_call_without_a_lookup_has_an_unknown_outcome(
    wired: Domain, wire: Wire, domain: Domain, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network fails for longer than the bound; the call was applied, and a repeated call says so."""
    monkeypatch.setattr(recovery, "_RESOLVE_SECONDS", 0.3)
    wire.lasts, wire.fault = True, Fault.DROP_REPLY
    async with asyncio.timeout(5):
        with pytest.raises(OutcomeUnknown):
            await call.run(wired)
    wire.lasts, wire.fault = False, Fault.NONE
    assert wire.hit > 1
    await call.assert_applied_once(domain, await call.run(wired))


@each_call
async def test_a_call_with_a_swallowed_answer_is_found_to_be_applied(
    wire: Wire, shared_settings: Settings, domain: Domain, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection neither ends nor answers: the time-out of the client ends the wait."""
    monkeypatch.setattr(engine_module, "COMMAND_TIMEOUT_MARGIN", timedelta(seconds=0.2))
    async with open_wired(wire, shared_settings, statement_timeout=0.3) as storage:
        wired = domain.on(storage)
        await wired.prepare()
        with injected(wire, Fault.SWALLOW_REPLY):
            answer = await call.run(wired)
    await call.assert_applied_once(domain, answer)


@each_update
async def test_a_lost_update_with_a_lost_answer_changed_nothing(
    wired: Domain, wire: Wire, domain: Domain, call: Call
) -> None:
    canceled = await domain.cancel(call.item)
    with changes_nothing(wire):
        await call.run(wired)
    again = await call.run(wired)
    assert (UpdateOutcome.CONFLICT, canceled) == (again.outcome, again.job)


@of(RESULTS)
async def test_a_late_result_with_a_lost_answer_is_never_reported_as_stored(
    wired: Domain, wire: Wire, domain: Domain, call: Call
) -> None:
    """The item was rescued; a repeated call reports it as lost."""
    await domain.rescue(call.item)
    after = await domain.read(call.item)
    with changes_nothing(wire):
        await call.run(wired)
    again = await call.run(wired)
    assert ({}, {call.item.id}) == (again.versions, again.lost.keys())
    assert after == await domain.read(call.item)


async def test_a_late_update_with_a_lost_answer_is_never_reported_as_applied(
    wired: Domain, wire: Wire, domain: Domain
) -> None:
    """The item runs again at another attempt, so the row looks as the first attempt left it."""
    first = await domain.add_started()
    await domain.release(first)
    (second,) = (await domain.start()).items
    with changes_nothing(wire):
        await wired.update(first, domain.updates["finish"].target(first, 0))
    assert second == await domain.read(first)


async def test_an_insertion_of_a_taken_id_with_a_lost_answer_changed_nothing(
    wired: Domain, wire: Wire, domain: Domain
) -> None:
    item = domain.new()
    await domain.insert(domain.new(id=item.id, tenant_id=f"{domain.tenant}-other"), uuid.uuid4())
    with changes_nothing(wire):
        await wired.insert(item, uuid.uuid4())
    with pytest.raises(JobAlreadyExists):
        await wired.insert(item, uuid.uuid4())
    assert await domain.get(item) is None


async def test_of_many_results_with_a_lost_answer_each_is_reported(
    wired: Domain, wire: Wire, domain: Domain, shared_watch: Watch
) -> None:
    """One is stored, one is lost to an earlier rescue, and one belongs to a locked row."""
    stored, lost, locked = [await domain.add_started() for _ in range(3)]
    await domain.rescue(lost)
    async with shared_watch.holding(locked.id, table=domain.table):
        with injected(wire):
            answer = await wired.finish(*map(domain.results[domain.waiting], (stored, lost, locked)))
    found = await domain.read(stored)
    reason = domain.lost_reason(lost, domain.waiting, 1)
    assert FinishResult({stored.id: found.updated_at}, {lost.id: reason}, frozenset({locked.id})) == answer
    assert domain.waiting == found.status


# Lost answers of starts, heartbeats and rescues


async def test_a_start_with_a_lost_answer_returns_the_items_that_it_took(
    wired: Domain, wire: Wire, domain: Domain
) -> None:
    """These and no others, in order, as they are stored now."""
    before = await domain.add_started()
    added = [await domain.add(number) for number in range(5)]
    with injected(wire):
        batch = await wired.start(limit=3)
    assert [item.id for item in added[:3]] == [item.id for item in batch.items]
    assert [await domain.read(item) for item in batch.items] == batch.items
    for item in batch.items:
        assert (domain.started, 1) == (item.status, item.attempts)
        assert [domain.waiting, domain.started] == await domain.log(item)
    assert [item.id for item in added[3:]] == [item.id for item in (await domain.start(limit=9)).items]
    assert {item.id for item in batch.items} == (await domain.complete(*batch.items)).versions.keys()
    assert before == await domain.read(before)


async def test_a_start_that_never_reached_the_server_changed_nothing(wired: Domain, wire: Wire, domain: Domain) -> None:
    item = await domain.add()
    with changes_nothing(wire, Fault.DROP_REQUEST):
        await wired.start()
    assert item == await domain.read(item)
    assert [(item.id, 1)] == [(started.id, started.attempts) for started in (await wired.start()).items]
    assert [domain.waiting, domain.started] == await domain.log(item)


async def test_a_start_of_nothing_with_a_lost_answer_changed_nothing(wired: Domain, wire: Wire, domain: Domain) -> None:
    """A start of no item and a lost start look alike; the caller can try again."""
    started = await domain.add_started()
    with changes_nothing(wire):
        await wired.start()
    assert [] == (await wired.start()).items
    assert started == await domain.read(started)


@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.DROP_REQUEST], ids=lambda fault: fault.name.lower())
async def test_a_heartbeat_with_a_lost_answer_has_an_unknown_outcome(
    wired: Domain, wire: Wire, domain: Domain, fault: Fault
) -> None:
    """The caller can repeat it, because a second heartbeat does no harm."""
    item = await domain.add_started()
    with injected(wire, fault), pytest.raises(OutcomeUnknown):
        await wired.renew(item)
    between = await domain.read(item)
    assert (fault is Fault.DROP_REPLY) == (between.updated_at > item.updated_at)
    again = await wired.renew(item)
    found = await domain.read(item)
    assert found.updated_at == again.versions[item.id] > between.updated_at
    assert [domain.waiting, domain.started] == await domain.log(item)


async def test_a_rescue_with_a_lost_answer_reports_what_it_did(wired: Domain, wire: Wire, domain: Domain) -> None:
    """The requeued and the failed items, without the item that was renewed."""
    silent, exhausted, renewed = [await domain.add_started() for _ in range(3)]
    await domain.renew(renewed)
    with injected(wire):
        answer = await wired.rescue(silent, exhausted.replace(attempts=9), renewed)
    assert RescueResult((silent.id,), (exhausted.id,)) == answer
    found = [(await domain.read(item)).status for item in (silent, exhausted, renewed)]
    assert [domain.waiting, "failed", domain.started] == found
    assert [domain.waiting, domain.started, domain.waiting] == await domain.log(silent)


async def test_a_rescue_that_never_reached_the_server_changed_nothing(
    wired: Domain, wire: Wire, domain: Domain
) -> None:
    item = await domain.add_started()
    with changes_nothing(wire, Fault.DROP_REQUEST):
        await wired.rescue(item)
    assert item == await domain.read(item)
    assert RescueResult((item.id,), ()) == await wired.rescue(item)
    assert [domain.waiting, domain.started, domain.waiting] == await domain.log(item)


# Connections that are lost while the call waits for a lock


@each_call_that_waits
@pytest.mark.parametrize("backend_ends", [False, True], ids=["lock ends", "backend ends"])
async def test_a_waiting_call_that_lost_its_connection_is_applied_unless_its_backend_ends(
    wired: Domain, wire: Wire, domain: Domain, shared_watch: Watch, call: Call, backend_ends: bool
) -> None:
    """While the call waits, its absence from the event log proves nothing; an ended backend applies nothing."""
    async with call.blocked(domain, shared_watch):
        waiting = await cut_while_it_waits(call.run(wired), wire, shared_watch)
        if backend_ends:
            await shared_watch.end(await shared_watch.until_waiting())
            with pytest.raises(DatabaseUnavailable, match=NOTHING_CHANGED):
                await waiting
    if backend_ends:
        await call.assert_not_applied(domain)
    else:
        await call.assert_applied_once(domain, await waiting)


@each_update
async def test_a_waiting_update_that_lost_its_connection_and_then_the_race_changed_nothing(
    wired: Domain, wire: Wire, domain: Domain, shared_watch: Watch, call: Call
) -> None:
    """The holder of the lock changed the item, and the update ends without effect."""
    async with domain.transaction() as other:
        canceled = await other.cancel(call.item)
        waiting = await cut_while_it_waits(call.run(wired), wire, shared_watch)
    with pytest.raises(DatabaseUnavailable, match=NOTHING_CHANGED):
        await waiting
    again = await call.run(wired)
    assert (UpdateOutcome.CONFLICT, canceled) == (again.outcome, again.job)


@each_call_that_waits
async def test_a_call_that_waits_past_the_bound_has_an_unknown_outcome(
    wired: Domain,
    wire: Wire,
    domain: Domain,
    shared_watch: Watch,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It can still be applied, and is; a repeated call reports it once."""
    monkeypatch.setattr(recovery, "_RESOLVE_SECONDS", 0.3)
    async with call.blocked(domain, shared_watch):
        waiting = asyncio.create_task(call.run(wired))
        await shared_watch.until_waiting()
        wire.cut()
        with pytest.raises(OutcomeUnknown) as caught:
            await waiting
        assert caught.value.backend in await shared_watch.until_waiting()
        await call.assert_not_applied(domain)
    await shared_watch.until_settled()
    if isinstance(call, UpdateCall):
        assert call.target.status == (await domain.read(call.item)).status
    await call.assert_applied_once(domain)


@each_call_that_waits
async def test_a_call_repeated_while_the_first_lost_its_connection_is_applied_once(
    wired: Domain, wire: Wire, domain: Domain, shared_watch: Watch, call: Call
) -> None:
    """Both wait for one lock, the first without a connection to its caller; both answers are the same."""
    async with call.blocked(domain, shared_watch):
        first = asyncio.create_task(call.run(wired))
        await shared_watch.until_waiting()
        wire.cut()
        second = asyncio.create_task(call.run(domain))
        await shared_watch.until_waiting(2)
        assert not first.done()
    await call.assert_applied_once(domain, await first, await second)


# Repeated calls


@each_call_that_waits
async def test_a_call_repeated_while_it_waits_is_applied_once(domain: Domain, shared_watch: Watch, call: Call) -> None:
    """A third transaction holds the lock; both answers are the same."""
    async with call.blocked(domain, shared_watch):
        both = [asyncio.create_task(call.run(domain)) for _ in range(2)]
        await shared_watch.until_waiting(2)
    await call.assert_applied_once(domain, *await asyncio.gather(*both))


@each_call_that_waits
async def test_thirty_concurrent_calls_with_one_id_are_applied_once(domain: Domain, call: Call) -> None:
    """All answers are the same."""
    await call.assert_applied_once(domain, *await asyncio.gather(*(call.run(domain) for _ in range(30))))


@each_call_that_waits
@pytest.mark.parametrize("end", ["rollback", "commit"])
async def test_a_call_repeated_beside_an_open_transaction_waits_for_its_end(
    domain: Domain, shared_watch: Watch, call: Call, end: str
) -> None:
    """After a commit it answers as the first call; after a rollback it is applied itself."""
    async with domain.storage.session() as session:
        answers = [await call.run(domain.using(session))]
        second = asyncio.create_task(call.run(domain))
        await shared_watch.until_waiting()
        await getattr(session, end)()
    if end == "rollback":
        answers.clear()
    await call.assert_applied_once(domain, *answers, await second)


@pytest.mark.parametrize("how", Cancel, ids=lambda how: how.name.lower())
@pytest.mark.parametrize(("domain", "name"), params(CALLS), indirect=["domain"])
async def test_a_call_that_is_cancelled_at_any_await_and_repeated_is_applied_once(
    domain: Domain, name: str, how: Cancel
) -> None:
    """At each of its awaits in turn."""
    reached, number = True, 0
    while reached:
        call = await make_call(domain, name)
        reached, _ = await cancelled_at(number, call.run(domain), how)
        await call.assert_applied_once(domain, await call.run(domain))
        if name == f"finish {domain.waiting}":
            await domain.start(limit=9)
        number += 1
    assert number > 1


@each_call_that_waits
async def test_a_call_that_is_cancelled_while_it_waits_and_repeated_is_applied_once(
    domain: Domain, shared_watch: Watch, call: Call
) -> None:
    """The cancelled call either leaves nothing behind or is applied."""
    async with call.blocked(domain, shared_watch):
        waiting = asyncio.create_task(call.run(domain))
        await shared_watch.until_waiting()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        again = asyncio.create_task(call.run(domain))
        await shared_watch.until_waiting()
    await call.assert_applied_once(domain, await again)
