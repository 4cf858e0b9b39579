"""The repository of graph jobs, for both job types, in autocommit and in a session."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from graphjobs import (
    ConfigurationError,
    GraphBuildJob,
    GraphJobEvent,
    GraphJobStatus,
    GraphOverlayJob,
    IllegalTransition,
    InvalidJob,
    JobAlreadyExists,
    JobNotFound,
)
from graphjobs.database.engine import connect
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job, overlay_job

Status = GraphJobStatus

Repository = GraphJobRepository


@pytest.fixture
def jobs(session: AsyncSession | None, storage: Storage) -> Repository:
    """The repository, with both kinds of access."""
    return Repository(storage.database if session is None else storage.database.using(session))


class Kind:
    """A job type, with the methods of the repository for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.make: Callable[..., Any] = build_job if name == "build" else overlay_job

    def get(self, jobs: Repository, tenant: Any, job_id: Any) -> Awaitable[Any]:
        return jobs.get_build_job(tenant, job_id) if self.name == "build" else jobs.get_overlay_job(tenant, job_id)

    def list(self, jobs: Repository, tenant: Any, status: Any = None, *, limit: Any = 100) -> Awaitable[Any]:
        method = jobs.list_build_jobs if self.name == "build" else jobs.list_overlay_jobs
        return method(tenant, status, limit=limit)

    def replace(self, jobs: Repository, job: Any, expected: Any) -> Awaitable[bool]:
        method: Any = jobs.try_replace if self.name == "build" else jobs.try_replace_overlay
        return method(job, expected)  # type: ignore[no-any-return]

    def completed(self, job: Any) -> Any:
        return job.complete(at=AT, graph_snapshot_id="g") if self.name == "build" else job.complete(at=AT)


