"""Arguments that the store of graph jobs rejects before any SQL."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncSession

from graphjobs import GraphJobStatus, InvalidJob
from graphjobs.core.transitions import UpdateOutcome
from graphjobs.database.executor import Params, Row, SessionExecutor
from graphjobs.graph_jobs.filters import GraphJobQuery
from graphjobs.graph_jobs.store import GraphJobStore, PostgresGraphJobStore
from tests.builders import AT, build_job, overlay_job

Status = GraphJobStatus

_QUEUED, _RUNNING = Status.QUEUED, Status.RUNNING
_APPLIED, _CONFLICT, _NOT_FOUND, _ILLEGAL = UpdateOutcome


class _NoSql:
    """An executor that must not be called."""

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
    """The executor is not called."""
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
async def test_an_illegal_update_is_reported_before_any_sql(source: GraphJobStatus, target: Any) -> None:
    transition = uuid.uuid4()
    result = await PostgresGraphJobStore(_NoSql()).update(target, expected=source, transition_id=transition)
    assert (_ILLEGAL, transition, None, None) == (result.outcome, result.transition_id, result.job, result.event_id)
    assert f"cannot go from {source} to {target.status}" in result.reason


async def test_text_that_is_no_uuid_is_not_found(store: GraphJobStore, tenant: str) -> None:
    for nonsense in ("", "42", "x" * 10_000, "\0", str(uuid.uuid4())):
        assert await store.get_job(tenant, nonsense) is None
        assert await store.get_build_job(tenant, nonsense) is None
        assert await store.get_overlay_job(tenant, nonsense) is None
        assert () == await store.events(tenant, nonsense)
