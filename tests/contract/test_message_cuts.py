"""Every write, cut after each of its messages in turn, in both directions: its answer is true, or says it is unknown.

The messages of a new connection are cut, too: the look-up of its backend, the preparation of the statement, and the
statement itself.
"""

from functools import partial
from typing import Any

import pytest

from graphjobs import DatabaseUnavailable, GraphJobsError
from graphjobs.settings import Settings
from tests.contract.calls import INSERTIONS, RESULTS, UPDATES, make_call
from tests.contract.domains import Domain
from tests.contract.wired_storage import open_wired
from tests.faults.faulty_proxy import MessageCut, Wire

CALLS = [
    pytest.param(domain, name, id=f"{domain.table}-{name}")
    for domain, name in [*INSERTIONS, *UPDATES, *RESULTS]
    if name in ("insert", "update edit", "update finish") or name == f"finish {domain.finished}"
]
each_direction = pytest.mark.parametrize("is_request", [True, False], ids=["requests", "answers"])


async def _cut(wire: Wire, settings: Settings, domain: Domain, number: int, is_request: bool, work: Any) -> Any:
    """Make a call on a new connection that ends after a number of messages; return its answer or error."""
    async with open_wired(wire, settings) as storage:
        wire.hit = 0
        wire.message_cut = MessageCut(is_request, number)
        try:
            return await work(domain.on(storage))
        except GraphJobsError as error:  # no other error may leave a call
            return error
        finally:
            wire.message_cut = None


@each_direction
@pytest.mark.parametrize(("domain", "name"), CALLS, indirect=["domain"])
async def test_a_call_that_is_cut_after_any_message_answers_the_truth(
    wire: Wire, shared_settings: Settings, domain: Domain, name: str, is_request: bool
) -> None:
    """It is applied once, or nothing was changed and a repeated call applies it."""
    number = 0
    while True:
        call = await make_call(domain, name)
        answer = await _cut(wire, shared_settings, domain, number, is_request, call.run)
        if isinstance(answer, DatabaseUnavailable):
            await call.assert_not_applied(domain)
            await call.assert_applied_once(domain, await call.run(domain))
        else:  # the look-up has time enough, so that nothing stays unknown
            await call.assert_applied_once(domain, answer)
        if not wire.hit:
            break
        number += 1
    assert number > 3


async def test_the_first_connection_of_a_process_may_be_cut_after_any_answer(
    wire: Wire, shared_settings: Settings, domain: Domain
) -> None:
    """SQLAlchemy asks the server about itself there, and has no pooled connection yet."""
    item = await domain.add()
    number = 0
    while True:
        wire.hit, wire.message_cut = 0, MessageCut(is_request=False, remaining=number)
        try:
            async with open_wired(wire, shared_settings) as storage:
                assert item == await domain.on(storage).read(item)
        except DatabaseUnavailable:
            assert wire.hit
        finally:
            wire.message_cut = None
        if not wire.hit:
            break
        number += 1
    assert number > 3


@each_direction
async def test_a_start_that_is_cut_after_any_message_reports_all_that_it_took(
    wire: Wire, shared_settings: Settings, domain: Domain, is_request: bool
) -> None:
    """What it started is in its answer; otherwise the items wait as before."""
    number = 0
    while True:
        item = await domain.add()
        answer = await _cut(wire, shared_settings, domain, number, is_request, lambda wired: wired.start(limit=9))
        is_unavailable = isinstance(answer, DatabaseUnavailable)
        batch = await domain.start(limit=9) if is_unavailable else answer
        assert [item.id] == [started.id for started in batch.items]
        assert [domain.waiting, domain.started] == await domain.log(item)
        await domain.complete(*batch.items)
        if not wire.hit:
            break
        number += 1
    assert number > 3


async def _rescue(item: Any, domain: Domain) -> Any:
    return await domain.rescue(item)


@each_direction
async def test_a_rescue_that_is_cut_after_any_message_answers_the_truth(
    wire: Wire, shared_settings: Settings, domain: Domain, is_request: bool
) -> None:
    """The item is queued again once."""
    number = 0
    while True:
        item = await domain.add_started()
        work = partial(_rescue, item)
        answer = await _cut(wire, shared_settings, domain, number, is_request, work)
        if isinstance(answer, DatabaseUnavailable):
            answer = await domain.rescue(item)
        assert (item.id,) == answer.requeued
        assert [domain.waiting, domain.started, domain.waiting] == await domain.log(item)
        await domain.cancel(await domain.read(item))
        if not wire.hit:
            break
        number += 1
    assert number > 3