@pytest.fixture(params=["build", "overlay"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each job type in turn."""
    return Kind(request.param)


@pytest.fixture
def other(kind: Kind) -> Kind:
    """The other job type."""
    return Kind("overlay" if kind.name == "build" else "build")


async def test_an_inserted_job_is_read_with_all_fields(jobs: Repository, kind: Kind, tenant: str) -> None:
    queued = kind.make(tenant, correlation_id="c", metadata={"a": "tab\tline\n", "ü": "☃"})
    running = kind.make(tenant).start(at=AT)
    for job in (queued, running, kind.completed(running.replace(id=uuid.uuid4())), kind.make(tenant).cancel(at=AT)):
        stored = await jobs.insert(job)
        found = await kind.get(jobs, tenant, str(job.id).upper())
        assert job == found == stored
        assert found.updated_at == stored.updated_at is not None


async def test_an_id_is_inserted_once(jobs: Repository, kind: Kind, other: Kind, tenant: str) -> None:
    job = kind.make(tenant)
    await jobs.insert(job)
    for again in (job, job.replace(metadata={"a": "b"}), other.make(tenant, id=job.id), kind.make("other", id=job.id)):
        with pytest.raises(JobAlreadyExists, match=str(job.id)) as caught:
            await jobs.insert(again)
        assert job.id == caught.value.job_id
    assert job == await kind.get(jobs, tenant, job.id)


async def test_a_job_is_found_only_by_the_methods_of_its_type(
    jobs: Repository, kind: Kind, other: Kind, tenant: str
) -> None:
    job = await jobs.insert(kind.make(tenant))
    assert await other.get(jobs, tenant, job.id) is None
    assert await other.list(jobs, tenant) == ()
    assert not await other.replace(
        jobs, other.make(tenant, id=job.id, created_at=job.created_at).start(at=AT), Status.QUEUED
    )
    assert job == await kind.get(jobs, tenant, job.id)


async def test_a_tenant_has_no_access_to_jobs_of_another(jobs: Repository, kind: Kind, tenant: str) -> None:
    job = await jobs.insert(kind.make(tenant))
    await jobs.append_event(GraphJobEvent(job_id=job.id, tenant_id=tenant, status=Status.QUEUED))
    thief = f"{tenant}-thief"
    assert await kind.get(jobs, thief, job.id) is None
    assert await kind.list(jobs, thief) == ()
    assert not await kind.replace(jobs, job.replace(tenant_id=thief).start(at=AT), Status.QUEUED)
    assert await jobs.list_events(thief, job.id) == ()
    with pytest.raises(JobNotFound, match=thief):
        await jobs.append_event(GraphJobEvent(job_id=job.id, tenant_id=thief, status=Status.QUEUED))
    assert job == await kind.get(jobs, tenant, job.id)
    assert len(await jobs.list_events(tenant, job.id)) == 1


async def test_tenants_are_compared_byte_by_byte(jobs: Repository, tenant: str) -> None:
    names = [tenant, tenant.upper(), f"{tenant} ", f"{tenant}é", f"{tenant}e\u0301", f"{tenant}%", f"{tenant}_"]
    for name in names:
        await jobs.insert(build_job(name))
    for name in names:
        assert [name] == [job.tenant_id for job in await jobs.list_build_jobs(name, limit=10)]


@pytest.mark.parametrize("source", [Status.QUEUED, Status.RUNNING])
@pytest.mark.parametrize("target", list(GraphJobStatus))
async def test_each_legal_transition_is_applied_and_others_are_refused(
    jobs: Repository, kind: Kind, tenant: str, source: GraphJobStatus, target: GraphJobStatus
) -> None:
    """A queued job cannot complete; an update that keeps the status is legal."""
    job = queued = await jobs.insert(kind.make(tenant))
    if source is Status.RUNNING:
        assert await kind.replace(jobs, queued.start(at=AT), Status.QUEUED)
        job = await kind.get(jobs, tenant, job.id)
    started = job if source is Status.RUNNING else job.start(at=AT)
    updated = {
        Status.QUEUED: lambda: job.edit(metadata={"a": "b"}) if source is Status.QUEUED else job.requeue(at=AT),
        Status.RUNNING: lambda: job.start(at=AT) if source is Status.QUEUED else job.renew(at=AT, metadata={"a": "b"}),
        Status.COMPLETED: lambda: kind.completed(started),
        Status.FAILED: lambda: job.fail(at=AT, error="broken"),
        Status.CANCELED: lambda: job.cancel(at=AT),
    }[target]()
    if (source, target) == (Status.QUEUED, Status.COMPLETED):
        with pytest.raises(IllegalTransition):
            await kind.replace(jobs, updated, source)
        assert job == await kind.get(jobs, tenant, job.id)
        return
    assert await kind.replace(jobs, updated, source)
    found = await kind.get(jobs, tenant, job.id)
    assert updated == found
    assert found.updated_at > queued.updated_at


@pytest.mark.parametrize("final", [Status.COMPLETED, Status.FAILED, Status.CANCELED])
@pytest.mark.parametrize("target", list(GraphJobStatus))
async def test_a_final_job_is_never_updated(
    jobs: Repository, kind: Kind, tenant: str, final: GraphJobStatus, target: GraphJobStatus
) -> None:
    started = kind.make(tenant).start(at=AT)
    values = {
        Status.QUEUED: lambda: started.requeue(at=AT),
        Status.RUNNING: lambda: started,
        Status.COMPLETED: lambda: kind.completed(started),
        Status.FAILED: lambda: started.fail(at=AT, error="broken"),
        Status.CANCELED: lambda: started.cancel(at=AT),
    }
    job = await jobs.insert(values[final]())
    updated = values[target]()
    with pytest.raises(IllegalTransition):
        await kind.replace(jobs, updated, final)
    assert not await kind.replace(jobs, updated.stored(updated_at=job.updated_at), Status.RUNNING)
    assert job == await kind.get(jobs, tenant, job.id)


async def test_a_lost_update_returns_false_and_changes_nothing(jobs: Repository, kind: Kind, tenant: str) -> None:
    stored = await jobs.insert(kind.make(tenant))
    started = stored.start(at=AT)
    lost_updates = [
        (started.cancel(at=AT), Status.RUNNING),
        (started.replace(attempts=2), Status.QUEUED),
        (
            stored.edit(metadata={"a": "b"}).stored(updated_at=stored.updated_at - timedelta(microseconds=1)),
            Status.QUEUED,
        ),
        (started.replace(id=uuid.uuid4()), Status.QUEUED),
        (started.replace(created_at=AT), Status.QUEUED),
    ]
    for updated, expected in lost_updates:
        assert not await kind.replace(jobs, updated, expected)
    found = await kind.get(jobs, tenant, stored.id)
    assert (stored, stored.updated_at) == (found, found.updated_at)


async def test_an_edit_needs_a_version_that_was_read(jobs: Repository, kind: Kind, tenant: str) -> None:
    """An edit without a version could overwrite another edit."""
    job = kind.make(tenant)
    await jobs.insert(job)
    with pytest.raises(InvalidJob, match="updated_at"):
        await kind.replace(jobs, job.edit(metadata={"a": "b"}), Status.QUEUED)


async def test_each_update_increases_the_version(jobs: Repository, kind: Kind, tenant: str) -> None:
    job = await jobs.insert(kind.make(tenant))
    versions = [job.updated_at]
    for number in range(5):
        assert await kind.replace(jobs, job.edit(metadata={"n": str(number)}), Status.QUEUED)
        job = await kind.get(jobs, tenant, job.id)
        versions.append(job.updated_at)
    assert sorted(set(versions)) == versions


async def test_lists_are_newest_first_then_by_id(jobs: Repository, kind: Kind, tenant: str) -> None:
    made = [kind.make(tenant, created_at=AT + timedelta(seconds=number % 3)) for number in range(9)]
    made += [kind.make(tenant, created_at=AT + timedelta(seconds=1)).cancel(at=AT) for _ in range(4)]
    for job in sorted(made, key=lambda job: str(job.id)[::-1]):
        await jobs.insert(job)
    ordered = sorted(made, key=lambda job: (job.created_at, job.id.int), reverse=True)
    assert tuple(ordered) == await kind.list(jobs, tenant)
    assert tuple(ordered[:5]) == await kind.list(jobs, tenant, limit=5)
    for status in (Status.QUEUED, Status.CANCELED, Status.RUNNING):
        assert tuple(j for j in ordered if j.status is status) == await kind.list(jobs, tenant, status)
    assert tuple(j for j in ordered if j.status is Status.CANCELED) == await kind.list(jobs, tenant, "canceled")


async def test_a_log_is_read_in_pages_by_event_id(jobs: Repository, kind: Kind, tenant: str) -> None:
    job = await jobs.insert(kind.make(tenant))
    written = [
        await jobs.append_event(
            GraphJobEvent(
                job_id=job.id,
                tenant_id=tenant,
                status=Status.QUEUED,
                payload={"n": number, "deep": [{"a": None, "b": 1.5}]},
                created_at=AT - timedelta(minutes=number),
            )
        )
        for number in range(5)
    ]
    assert tuple(written) == await jobs.list_events(tenant, str(job.id))
    first = await jobs.list_events(tenant, job.id, limit=2)
    assert tuple(written[:2]) == first
    assert first[-1].id is not None
    assert tuple(written[2:]) == await jobs.list_events(tenant, job.id, after=first[-1].id)


async def test_text_that_is_not_a_uuid_is_not_found(jobs: Repository, kind: Kind, tenant: str) -> None:
    braces = "{12345678-1234-5678-1234-567812345678}"
    for job_id in ("", "42", "x" * 10_000, braces, "\0", "\ud800", str(uuid.uuid4())):
        assert await kind.get(jobs, tenant, job_id) is None
        assert await jobs.list_events(tenant, job_id) == ()


_BAD_ARGUMENTS: dict[str, tuple[Callable[[Kind, Repository], Awaitable[object]], str]] = {
    "empty tenant": (lambda kind, jobs: kind.get(jobs, "", uuid.uuid4()), "tenant_id"),
    "long tenant": (lambda kind, jobs: kind.list(jobs, "x" * 10_000), "tenant_id"),
    "tenant with NUL": (lambda kind, jobs: kind.list(jobs, "a\0"), "tenant_id"),
    "tenant with a lone surrogate": (lambda kind, jobs: kind.get(jobs, "\ud800", uuid.uuid4()), "tenant_id"),
    "no tenant": (lambda kind, jobs: jobs.list_events(None, uuid.uuid4()), "tenant_id"),  # type: ignore[arg-type]
    "limit 0": (lambda kind, jobs: kind.list(jobs, "a", limit=0), "limit"),
    "limit -1": (lambda kind, jobs: kind.list(jobs, "a", limit=-1), "limit"),
    "limit 10**9": (lambda kind, jobs: kind.list(jobs, "a", limit=10**9), "limit"),
    "limit True": (lambda kind, jobs: kind.list(jobs, "a", limit=True), "limit"),
    "limit of an event list": (lambda kind, jobs: jobs.list_events("a", uuid.uuid4(), limit=1_001), "limit"),
    "after -1": (lambda kind, jobs: jobs.list_events("a", uuid.uuid4(), after=-1), "after"),
    "after 2**63": (lambda kind, jobs: jobs.list_events("a", uuid.uuid4(), after=2**63), "after"),
    "unknown status": (lambda kind, jobs: kind.list(jobs, "a", "pending"), "status"),
    "status by code": (lambda kind, jobs: kind.list(jobs, "a", 1), "status"),
    "unknown expected": (lambda kind, jobs: kind.replace(jobs, kind.make(), "pending"), "expected"),
    "an id that is a number": (lambda kind, jobs: kind.get(jobs, "a", 42), "job_id"),
    "an id that is bytes": (lambda kind, jobs: kind.get(jobs, "a", bytes(16)), "job_id"),
    "no job": (lambda kind, jobs: jobs.insert(None), "job"),  # type: ignore[type-var]
    "a job of the other type": (
        lambda kind, jobs: kind.replace(jobs, (overlay_job if kind.name == "build" else build_job)(), "queued"),
        "job",
    ),
    "no event": (lambda kind, jobs: jobs.append_event({}), "event"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", list(_BAD_ARGUMENTS))
async def test_an_invalid_argument_is_named(jobs: Repository, kind: Kind, name: str) -> None:
    call, field = _BAD_ARGUMENTS[name]
    with pytest.raises(InvalidJob, match=field) as caught:
        await call(kind, jobs)
    assert field == caught.value.field


# --- in the caller's transaction ---


@pytest.fixture
def autocommit(storage: Storage) -> Repository:
    """The repository in autocommit."""
    return Repository(storage.database)


async def test_a_job_and_rows_of_the_caller_are_one_transaction(
    storage: Storage, autocommit: Repository, tenant: str
) -> None:
    job = build_job(tenant)
    table = f"public.own_{uuid.uuid4().hex}"
    async with storage.session() as session, session.begin():
        await session.execute(text(f"CREATE TABLE {table} (id uuid)"))
    for ending in ("rollback", "commit"):
        async with storage.session() as session:
            inside = Repository(storage.database.using(session))
            await session.execute(text(f"INSERT INTO {table} VALUES (:id)"), {"id": job.id})
            await inside.insert(job)
            assert await inside.try_replace(job.start(at=AT), Status.QUEUED)
            assert await autocommit.get_build_job(tenant, job.id) is None
            await (session.rollback() if ending == "rollback" else session.commit())
        async with storage.session() as session:
            own_rows = await session.scalar(text(f"SELECT count(*) FROM {table}"))
        found = await autocommit.get_build_job(tenant, job.id)
        assert (own_rows, found) == (0, None) if ending == "rollback" else (1, job.start(at=AT)) == (own_rows, found)


async def test_a_savepoint_rolls_back_an_update(storage: Storage, autocommit: Repository, tenant: str) -> None:
    job = await autocommit.insert(build_job(tenant))
    async with storage.session() as session, session.begin():
        inside = Repository(storage.database.using(session))
        async with session.begin_nested() as savepoint:
            assert await inside.try_replace(job.cancel(at=AT), Status.QUEUED)
            await savepoint.rollback()
        assert job == await inside.get_build_job(tenant, job.id)


async def test_a_session_reads_the_update_of_another(storage: Storage, autocommit: Repository, tenant: str) -> None:
    job = await autocommit.insert(build_job(tenant))
    async with storage.session() as session:
        inside = Repository(storage.database.using(session))
        assert job == await inside.get_build_job(tenant, job.id)
        assert await autocommit.try_replace(job.start(at=AT), Status.QUEUED)
        assert job.start(at=AT) == await inside.get_build_job(tenant, job.id)


async def test_a_session_in_autocommit_is_refused(shared_settings: Settings, storage: Storage, tenant: str) -> None:
    url = shared_settings.database_url
    assert url is not None

    async def creator(*_args: object, **_kwargs: object) -> Any:
        return await connect(url.get_secret_value(), shared_settings)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, isolation_level="AUTOCOMMIT")
    plain = create_async_engine("postgresql+asyncpg://", async_creator=creator)
    try:
        for unusable in (engine, plain.execution_options(isolation_level="AUTOCOMMIT")):
            async with AsyncSession(unusable) as session:
                with pytest.raises(ConfigurationError, match="autocommit"):
                    storage.database.using(session)
        async with AsyncSession(plain) as session:
            await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            with pytest.raises(ConfigurationError, match="autocommit"):
                await Repository(storage.database.using(session)).insert(build_job(tenant))
        assert await Repository(storage.database).list_build_jobs(tenant, limit=1) == ()
    finally:
        await engine.dispose()
        await plain.dispose()


async def test_a_session_of_another_engine_is_accepted(
    graphjobs_database_url: str, storage: Storage, tenant: str
) -> None:
    engine = create_async_engine(
        graphjobs_database_url.replace("postgresql://", "postgresql+asyncpg://", 1),
        json_serializer=lambda _value: "broken",
    )
    try:
        async with AsyncSession(engine) as session, session.begin():
            inside = Repository(storage.database.using(session))
            job = await inside.insert(build_job(tenant, metadata={"a": "b"}))
            event = await inside.append_event(
                GraphJobEvent(job_id=job.id, tenant_id=tenant, status=Status.QUEUED, payload={"a": [1]})
            )
            assert job == await inside.get_build_job(tenant, job.id)
            assert (event,) == await inside.list_events(tenant, job.id)
            kind = await session.scalar(text("SELECT jsonb_typeof(payload) FROM scheduler.graph_jobs"))
        assert kind == "object"
    finally:
        await engine.dispose()


async def test_concurrent_callers_get_their_own_answers(autocommit: Repository, tenant: str) -> None:
    made = await asyncio.gather(*(autocommit.insert(build_job(tenant)) for _ in range(60)))
    found = await asyncio.gather(*(autocommit.get_build_job(tenant, job.id) for job in made))
    assert made == found


async def test_answers_are_values_of_plain_types(autocommit: Repository, tenant: str) -> None:
    job = await autocommit.insert(build_job(tenant))
    event = await autocommit.append_event(GraphJobEvent(job_id=job.id, tenant_id=tenant, status=Status.QUEUED))
    found = await autocommit.get_build_job(tenant, job.id)
    (logged,) = await autocommit.list_events(tenant, job.id)
    assert GraphBuildJob is type(found)
    assert (uuid.UUID, uuid.UUID, event) == (type(found.id), type(logged.job_id), logged)
    assert GraphOverlayJob is type(await autocommit.insert(overlay_job(tenant)))
