"""The store's promises on a real database, alone and inside a session of the caller's."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncSession

from graphjobs import GraphJobStatus, GraphJobUpdateResult, InvalidJob, JobAlreadyExists
from graphjobs.core.pagination import BoundedCount
from graphjobs.core.transitions import UpdateOutcome
from graphjobs.database.executor import Params, Row, SessionExecutor
from graphjobs.errors import CorruptRow
from graphjobs.graph_jobs import store as store_room
from graphjobs.graph_jobs.filters import GraphJobCollection, GraphJobQuery
from graphjobs.graph_jobs.status import GraphJobType
from graphjobs.graph_jobs.store import GraphJobStore, PostgresGraphJobStore
from graphjobs.storage import Storage
from tests.builders import AT, build_job, overlay_job

Status = GraphJobStatus

_QUEUED, _RUNNING = Status.QUEUED, Status.RUNNING
_APPLIED, _CONFLICT, _NOT_FOUND, _ILLEGAL = UpdateOutcome


@dataclass(frozen=True)
class Way:
    """One way to the store, and SQL by hand on the same way."""

    store: GraphJobStore
    session: AsyncSession | None
    storage: Storage

    async def sql(self, statement: str, *binds: object) -> None:
        """Does by hand what no code of ours would."""
        if self.session is not None:
            await (await self.session.connection()).exec_driver_sql(statement, binds)
            return
        async with self.storage.session() as session, session.begin():
            await (await session.connection()).exec_driver_sql(statement, binds)


@pytest_asyncio.fixture(params=["alone", "in a session"])
async def way(request: pytest.FixtureRequest, storage: Storage) -> AsyncIterator[Way]:
    """The store, both ways: what it promises is the same."""
    if request.param == "alone":
        yield Way(storage.graph_jobs, None, storage)
        return
    async with storage.session() as session, session.begin():
        yield Way(storage.graph_jobs.using(session), session, storage)


@pytest.fixture
def store(way: Way) -> GraphJobStore:
    """The store alone, for tests that write no SQL."""
    return way.store


@pytest.fixture(params=[build_job, overlay_job], ids=["build", "overlay"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Each kind in turn."""
    made: Callable[..., Any] = request.param
    return made


def _same(one: GraphJobUpdateResult[Any], other: GraphJobUpdateResult[Any]) -> bool:
    """Two answers that say the same, versions and all: jobs are equal whatever their version."""
    assert one.job is not None
    assert other.job is not None
    return one == other and one.job.updated_at == other.job.updated_at


# --- adding ---


