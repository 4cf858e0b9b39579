"""Additions and updates of the store of graph jobs, its transactions and its tenants."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from graphjobs import GraphJobStatus, InvalidJob, JobAlreadyExists, UpdateResult
from graphjobs.core.pagination import BoundedCount
from graphjobs.core.transitions import UpdateOutcome
from graphjobs.errors import CorruptRow
from graphjobs.graph_jobs.filters import GraphJobCollection, GraphJobQuery
from graphjobs.graph_jobs.status import GraphJobType
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.storage import Storage
from tests.builders import AT, build_job, overlay_job
from tests.integration.conftest import Access
from tests.integration.states import applied

Status = GraphJobStatus

_QUEUED, _RUNNING = Status.QUEUED, Status.RUNNING
_APPLIED, _CONFLICT, _NOT_FOUND, _ILLEGAL = UpdateOutcome


def _same(one: UpdateResult[Any], other: UpdateResult[Any]) -> bool:
    """Return whether two answers are equal, also in the version, which the equality of jobs ignores."""
    return one == other and applied(one).updated_at == applied(other).updated_at


# Additions


async def test_an_added_job_is_returned_by_every_read(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    started = make(tenant).start(at=AT)
    for job in (make(tenant, correlation_id="c", metadata={"a": "☃"}), started, make(tenant).cancel(at=AT)):
        added = await store.add(job)
        as_build, as_overlay = await store.get_build_job(tenant, job.id), await store.get_overlay_job(tenant, job.id)
        found = await store.get_job(tenant, str(job.id).upper())
        assert found is not None
        assert (job, job, added.updated_at) == (added, found, found.updated_at)
        expected = (found, None) if make is build_job else (None, found)
        assert expected == (as_build, as_overlay)


async def test_an_addition_is_logged_with_the_jobs_version(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    transition = uuid.uuid4()
    added = await store.add(
        make(tenant).start(at=AT).fail(at=AT, error="broken"), transition_id=transition, actor="ann"
    )
    (event,) = await store.events(tenant, added.id)
    payload = {"to": "failed", "attempts": 1, "transitionId": str(transition), "actor": "ann", "error": "broken"}
    assert (payload, added.updated_at, Status.FAILED) == (dict(event.payload), event.created_at, event.status)


async def test_a_repeated_addition_returns_the_job_as_it_is_now(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    transition, job = uuid.uuid4(), make(tenant)
    added = await store.add(job, transition_id=transition)
    again = await store.add(job, transition_id=transition)
    assert (added, added.updated_at) == (again, again.updated_at)
    started = applied(await store.update(added.start(at=AT), expected=_QUEUED))
    now = await store.add(job, transition_id=transition)
    assert (started, started.updated_at) == (now, now.updated_at)
    assert 2 == len(await store.events(tenant, job.id))


async def test_a_taken_id_is_refused_and_the_transaction_stays_usable(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    added = await store.add(make(tenant), transition_id=uuid.uuid4())
    for again in (
        added,
        added.replace(metadata={"a": "b"}),
        build_job(tenant, id=added.id),
        overlay_job(tenant, id=added.id),
        make(f"{tenant}-thief", id=added.id),
    ):
        with pytest.raises(JobAlreadyExists, match=str(added.id)) as caught:
            await store.add(again, transition_id=uuid.uuid4())
        assert added.id == caught.value.job_id
    assert added == await store.get_job(tenant, added.id)
    assert 1 == len(await store.events(tenant, added.id))


async def test_many_are_added_at_once_in_their_order(store: GraphJobStore, tenant: str) -> None:
    """A thousand of both types, each with its event; jobs with a taken id are left out."""
    taken = await store.add(build_job(tenant, metadata={"first": "yes"}))
    given = [overlay_job(tenant) if number % 2 else build_job(tenant, correlation_id="c") for number in range(999)]
    given.insert(500, build_job(tenant, id=taken.id))
    added = await store.add_many(iter(given), actor="ann")
    assert [job for job in given if job.id != taken.id] == list(added)
    assert taken == await store.get_job(tenant, taken.id)
    for job in (added[0], added[1], added[-1]):
        found = await store.get_job(tenant, job.id)
        assert found is not None
        (event,) = await store.events(tenant, job.id)
        assert (job, job.updated_at, job.updated_at) == (found, found.updated_at, event.created_at)
        assert ("queued", 0, "ann") == tuple(event.payload[name] for name in ("to", "attempts", "actor"))
        assert "from" not in event.payload
    assert 1 == len(await store.events(tenant, taken.id))
    assert () == await store.add_many(given)
    assert () == await store.add_many([])


async def test_many_of_every_status_are_added_as_they_are(store: GraphJobStore, tenant: str) -> None:
    """Status, error and version stand in the row and in the log."""
    started = build_job(tenant).start(at=AT)
    given: list[Any] = [
        build_job(tenant),
        started,
        started.replace(id=uuid.uuid4()).complete(at=AT, graph_snapshot_id="g"),
        overlay_job(tenant).fail(at=AT, error="tab\tnewline\n{}'\"\\"),
        overlay_job(tenant).cancel(at=AT),
    ]
    assert tuple(given) == await store.add_many(given)
    assert given == [await store.get_job(tenant, job.id) for job in given]
    events = [(await store.events(tenant, job.id))[0] for job in given]
    assert [job.status for job in given] == [event.status for event in events]
    assert [job.error for job in given] == [event.payload.get("error") for event in events]
    assert len(given) == len({event.payload["transitionId"] for event in events})


# Updates


async def test_an_update_is_applied_with_a_new_version_and_its_event(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    job = await store.add(make(tenant))
    steps: list[tuple[Callable[[Any], Any], GraphJobStatus]] = [
        (lambda job: job.edit(correlation_id="c"), _QUEUED),
        (lambda job: job.start(at=AT), _QUEUED),
        (lambda job: job.renew(metadata={"a": "b"}), _RUNNING),
        (lambda job: job.requeue(at=AT), _RUNNING),
        (lambda job: job.fail(at=AT, error="it \N{SNOWMAN} broke"), _QUEUED),
    ]
    for number, (step, expected) in enumerate(steps):
        target, transition = step(job), uuid.uuid4()
        result = await store.update(target, expected=expected, transition_id=transition, actor=f"ann {number}")
        updated = applied(result)
        assert (_APPLIED, transition, "") == (result.outcome, result.transition_id, result.reason)
        found: Any = await store.get_job(tenant, job.id)
        assert (target, target) == (updated, found)
        assert job.updated_at < updated.updated_at == found.updated_at
        event = (await store.events(tenant, job.id))[-1]
        payload = dict(event.payload)
        assert 32 == len(payload.pop("digest"))
        error = {"error": target.error} if target.error else {}
        assert payload == {
            "from": expected.value,
            "to": target.status.value,
            "attempts": target.attempts,
            "transitionId": str(transition),
            "actor": f"ann {number}",
            **error,
        }
        assert (result.event_id, target.status, updated.updated_at) == (event.id, event.status, event.created_at)
        job = updated
    assert len(steps) + 1 == len(await store.events(tenant, job.id))


async def test_a_repeated_update_answers_the_same_also_after_later_transitions(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    """It has one event, also if it keeps the status."""
    queued = await store.add(make(tenant))
    edit, start = uuid.uuid4(), uuid.uuid4()
    edited = await store.update(queued.edit(correlation_id="c"), expected=_QUEUED, transition_id=edit)
    assert _same(edited, await store.update(queued.edit(correlation_id="c"), expected=_QUEUED, transition_id=edit))
    target = applied(edited).start(at=AT)
    started = await store.update(target, expected=_QUEUED, transition_id=start)
    requeued = applied(await store.update(applied(started).requeue(at=AT), expected=_RUNNING))
    for _ in range(2):
        assert _same(started, await store.update(target, expected=_QUEUED, transition_id=start))
        assert _same(edited, await store.update(queued.edit(correlation_id="c"), expected=_QUEUED, transition_id=edit))
    assert requeued == await store.get_job(tenant, queued.id)
    assert 4 == len(await store.events(tenant, queued.id))


async def test_a_lost_update_returns_the_job_as_it_is_now(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    queued = await store.add(make(tenant))
    edited = applied(await store.update(queued.edit(correlation_id="c"), expected=_QUEUED))
    by_version = await store.update(queued.edit(correlation_id="d"), expected=_QUEUED)
    started = applied(await store.update(edited.start(at=AT), expected=_QUEUED))
    by_status = await store.update(queued.cancel(at=AT), expected=_QUEUED)
    requeued = applied(await store.update(started.requeue(at=AT), expected=_RUNNING))
    by_attempts = await store.update(edited.start(at=AT), expected=_QUEUED)
    for lost, now in ((by_version, edited), (by_status, started), (by_attempts, requeued)):
        assert (_CONFLICT, False, now, None) == (lost.outcome, lost.applied, lost.job, lost.event_id)
        assert lost.job is not None
        assert now.updated_at == lost.job.updated_at
        assert f"found it {now.status} at attempts {now.attempts}" in lost.reason
    assert requeued == await store.get_job(tenant, queued.id)
    assert 4 == len(await store.events(tenant, queued.id))


async def test_a_lost_update_can_win_with_the_same_id_later(store: GraphJobStore, tenant: str) -> None:
    """A conflict stores nothing, so its id is still free."""
    queued, transition = await store.add(build_job(tenant)), uuid.uuid4()
    started = queued.start(at=AT)
    finished = started.complete(at=AT, graph_snapshot_id="g")
    early = await store.update(finished, expected=_RUNNING, transition_id=transition)
    assert (_CONFLICT, queued) == (early.outcome, early.job)
    assert (await store.update(started, expected=_QUEUED)).applied
    assert (await store.update(finished, expected=_RUNNING, transition_id=transition)).applied


async def test_an_update_of_an_old_version_is_lost(store: GraphJobStore, tenant: str, make: Callable[..., Any]) -> None:
    """With `expected_version` an update that changes the status compares the version, too."""
    queued = await store.add(make(tenant))
    edited = applied(await store.update(queued.edit(correlation_id="c"), expected=_QUEUED))
    stale = await store.update(queued.start(at=AT), expected=_QUEUED, expected_version=queued.updated_at)
    assert (_CONFLICT, edited) == (stale.outcome, stale.job)
    in_local_time = edited.updated_at.astimezone(tz=None)
    assert (await store.update(edited.start(at=AT), expected=_QUEUED, expected_version=in_local_time)).applied


async def test_an_update_that_keeps_the_status_can_name_the_version(store: GraphJobStore, tenant: str) -> None:
    added = await store.add(build_job(tenant))
    unread = added.stored(updated_at=None).edit(correlation_id="c")
    assert (await store.update(unread, expected=_QUEUED, expected_version=added.updated_at)).applied
    assert _CONFLICT is (await store.update(unread, expected=_QUEUED, expected_version=added.updated_at)).outcome


async def test_an_update_of_a_missing_job_is_not_found(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    added = await store.add(make(tenant))
    other = overlay_job if make is build_job else build_job
    for stranger in (
        make(tenant),
        added.replace(tenant_id=f"{tenant}-thief"),
        other(tenant, id=added.id, created_at=added.created_at),
    ):
        result = await store.update(stranger.start(at=AT), expected=_QUEUED)
        assert (_NOT_FOUND, None, None) == (result.outcome, result.job, result.event_id)
        assert str(stranger.id) in result.reason
    assert added == await store.get_job(tenant, added.id)
    assert 1 == len(await store.events(tenant, added.id))


async def test_a_lost_update_with_the_id_of_another_update_is_refused(store: GraphJobStore, tenant: str) -> None:
    """The same transition with the same id, but another job: it is neither applied nor reported as applied."""
    queued, transition = await store.add(build_job(tenant)), uuid.uuid4()
    started = queued.start(at=AT)
    assert (await store.update(started, expected=_QUEUED, transition_id=transition)).applied
    for other in (started.replace(metadata={"a": "b"}), queued.start(at=AT + timedelta(seconds=1))):
        with pytest.raises(InvalidJob, match=str(transition)) as caught:
            await store.update(other, expected=_QUEUED, transition_id=transition)
        assert "transition_id" == caught.value.field
    with pytest.raises(InvalidJob, match="transition_id"):
        await store.add(queued, transition_id=transition)
    assert started == await store.get_job(tenant, queued.id)
    assert 2 == len(await store.events(tenant, queued.id))


async def test_two_updates_with_one_id_have_their_own_answers(store: GraphJobStore, tenant: str) -> None:
    """A mistake of the caller: a check before each update would cost a read of the log."""
    queued, transition = await store.add(build_job(tenant)), uuid.uuid4()
    started = await store.update(queued.start(at=AT), expected=_QUEUED, transition_id=transition)
    target = applied(started).requeue(at=AT)
    requeued = await store.update(target, expected=_RUNNING, transition_id=transition)
    assert started == await store.update(queued.start(at=AT), expected=_QUEUED, transition_id=transition)
    assert requeued == await store.update(target, expected=_RUNNING, transition_id=transition)
    assert 3 == len(await store.events(tenant, queued.id))


async def test_one_id_may_name_updates_of_two_jobs(store: GraphJobStore, tenant: str) -> None:
    """An id is unique per job, so that a batch may share one."""
    transition = uuid.uuid4()
    for _ in range(2):
        queued = await store.add(build_job(tenant), transition_id=transition)
        assert (await store.update(queued.cancel(at=AT), expected=_QUEUED, transition_id=uuid.uuid4())).applied
        assert 2 == len(await store.events(tenant, queued.id))


async def test_an_update_of_an_unreadable_row_raises_and_changes_nothing(access: Access, tenant: str) -> None:
    """The row exists, so the answer is not that it is missing."""
    queued = await access.store.add(build_job(tenant))
    await access.sql("UPDATE scheduler.graph_jobs SET status = 99 WHERE id = $1", queued.id)
    with pytest.raises(CorruptRow, match=str(queued.id)):
        await access.store.update(queued.start(at=AT), expected=_QUEUED)
    with pytest.raises(CorruptRow, match=str(queued.id)):
        await access.store.get_job(tenant, queued.id)
    assert 1 == len(await access.store.events(tenant, queued.id))


# Transactions, tenants and events


async def test_the_store_says_whether_it_is_autocommit(access: Access) -> None:
    """A caller with side effects after a commit must know it."""
    assert (access.session is None) == access.store.is_autocommit


async def test_a_rollback_leaves_neither_job_nor_event(storage: Storage, tenant: str) -> None:
    autocommit, stored = storage.graph_jobs, await storage.graph_jobs.add(build_job(tenant))
    added, many = build_job(tenant), [overlay_job(tenant) for _ in range(3)]
    for ending in ("rollback", "commit"):
        async with storage.session() as session:
            inside = autocommit.using(session)
            await inside.add(added)
            await inside.add_many(many)
            assert (await inside.update(added.start(at=AT), expected=_QUEUED)).applied
            assert (await inside.update(stored.cancel(at=AT), expected=_QUEUED)).applied
            assert BoundedCount(5) == await inside.count(tenant)
            assert (stored,) == (await autocommit.get_jobs(tenant)).jobs
            await (session.rollback() if ending == "rollback" else session.commit())
        lengths = [len(await autocommit.events(tenant, job.id)) for job in (stored, added, *many)]
        counted = await autocommit.count(tenant)
        assert ([1, 0, 0, 0, 0], BoundedCount(1)) == (lengths, counted) or ending == "commit"
    assert ([2, 2, 1, 1, 1], BoundedCount(5)) == (lengths, counted)


async def test_a_conflict_and_a_taken_id_leave_the_transaction_usable(storage: Storage, tenant: str) -> None:
    """The writes before and after them are committed."""
    first, second = build_job(tenant), build_job(tenant)
    async with storage.session() as session, session.begin():
        inside = storage.graph_jobs.using(session)
        await inside.add(first)
        with pytest.raises(JobAlreadyExists):
            await inside.add(first.replace(metadata={"a": "b"}))
        assert _CONFLICT is (await inside.update(first.start(at=AT).requeue(at=AT), expected=_RUNNING)).outcome
        await inside.add(second)
    assert BoundedCount(2) == await storage.graph_jobs.count(tenant)


async def test_no_method_reaches_another_tenants_jobs(store: GraphJobStore, tenant: str) -> None:
    thief, transition = f"{tenant}-thief", uuid.uuid4()
    mine = [
        await store.add(make(tenant, correlation_id="c"), transition_id=transition) for make in (build_job, overlay_job)
    ]
    for job in mine:
        stolen = job.replace(tenant_id=thief).stored(updated_at=job.updated_at)
        assert await store.get_job(thief, job.id) is None
        assert await store.get_build_job(thief, job.id) is None
        assert await store.get_overlay_job(thief, job.id) is None
        assert () == await store.events(thief, job.id)
        for target in (stolen.start(at=AT), stolen.edit(correlation_id="mine")):
            taken = await store.update(
                target, expected=_QUEUED, expected_version=job.updated_at, transition_id=transition
            )
            assert (_NOT_FOUND, None) == (taken.outcome, taken.job)
        with pytest.raises(JobAlreadyExists):
            await store.add(stolen, transition_id=transition)
        assert () == await store.add_many([stolen])
    for query in (
        None,
        GraphJobQuery(type=GraphJobType.BUILD),
        GraphJobQuery(statuses=(_QUEUED,)),
        GraphJobQuery(correlation_id="c"),
    ):
        assert GraphJobCollection(()) == await store.get_jobs(thief, query)
        assert BoundedCount(0) == await store.count(thief, query)
    assert GraphJobCollection(()) == await store.get_active_overlay_jobs(thief)
    assert BoundedCount(0) == (await store.overlay_lag(thief, window=timedelta(days=1))).counts[_QUEUED]
    assert set(mine) == set((await store.get_jobs(tenant)).jobs)
    assert [1, 1] == [len(await store.events(tenant, job.id)) for job in mine]


async def test_the_log_is_read_after_an_event(store: GraphJobStore, tenant: str) -> None:
    job = await store.add(build_job(tenant))
    for number in range(6):
        job = applied(await store.update(job.edit(metadata={"n": str(number)}), expected=_QUEUED))
    whole = await store.events(tenant, job.id)
    assert 7 == len(whole)
    assert whole == tuple(sorted(whole, key=lambda event: (event.id, event.created_at)))
    first = await store.events(tenant, job.id, limit=3)
    assert first[-1].id is not None
    assert (whole[:3], whole[3:]) == (first, await store.events(tenant, job.id, after=first[-1].id))