async def test_what_was_added_is_read_back_by_every_read(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    """With the version it was told, as its own kind and not as the other."""
    started = make(tenant).start(at=AT)
    for job in (make(tenant, correlation_id="c", metadata={"a": "☃"}), started, make(tenant).cancel(at=AT)):
        added = await store.add(job)
        as_build, as_overlay = await store.get_build_job(tenant, job.id), await store.get_overlay_job(tenant, job.id)
        found = await store.get_job(tenant, str(job.id).upper())
        assert found is not None
        assert (job, added.updated_at) == (added, found.updated_at)
        assert job == found
        expected = (found, None) if make is build_job else (None, found)
        assert expected == (as_build, as_overlay)


async def test_an_addition_is_logged_with_the_jobs_version(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    """The first event tells where the job begins, by which addition, and who asked."""
    transition = uuid.uuid4()
    added = await store.add(
        make(tenant).start(at=AT).fail(at=AT, error="broken"), transition_id=transition, actor="ann"
    )
    (event,) = await store.events(tenant, added.id)
    told = {"to": "failed", "attempts": 1, "transitionId": str(transition), "actor": "ann", "error": "broken"}
    assert (told, added.updated_at, Status.FAILED) == (dict(event.payload), event.created_at, event.status)


async def test_an_addition_asked_again_gives_the_job_as_it_now_is(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    """It adds nothing and logs nothing, also when the job has moved on."""
    transition, job = uuid.uuid4(), make(tenant)
    added = await store.add(job, transition_id=transition)
    again = await store.add(job, transition_id=transition)
    assert (added, added.updated_at) == (again, again.updated_at)
    moved = (await store.update(added.start(at=AT), expected=_QUEUED)).job
    assert moved is not None
    now = await store.add(job, transition_id=transition)
    assert (moved, moved.updated_at) == (now, now.updated_at)
    assert 2 == len(await store.events(tenant, job.id))


async def test_a_taken_id_is_refused_and_the_transaction_stays_usable(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    """Whoever took it, of whatever kind, also under another transition id; the log does not grow."""
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
    """A thousand of both kinds, each with its event; those whose ids are taken are left out, and stay as they are."""
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


# --- moving ---


async def test_a_move_is_applied_with_a_new_version_and_its_event(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    """The answer, the row and the log agree at each step of a job's life."""
    job = await store.add(make(tenant))
    steps: list[tuple[Callable[[Any], Any], GraphJobStatus]] = [
        (lambda job: job.edit(correlation_id="c"), _QUEUED),
        (lambda job: job.start(at=AT), _QUEUED),
        (lambda job: job.renew(metadata={"a": "b"}), _RUNNING),
        (lambda job: job.requeue(at=AT), _RUNNING),
        (lambda job: job.fail(at=AT, error="it \N{SNOWMAN} broke"), _QUEUED),
    ]
    for number, (step, expected) in enumerate(steps):
        moved, transition = step(job), uuid.uuid4()
        result = await store.update(moved, expected=expected, transition_id=transition, actor=f"ann {number}")
        assert (_APPLIED, True, transition, "") == (
            result.outcome,
            result.applied,
            result.transition_id,
            result.reason,
        )
        found = await store.get_job(tenant, job.id)
        assert result.job is not None
        assert found is not None
        assert (moved, moved) == (result.job, found)
        assert job.updated_at < result.job.updated_at == found.updated_at
        event = (await store.events(tenant, job.id))[-1]
        told = dict(event.payload)
        assert 32 == len(told.pop("digest"))
        error = {"error": moved.error} if moved.error else {}
        assert told == {
            "from": expected.value,
            "to": moved.status.value,
            "attempts": moved.attempts,
            "transitionId": str(transition),
            "actor": f"ann {number}",
            **error,
        }
        assert (result.event_id, moved.status, result.job.updated_at) == (event.id, event.status, event.created_at)
        job = result.job
    assert len(steps) + 1 == len(await store.events(tenant, job.id))


async def test_a_move_asked_again_answers_the_same_also_after_the_job_moved_on(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    """One event is all there is of it; that holds for a move that keeps the status, too."""
    queued = await store.add(make(tenant))
    edit, start = uuid.uuid4(), uuid.uuid4()
    edited = await store.update(queued.edit(correlation_id="c"), expected=_QUEUED, transition_id=edit)
    assert _same(edited, await store.update(queued.edit(correlation_id="c"), expected=_QUEUED, transition_id=edit))
    assert edited.job is not None
    started = await store.update(edited.job.start(at=AT), expected=_QUEUED, transition_id=start)
    assert started.job is not None
    given_back = await store.update(started.job.requeue(at=AT), expected=_RUNNING)
    assert given_back.applied
    for _ in range(2):
        assert _same(started, await store.update(edited.job.start(at=AT), expected=_QUEUED, transition_id=start))
        assert _same(edited, await store.update(queued.edit(correlation_id="c"), expected=_QUEUED, transition_id=edit))
    assert given_back.job == await store.get_job(tenant, queued.id)
    assert 4 == len(await store.events(tenant, queued.id))


async def test_a_lost_move_tells_how_the_job_now_is(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    """By status, by attempts, or by version: nothing changed, and nothing is logged."""
    queued = await store.add(make(tenant))
    edited = (await store.update(queued.edit(correlation_id="c"), expected=_QUEUED)).job
    assert edited is not None
    by_version = await store.update(queued.edit(correlation_id="d"), expected=_QUEUED)
    started = (await store.update(edited.start(at=AT), expected=_QUEUED)).job
    assert started is not None
    by_status = await store.update(queued.cancel(at=AT), expected=_QUEUED)
    given_back = (await store.update(started.requeue(at=AT), expected=_RUNNING)).job
    assert given_back is not None
    by_attempts = await store.update(edited.start(at=AT), expected=_QUEUED)
    for lost, now in ((by_version, edited), (by_status, started), (by_attempts, given_back)):
        assert (_CONFLICT, False, now, None) == (lost.outcome, lost.applied, lost.job, lost.event_id)
        assert lost.job is not None
        assert now.updated_at == lost.job.updated_at
        assert f"found it {now.status} at attempts {now.attempts}" in lost.reason
    assert given_back == await store.get_job(tenant, queued.id)
    assert 4 == len(await store.events(tenant, queued.id))


async def test_a_lost_move_can_win_under_the_same_id_later(store: GraphJobStore, tenant: str) -> None:
    """A conflict leaves nothing behind, so its id is still free."""
    queued, transition = await store.add(build_job(tenant)), uuid.uuid4()
    started = queued.start(at=AT)
    finished = started.complete(at=AT, graph_snapshot_id="g")
    early = await store.update(finished, expected=_RUNNING, transition_id=transition)
    assert (_CONFLICT, queued) == (early.outcome, early.job)
    assert (await store.update(started, expected=_QUEUED)).applied
    assert (await store.update(finished, expected=_RUNNING, transition_id=transition)).applied


async def test_a_move_from_a_version_that_is_gone_is_lost(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    """`seen` has a move that changes the status compare the version, too."""
    queued = await store.add(make(tenant))
    edited = (await store.update(queued.edit(correlation_id="c"), expected=_QUEUED)).job
    assert edited is not None
    assert queued.updated_at is not None
    stale = await store.update(queued.start(at=AT), expected=_QUEUED, expected_version=queued.updated_at)
    assert (_CONFLICT, edited) == (stale.outcome, stale.job)
    # In any zone: it is the moment that counts.
    seen = edited.updated_at.astimezone(tz=None)
    assert (await store.update(edited.start(at=AT), expected=_QUEUED, expected_version=seen)).applied


async def test_a_move_that_keeps_the_status_can_be_given_the_version(store: GraphJobStore, tenant: str) -> None:
    """What was not read, but is known by its version, can be changed as well."""
    added = await store.add(build_job(tenant))
    unread = added.stored(updated_at=None).edit(correlation_id="c")
    assert (await store.update(unread, expected=_QUEUED, expected_version=added.updated_at)).applied
    assert _CONFLICT is (await store.update(unread, expected=_QUEUED, expected_version=added.updated_at)).outcome


async def test_a_job_that_is_not_there_is_not_found(
    store: GraphJobStore, tenant: str, make: Callable[..., Any]
) -> None:
    """Nor one of another tenant, nor one of the other kind; neither is told from one that never was."""
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


async def test_an_id_of_another_move_is_refused_where_the_move_is_lost(store: GraphJobStore, tenant: str) -> None:
    """The same words under the same id, but another job: neither applied nor told as if it were."""
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


async def test_an_id_that_two_moves_were_given_answers_each_its_own(store: GraphJobStore, tenant: str) -> None:
    """A mistake of the caller's that no look before the move prevents: it would cost each move a read of the log."""
    queued, transition = await store.add(build_job(tenant)), uuid.uuid4()
    started = await store.update(queued.start(at=AT), expected=_QUEUED, transition_id=transition)
    assert started.job is not None
    back = await store.update(started.job.requeue(at=AT), expected=_RUNNING, transition_id=transition)
    assert started == await store.update(queued.start(at=AT), expected=_QUEUED, transition_id=transition)
    assert back == await store.update(started.job.requeue(at=AT), expected=_RUNNING, transition_id=transition)
    assert 3 == len(await store.events(tenant, queued.id))


async def test_one_id_may_name_moves_of_two_jobs(store: GraphJobStore, tenant: str) -> None:
    """An id names a move of one job, so that a batch may share one."""
    transition = uuid.uuid4()
    for _ in range(2):
        queued = await store.add(build_job(tenant), transition_id=transition)
        assert (await store.update(queued.cancel(at=AT), expected=_QUEUED, transition_id=uuid.uuid4())).applied
        assert 2 == len(await store.events(tenant, queued.id))


async def test_a_move_of_a_row_that_cannot_be_read_raises_and_changes_nothing(way: Way, tenant: str) -> None:
    """It is there, so it is not missing; and what it is, nobody can tell."""
    queued = await way.store.add(build_job(tenant))
    await way.sql("UPDATE scheduler.graph_jobs SET status = 99 WHERE id = $1", queued.id)
    with pytest.raises(CorruptRow, match=str(queued.id)):
        await way.store.update(queued.start(at=AT), expected=_QUEUED)
    with pytest.raises(CorruptRow, match=str(queued.id)):
        await way.store.get_job(tenant, queued.id)
    assert 1 == len(await way.store.events(tenant, queued.id))


# --- what is refused before any SQL ---


class _NoSql:
    """An executor for calls that should never come to it."""

    async def fetch_all(self, statement: Executable, params: Params) -> Sequence[Row]:
        raise AssertionError(f"SQL ran: {statement} {params}")

    def using(self, session: AsyncSession) -> SessionExecutor:
        raise AssertionError(session)


_READ = build_job("a", id=uuid.uuid4()).stored(updated_at=AT)
_BAD_CALLS: dict[str, tuple[Callable[[Any], Awaitable[object]], str]] = {
    "add no job": (lambda store: store.add({}), "job"),
    "add by a transition that is text": (lambda store: store.add(_READ, transition_id=str(_READ.id)), "transition_id"),
    "add by an actor without a name": (lambda store: store.add(_READ, actor=""), "actor"),
    "add by an actor of 257": (lambda store: store.add(_READ, actor="x" * 257), "actor"),
    "add many, one of them none": (lambda store: store.add_many([_READ, None]), "job"),
    "add 1,001": (lambda store: store.add_many(build_job() for _ in range(1_001)), "jobs"),
    "add without end": (lambda store: store.add_many(iter(build_job, None)), "jobs"),
    "add many of two tenants": (lambda store: store.add_many([build_job("a"), build_job("b")]), "jobs"),
    "add one id twice": (lambda store: store.add_many([_READ, overlay_job("a", id=_READ.id)]), "jobs"),
    "add many by NUL": (lambda store: store.add_many([_READ], actor="\0"), "actor"),
    "get of no tenant": (lambda store: store.get_job("", _READ.id), "tenant_id"),
    "get a number": (lambda store: store.get_job("a", 42), "job_id"),
    "get a build of a number": (lambda store: store.get_build_job("a", 42), "job_id"),
    "get an overlay of no tenant": (lambda store: store.get_overlay_job("\ud800", _READ.id), "tenant_id"),
    "page of no tenant": (lambda store: store.get_jobs(None), "tenant_id"),
    "page by words": (lambda store: store.get_jobs("a", "queued"), "query"),
    "page by a dict": (lambda store: store.get_jobs("a", {"limit": 1}), "query"),
    "active ones of no tenant": (lambda store: store.get_active_overlay_jobs(""), "tenant_id"),
    "count of no tenant": (lambda store: store.count("a\0"), "tenant_id"),
    "count by words": (lambda store: store.count("a", "queued"), "query"),
    "events of no tenant": (lambda store: store.events("", _READ.id), "tenant_id"),
    "events, limit 0": (lambda store: store.events("a", _READ.id, limit=0), "limit"),
    "events, limit 1,001": (lambda store: store.events("a", _READ.id, limit=1_001), "limit"),
    "events, limit True": (lambda store: store.events("a", _READ.id, limit=True), "limit"),
    "events after -1": (lambda store: store.events("a", _READ.id, after=-1), "after"),
    "move no job": (lambda store: store.update(None, expected=_QUEUED), "job"),
    "move from nowhere": (lambda store: store.update(_READ.start(at=AT), expected="pending"), "expected"),
    "move by text": (
        lambda store: store.update(_READ.start(at=AT), expected=_QUEUED, transition_id="x"),
        "transition_id",
    ),
    "move by NUL": (lambda store: store.update(_READ.start(at=AT), expected=_QUEUED, actor="\0"), "actor"),
    "move from a naive time": (
        lambda store: store.update(_READ.start(at=AT), expected=_QUEUED, expected_version=AT.replace(tzinfo=None)),
        "expected_version",
    ),
    "move from a text": (
        lambda store: store.update(_READ.start(at=AT), expected=_QUEUED, expected_version=str(AT)),
        "expected_version",
    ),
    "edit what was never stored": (
        lambda store: store.update(build_job().edit(metadata={"a": "b"}), expected=_QUEUED),
        "updated_at",
    ),
    "renew what was never stored": (
        lambda store: store.update(overlay_job().start(at=AT).renew(at=AT), expected=_RUNNING),
        "updated_at",
    ),
    "lag of no tenant": (lambda store: store.overlay_lag("", window=timedelta(days=1)), "tenant_id"),
    "lag of nothing": (lambda store: store.overlay_lag("a", window=timedelta(0)), "window"),
    "lag of less": (lambda store: store.overlay_lag("a", window=timedelta(seconds=-1)), "window"),
    "lag of 367 days": (lambda store: store.overlay_lag("a", window=timedelta(days=367)), "window"),
    "lag of a number": (lambda store: store.overlay_lag("a", window=60), "window"),
    "a cursor of nonsense": (lambda store: store.get_jobs("a", GraphJobQuery(cursor="nonsense")), "cursor"),
    "a count's cursor is not looked at, but its tenant is": (
        lambda store: store.count("", GraphJobQuery(cursor="nonsense")),
        "tenant_id",
    ),
}


@pytest.mark.parametrize("name", list(_BAD_CALLS))
async def test_a_bad_argument_is_refused_by_its_name_before_any_sql(name: str) -> None:
    """Nothing runs for it."""
    call, field = _BAD_CALLS[name]
    with pytest.raises(InvalidJob, match=field) as caught:
        await call(PostgresGraphJobStore(_NoSql()))
    assert field == caught.value.field


_STARTED = build_job().start(at=AT)
_FINISHED = _STARTED.complete(at=AT, graph_snapshot_id="g")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (_QUEUED, _FINISHED),
        *(
            (final, job)
            for final in (Status.COMPLETED, Status.FAILED, Status.CANCELED)
            for job in (_READ, _STARTED, _FINISHED)
        ),
    ],
)
async def test_an_illegal_move_is_told_before_any_sql(source: GraphJobStatus, target: Any) -> None:
    """With the id it was given and the moves that are legal; it is an answer, and no error."""
    transition = uuid.uuid4()
    result = await PostgresGraphJobStore(_NoSql()).update(target, expected=source, transition_id=transition)
    assert (_ILLEGAL, transition, None, None) == (result.outcome, result.transition_id, result.job, result.event_id)
    assert f"cannot go from {source} to {target.status}" in result.reason


async def test_text_that_is_no_uuid_is_not_found(store: GraphJobStore, tenant: str) -> None:
    """It is an empty answer and no error."""
    for nonsense in ("", "42", "x" * 10_000, "\0", str(uuid.uuid4())):
        assert await store.get_job(tenant, nonsense) is None
        assert await store.get_build_job(tenant, nonsense) is None
        assert await store.get_overlay_job(tenant, nonsense) is None
        assert () == await store.events(tenant, nonsense)


# --- pages ---


async def _walked(store: GraphJobStore, tenant: str, query: GraphJobQuery) -> list[GraphJobCollection]:
    """Walks from page to page to the end."""
    pages = [await store.get_jobs(tenant, query)]
    while (cursor := pages[-1].next_cursor) is not None:
        assert len(pages) < 1_000
        pages.append(await store.get_jobs(tenant, query.replace(cursor=cursor)))
    return pages


def _newest_first(jobs: Sequence[Any]) -> list[Any]:
    return sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)


async def _filled(store: GraphJobStore, tenant: str) -> list[Any]:
    """Sixty jobs of both kinds and every status, five of each time, a third of a correlation."""
    made: list[Any] = []
    for number in range(60):
        fields = {
            "created_at": AT + timedelta(minutes=number // 5),
            "correlation_id": "c" if number % 3 == 0 else None,
        }
        queued: Any = (build_job if number % 2 else overlay_job)(tenant, **fields)
        started = queued.start(at=AT)
        final = {"graph_snapshot_id": "g"} if number % 2 else {}
        made.append(
            [
                queued,
                started,
                started.complete(at=AT, **final),
                queued.fail(at=AT, error="broken"),
                queued.cancel(at=AT),
            ][number // 2 % 5]
        )
    assert len(made) == len(await store.add_many(made))
    return made


_LATER = AT + timedelta(minutes=4)
_LATEST = AT + timedelta(minutes=9)
_QUERIES: dict[str, tuple[dict[str, Any], Callable[[Any], bool]]] = {
    "all": ({}, lambda job: True),
    "builds": ({"type": GraphJobType.BUILD}, lambda job: job.type is GraphJobType.BUILD),
    "overlays by their word": ({"type": "overlay"}, lambda job: job.type is GraphJobType.OVERLAY),
    "queued": ({"statuses": "queued"}, lambda job: job.status is _QUEUED),
    "running or failed": (
        {"statuses": [_RUNNING, "failed"]},
        lambda job: job.status in (_RUNNING, Status.FAILED),
    ),
    "every status": ({"statuses": set(GraphJobStatus)}, lambda job: True),
    "builds that are over": (
        {"type": "build", "statuses": {Status.COMPLETED, Status.FAILED, Status.CANCELED}},
        lambda job: job.type is GraphJobType.BUILD and job.status.is_final,
    ),
    "a correlation": ({"correlation_id": "c"}, lambda job: job.correlation_id == "c"),
    "a correlation of nobody": ({"correlation_id": "nobody"}, lambda job: False),
    "from": ({"created_from": _LATER}, lambda job: job.created_at >= _LATER),
    "to": ({"created_to": _LATER}, lambda job: job.created_at < _LATER),
    "queued builds of a range": (
        {"type": "build", "statuses": ("queued",), "created_from": _LATER, "created_to": _LATEST},
        lambda job: job.type is GraphJobType.BUILD and job.status is _QUEUED and _LATER <= job.created_at < _LATEST,
    ),
    "a correlation of a range": (
        {"correlation_id": "c", "created_from": _LATER, "created_to": _LATEST},
        lambda job: job.correlation_id == "c" and _LATER <= job.created_at < _LATEST,
    ),
    "a moment": (
        {"created_from": _LATER, "created_to": _LATER + timedelta(microseconds=1)},
        lambda job: job.created_at == _LATER,
    ),
    "before Christ, nearly": ({"created_to": datetime(1, 1, 1, tzinfo=UTC) + timedelta(1)}, lambda job: False),
    "the last of days": ({"created_from": datetime.max.replace(tzinfo=UTC)}, lambda job: False),
    "all days": (
        {"created_from": datetime.min.replace(tzinfo=UTC), "created_to": datetime.max.replace(tzinfo=UTC)},
        lambda job: True,
    ),
}


@pytest.mark.parametrize("name", list(_QUERIES))
async def test_pages_hold_exactly_what_was_asked_for_once_and_newest_first(
    store: GraphJobStore, tenant: str, name: str
) -> None:
    """Whatever the page's length: jobs of one time are met once each, also where a page ends among them."""
    filters, wanted = _QUERIES[name]
    expected = _newest_first([job for job in await _filled(store, tenant) if wanted(job)])
    for limit in (1, 3, 7, len(expected) or 1, 1_000):
        pages = await _walked(store, tenant, GraphJobQuery(limit=limit, **filters))
        assert expected == [job for page in pages for job in page.jobs]
        # Each page but the last is full, and the last is not empty, unless all is.
        assert [limit] * (len(pages) - 1) == [len(page.jobs) for page in pages[:-1]]
        assert len(pages) == max(1, -(-len(expected) // limit))
        assert all(page.unreadable == () for page in pages)
    counted = await store.count(tenant, GraphJobQuery(**filters))
    assert BoundedCount(len(expected)) == counted


async def test_jobs_of_one_time_are_walked_by_their_ids(store: GraphJobStore, tenant: str) -> None:
    """A hundred that somebody added at once share a time, and are still met once each."""
    added = await store.add_many([build_job(tenant, created_at=AT) for _ in range(100)])
    pages = await _walked(store, tenant, GraphJobQuery(limit=9))
    assert _newest_first(added) == [job for page in pages for job in page.jobs]


async def test_a_page_that_ends_with_the_jobs_has_no_next(store: GraphJobStore, tenant: str) -> None:
    """Nobody is sent to a page that is empty."""
    await store.add_many([build_job(tenant) for _ in range(3)])
    assert (await store.get_jobs(tenant, GraphJobQuery(limit=3))).next_cursor is None
    assert (await store.get_jobs(tenant, GraphJobQuery(limit=2))).next_cursor is not None
    assert 3 == len((await store.get_jobs(tenant)).jobs)
    assert GraphJobCollection(()) == await store.get_jobs(f"{tenant}-nobody")


async def test_a_cursor_goes_on_whatever_the_limit(store: GraphJobStore, tenant: str) -> None:
    """The page may be made longer as one walks, and statuses may be told in any order."""
    added = _newest_first(await store.add_many([build_job(tenant) for _ in range(10)]))
    first = await store.get_jobs(tenant, GraphJobQuery(statuses=(_QUEUED, _RUNNING), limit=2))
    rest = await store.get_jobs(
        tenant, GraphJobQuery(statuses=(_RUNNING, _QUEUED, _QUEUED), limit=1_000, cursor=first.next_cursor)
    )
    assert (added[:2], added[2:]) == (list(first.jobs), list(rest.jobs))
    assert rest.next_cursor is None


async def test_a_cursor_of_another_tenant_or_query_is_refused(store: GraphJobStore, tenant: str) -> None:
    """So is one that was cut or changed; the tenant's jobs stay where they are."""
    await store.add_many([build_job(tenant) for _ in range(3)])
    query = GraphJobQuery(statuses=(_QUEUED,), limit=1)
    cursor = (await store.get_jobs(tenant, query)).next_cursor
    assert cursor is not None
    refused = [
        (f"{tenant}-thief", query.replace(cursor=cursor)),
        *(
            (tenant, query.replace(cursor=cursor, **other))
            for other in (
                {"statuses": ()},
                {"statuses": (_QUEUED, _RUNNING)},
                {"type": "build"},
                {"created_from": AT},
                {"created_to": AT},
                {"statuses": (), "correlation_id": "c"},
            )
        ),
        *((tenant, query.replace(cursor=text)) for text in (cursor[:-1], cursor[1:], cursor[:40], f"{cursor}A", "A")),
    ]
    for whose, asked in refused:
        with pytest.raises(InvalidJob, match="cursor") as caught:
            await store.get_jobs(whose, asked)
        assert "cursor" == caught.value.field
    # Of a count it is not looked at: the query is counted as a whole.
    assert BoundedCount(3) == await store.count(tenant, query.replace(cursor=cursor))


_MID_DAMAGE = {
    "a payload that is none": "payload = '[]'",
    "a status above all": "status = 99",
    "a status below all": "status = -7",
    "a type that is none": "type = 7",
    "another tenant in the payload": """payload = payload || '{"tenantId": "other"}'""",
}


@pytest.mark.parametrize("damage", list(_MID_DAMAGE))
@pytest.mark.parametrize("limit", [1, 3, 10])
async def test_rows_that_cannot_be_read_are_told_and_the_walk_goes_on(
    way: Way, tenant: str, damage: str, limit: int
) -> None:
    """Each is told once, on the page it would be on; a page of nothing else still has a next."""
    added = _newest_first(
        await way.store.add_many([build_job(tenant, created_at=AT + timedelta(minutes=n // 2)) for n in range(12)])
    )
    broken = {job.id for job in (added[0], added[4], added[5], added[6], added[11])}
    await way.sql(f"UPDATE scheduler.graph_jobs SET {_MID_DAMAGE[damage]} WHERE id = ANY($1)", list(broken))
    pages = await _walked(way.store, tenant, GraphJobQuery(limit=limit))
    assert [job for job in added if job.id not in broken] == [job for page in pages for job in page.jobs]
    told = [row.row_id for page in pages for row in page.unreadable]
    assert (len(broken), broken) == (len(told), set(told))
    assert all(limit == len(page.jobs) + len(page.unreadable) for page in pages[:-1])
    assert BoundedCount(12) == await way.store.count(tenant)


async def test_a_row_of_a_time_that_python_cannot_hold_is_on_no_page(way: Way, tenant: str) -> None:
    """Neither before the first nor after the last: the walk is of the others."""
    added = _newest_first(await way.store.add_many([build_job(tenant) for _ in range(5)]))
    for job, time in zip(added, ("infinity", "-infinity", "12026-01-01", "0044-03-15 BC"), strict=False):
        await way.sql(f"UPDATE scheduler.graph_jobs SET created_at = '{time}' WHERE id = $1", job.id)
    pages = await _walked(way.store, tenant, GraphJobQuery(limit=1))
    assert [added[-1:]] == [list(page.jobs) for page in pages]


async def test_a_walk_amid_additions_meets_what_was_there_once(storage: Storage, tenant: str) -> None:
    """A job is added beside each page, the newest of all or the oldest: no old one is missed, none is met twice."""
    store, query = storage.graph_jobs, GraphJobQuery(limit=3)
    old = await store.add_many([build_job(tenant) for _ in range(100)])
    found: list[Any] = []
    oldest: set[uuid.UUID] = set()
    cursor: str | None = None
    for number in range(1_000):
        job = overlay_job(tenant) if number % 2 else build_job(tenant, created_at=AT - timedelta(seconds=number))
        page, _ = await asyncio.gather(store.get_jobs(tenant, query.replace(cursor=cursor)), store.add(job))
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            break
        oldest |= set() if number % 2 else {job.id}
    ids = [job.id for job in found]
    assert cursor is None
    assert len(oldest) > 15
    assert len(ids) == len(set(ids))
    assert {job.id for job in old} | oldest <= set(ids)
    assert found == _newest_first(found)


async def test_the_active_overlays_are_those_queued_or_running(store: GraphJobStore, tenant: str) -> None:
    """Builds are none, nor is what is over; newest first."""
    made = await _filled(store, tenant)
    active = [job for job in made if job.type is GraphJobType.OVERLAY and job.status in (_QUEUED, _RUNNING)]
    assert GraphJobCollection(tuple(_newest_first(active))) == await store.get_active_overlay_jobs(tenant)


async def test_more_active_overlays_than_a_page_are_gone_on_with(store: GraphJobStore, tenant: str) -> None:
    """The cursor is that of the query its documentation names."""
    added = [*await store.add_many([overlay_job(tenant) for _ in range(1_000)]), await store.add(overlay_job(tenant))]
    first = await store.get_active_overlay_jobs(tenant)
    rest = await store.get_jobs(
        tenant,
        GraphJobQuery(type=GraphJobType.OVERLAY, statuses=(_QUEUED, _RUNNING), cursor=first.next_cursor),
    )
    assert _newest_first(added) == [*first.jobs, *rest.jobs]
    assert (1_000, None) == (len(first.jobs), rest.next_cursor)


# --- counts and lag ---


async def test_a_count_is_exact_up_to_its_cap_and_tells_so_beyond(way: Way, tenant: str) -> None:
    """Ten thousand are counted; of one more it is said that there are more."""
    await way.sql(
        "INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, correlation_id)"
        " SELECT gen_random_uuid(), $1, n % 2, n % 5, '{}', 'c' FROM generate_series(1, 10000) n",
        tenant,
    )
    everything = GraphJobQuery()
    for query in (None, everything, GraphJobQuery(correlation_id="c"), GraphJobQuery(statuses=tuple(GraphJobStatus))):
        assert BoundedCount(10_000, exact=True) == await way.store.count(tenant, query)
    assert BoundedCount(5_000) == await way.store.count(tenant, GraphJobQuery(type="build"))  # type: ignore[arg-type]
    await way.store.add(build_job(tenant, correlation_id="c"))
    for query in (None, everything, GraphJobQuery(correlation_id="c"), GraphJobQuery(statuses=tuple(GraphJobStatus))):
        counted = await way.store.count(tenant, query)
        assert (BoundedCount(10_000, exact=False), "more than 10000") == (counted, str(counted))
    assert BoundedCount(0) == await way.store.count(f"{tenant}-nobody")


@pytest.mark.parametrize(("cap", "exact"), [(5, False), (6, True), (7, True)])
async def test_the_cap_is_where_the_count_ends(
    store: GraphJobStore, tenant: str, cap: int, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the cap it is exact, and one below the number it is not; the lag's counts end there as well."""
    monkeypatch.setattr(store_room, "COUNT_MAX", cap)
    await store.add_many([overlay_job(tenant) for _ in range(6)])
    expected = BoundedCount(min(cap, 6), exact=exact)
    assert expected == await store.count(tenant, GraphJobQuery(statuses=(_QUEUED, _RUNNING)))
    assert expected == (await store.overlay_lag(tenant, window=timedelta(days=1))).counts[_QUEUED]


async def test_the_lag_of_nobody_is_none(store: GraphJobStore, tenant: str) -> None:
    """No overlay, no age and no percentile; builds are none."""
    await store.add(build_job(tenant))
    lag = await store.overlay_lag(tenant, window=timedelta(days=366))
    assert {status: BoundedCount(0) for status in GraphJobStatus} == lag.counts
    assert (None, None, None, 0, timedelta(days=366)) == (
        lag.oldest_queued,
        lag.p50,
        lag.p95,
        lag.completed,
        lag.window,
    )


async def test_the_lag_is_of_the_databases_times(way: Way, tenant: str) -> None:
    """Counts by status, the oldest queued one's age, and percentiles over those created in the window only."""
    started = overlay_job(tenant).start(at=AT)
    completed = [started.complete(at=AT).replace(id=uuid.uuid4()) for _ in range(5)]
    queued = [overlay_job(tenant) for _ in range(3)]
    others: list[Any] = [started, overlay_job(tenant).cancel(at=AT), build_job(tenant)]
    await way.store.add_many([*completed, *queued, *others])
    # The last one was created before the window, and would be the slowest.
    for job, (age, seconds) in zip(
        completed, [("1 hour", 10), ("2 hours", 20), ("3 hours", 30), ("23 hours", 40), ("25 hours", 5000)], strict=True
    ):
        await way.sql(
            f"UPDATE scheduler.graph_jobs SET created_at = now() - interval '{age}',"
            f" updated_at = now() - interval '{age}' + interval '{seconds} seconds' WHERE id = $1",
            job.id,
        )
    for job, age in zip(queued, ("3 seconds", "90 minutes", "-1 hour"), strict=True):
        await way.sql(
            f"UPDATE scheduler.graph_jobs SET created_at = now() - interval '{age}' WHERE id = $1",
            job.id,
        )
    lag = await way.store.overlay_lag(tenant, window=timedelta(days=1))
    counts = {
        _QUEUED: 3,
        _RUNNING: 1,
        Status.COMPLETED: 5,
        Status.FAILED: 0,
        Status.CANCELED: 1,
    }
    assert {status: BoundedCount(count) for status, count in counts.items()} == lag.counts
    assert (4, 25.0) == (lag.completed, lag.p50)
    assert 38.5 == pytest.approx(lag.p95)
    assert lag.oldest_queued is not None
    assert 5_400 <= lag.oldest_queued < 5_460


async def test_no_age_is_less_than_nothing(way: Way, tenant: str) -> None:
    """A creator's clock may be ahead of the database's; that is no negative lag."""
    future = timedelta(hours=1)
    queued = overlay_job(tenant, created_at=datetime.now(UTC) + future)
    completed = overlay_job(tenant, created_at=datetime.now(UTC) + future).start(at=AT).complete(at=AT)
    await way.store.add_many([queued, completed])
    lag = await way.store.overlay_lag(tenant, window=timedelta(minutes=1))
    assert (0.0, 0.0, 0.0, 1) == (lag.oldest_queued, lag.p50, lag.p95, lag.completed)


@pytest.mark.parametrize("column", ["created_at", "updated_at"])
@pytest.mark.parametrize("time", ["infinity", "-infinity", "12026-01-01"])
async def test_a_time_that_is_none_does_not_make_the_lag_fail(way: Way, tenant: str, column: str, time: str) -> None:
    """Such a row is counted, and has no age."""
    jobs = [overlay_job(tenant), overlay_job(tenant).start(at=AT).complete(at=AT)]
    await way.store.add_many(jobs)
    await way.sql(f"UPDATE scheduler.graph_jobs SET {column} = '{time}' WHERE tenant_id = $1", tenant)
    lag = await way.store.overlay_lag(tenant, window=timedelta(days=1))
    assert (BoundedCount(1), BoundedCount(1), 0, None) == (
        lag.counts[_QUEUED],
        lag.counts[Status.COMPLETED],
        lag.completed,
        lag.p50,
    )
    assert (lag.oldest_queued is None) == (column == "created_at")


# --- transactions and tenants ---


async def test_the_store_says_whether_it_is_autocommit(way: Way) -> None:
    """Who has side effects of his own to do after a commit asks for this."""
    assert (way.session is None) == way.store.is_autocommit


async def test_a_rollback_leaves_neither_job_nor_event(storage: Storage, tenant: str) -> None:
    """Of an addition, of many, and of a move: while open nobody else sees them, and committed all are there."""
    alone, kept = storage.graph_jobs, await storage.graph_jobs.add(build_job(tenant))
    given, many = build_job(tenant), [overlay_job(tenant) for _ in range(3)]
    for ending in ("rollback", "commit"):
        async with storage.session() as session:
            inside = alone.using(session)
            await inside.add(given)
            await inside.add_many(many)
            assert (await inside.update(given.start(at=AT), expected=_QUEUED)).applied
            assert (await inside.update(kept.cancel(at=AT), expected=_QUEUED)).applied
            assert BoundedCount(5) == await inside.count(tenant)
            assert (kept,) == (await alone.get_jobs(tenant)).jobs
            await (session.rollback() if ending == "rollback" else session.commit())
        lengths = [len(await alone.events(tenant, job.id)) for job in (kept, given, *many)]
        counted = await alone.count(tenant)
        assert ([1, 0, 0, 0, 0], BoundedCount(1)) == (lengths, counted) or ending == "commit"
    assert ([2, 2, 1, 1, 1], BoundedCount(5)) == (lengths, counted)


async def test_a_conflict_and_a_taken_id_leave_the_transaction_usable(storage: Storage, tenant: str) -> None:
    """What the caller wrote before and after commits."""
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
    """Not even who knows the job, its version, its correlation and its transition's id."""
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
        for move in (stolen.start(at=AT), stolen.edit(correlation_id="mine")):
            taken = await store.update(
                move, expected=_QUEUED, expected_version=job.updated_at, transition_id=transition
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


async def test_the_log_is_read_from_an_event_on(store: GraphJobStore, tenant: str) -> None:
    """In its order, oldest first, page by page."""
    job = await store.add(build_job(tenant))
    for number in range(6):
        edited = (await store.update(job.edit(metadata={"n": str(number)}), expected=_QUEUED)).job
        assert edited is not None
        job = edited
    whole = await store.events(tenant, job.id)
    assert 7 == len(whole)
    assert whole == tuple(sorted(whole, key=lambda event: (event.id, event.created_at)))
    first = await store.events(tenant, job.id, limit=3)
    assert first[-1].id is not None
    assert (whole[:3], whole[3:]) == (first, await store.events(tenant, job.id, after=first[-1].id))
