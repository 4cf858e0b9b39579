"""The repository's contract on a real database, for both kinds, alone and inside a session of the caller's."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
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


@pytest_asyncio.fixture(params=["alone", "in a session"])
async def jobs(request: pytest.FixtureRequest, storage: Storage) -> AsyncIterator[Repository]:
    """The repository, both ways: the contract is the same."""
    if request.param == "alone":
        yield Repository(storage.database)
        return
    async with storage.session() as session, session.begin():
        yield Repository(storage.database.using(session))


class Kind:
    """One kind of job, and the repository's verbs for it: what holds for one holds for the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.make: Callable[..., Any] = build_job if name == "build" else overlay_job

    def get(self, jobs: Repository, tenant: Any, job_id: Any) -> Awaitable[Any]:
        return jobs.get_build_job(tenant, job_id) if self.name == "build" else jobs.get_overlay_job(tenant, job_id)

    def list(self, jobs: Repository, tenant: Any, status: Any = None, *, limit: Any = 100) -> Awaitable[Any]:
        verb = jobs.list_build_jobs if self.name == "build" else jobs.list_overlay_jobs
        return verb(tenant, status, limit=limit)

    def swap(self, jobs: Repository, job: Any, expected: Any) -> Awaitable[bool]:
        verb: Any = jobs.try_replace if self.name == "build" else jobs.try_replace_overlay
        return verb(job, expected)  # type: ignore[no-any-return]

    def completed(self, job: Any) -> Any:
        return job.complete(at=AT, graph_snapshot_id="g") if self.name == "build" else job.complete(at=AT)


@pytest.fixture(params=["build", "overlay"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind in turn."""
    return Kind(request.param)


@pytest.fixture
def other(kind: Kind) -> Kind:
    """The kind it is not."""
    return Kind("overlay" if kind.name == "build" else "build")


async def test_what_was_inserted_is_read_back_whole(jobs: Repository, kind: Kind, tenant: str) -> None:
    """Every field, in every status, with the version the database gave."""
    queued = kind.make(tenant, correlation_id="c", metadata={"a": "tab\tline\n", "ü": "☃"})
    running = kind.make(tenant).start(at=AT)
    for job in (queued, running, kind.completed(running.replace(id=uuid.uuid4())), kind.make(tenant).cancel(at=AT)):
        stored = await jobs.insert(job)
        found = await kind.get(jobs, tenant, str(job.id).upper())
        assert job == found == stored
        assert found.updated_at == stored.updated_at is not None


async def test_an_id_is_inserted_once(jobs: Repository, kind: Kind, other: Kind, tenant: str) -> None:
    """An id taken by any type and tenant is reported; the first job stays, and the transaction stays usable."""
    job = kind.make(tenant)
    await jobs.insert(job)
    for again in (job, job.replace(metadata={"a": "b"}), other.make(tenant, id=job.id), kind.make("other", id=job.id)):
        with pytest.raises(JobAlreadyExists, match=str(job.id)) as caught:
            await jobs.insert(again)
        assert job.id == caught.value.job_id
    assert job == await kind.get(jobs, tenant, job.id)


async def test_a_job_is_found_only_as_its_own_kind(jobs: Repository, kind: Kind, other: Kind, tenant: str) -> None:
    """A build job is never an overlay job: not got, not listed, not swapped."""
    job = await jobs.insert(kind.make(tenant))
    assert await other.get(jobs, tenant, job.id) is None
    assert await other.list(jobs, tenant) == ()
    assert not await other.swap(
        jobs, other.make(tenant, id=job.id, created_at=job.created_at).start(at=AT), Status.QUEUED
    )
    assert job == await kind.get(jobs, tenant, job.id)


async def test_a_tenant_never_reaches_anothers_job(jobs: Repository, kind: Kind, tenant: str) -> None:
    """Not by its id, not in a list, not by a swap, not by its log."""
    job = await jobs.insert(kind.make(tenant))
    await jobs.append_event(GraphJobEvent(job_id=job.id, tenant_id=tenant, status=Status.QUEUED))
    thief = f"{tenant}-thief"
    assert await kind.get(jobs, thief, job.id) is None
    assert await kind.list(jobs, thief) == ()
    assert not await kind.swap(jobs, job.replace(tenant_id=thief).start(at=AT), Status.QUEUED)
    assert await jobs.list_events(thief, job.id) == ()
    with pytest.raises(JobNotFound, match=thief):
        await jobs.append_event(GraphJobEvent(job_id=job.id, tenant_id=thief, status=Status.QUEUED))
    assert job == await kind.get(jobs, tenant, job.id)
    assert len(await jobs.list_events(tenant, job.id)) == 1


async def test_tenants_that_look_alike_are_two(jobs: Repository, tenant: str) -> None:
    """Case, trailing blanks, accents composed or not, and a wildcard all tell tenants apart."""
    names = [tenant, tenant.upper(), f"{tenant} ", f"{tenant}é", f"{tenant}e\u0301", f"{tenant}%", f"{tenant}_"]
    for name in names:
        await jobs.insert(build_job(name))
    for name in names:
        assert [name] == [job.tenant_id for job in await jobs.list_build_jobs(name, limit=10)]


@pytest.mark.parametrize("source", [Status.QUEUED, Status.RUNNING])
@pytest.mark.parametrize("target", list(GraphJobStatus))
async def test_a_swap_applies_each_legal_move_and_refuses_the_rest_before_any_sql(
    jobs: Repository, kind: Kind, tenant: str, source: GraphJobStatus, target: GraphJobStatus
) -> None:
    """Every source that moves, to every target; final ones stand below."""
    queued = await jobs.insert(kind.make(tenant))
    job = queued
    if source is Status.RUNNING:
        job = queued.start(at=AT)
        assert await kind.swap(jobs, job, Status.QUEUED)
        job = await kind.get(jobs, tenant, job.id)
    started = job if job.status is Status.RUNNING else job.start(at=AT)
    moved = {
        Status.QUEUED: lambda: job.edit(metadata={"a": "b"}) if source is Status.QUEUED else job.requeue(at=AT),
        Status.RUNNING: lambda: job.start(at=AT) if source is Status.QUEUED else job.renew(at=AT, metadata={"a": "b"}),
        Status.COMPLETED: lambda: kind.completed(started),
        Status.FAILED: lambda: job.fail(at=AT, error="broken"),
        Status.CANCELED: lambda: job.cancel(at=AT),
    }[target]()
    if (source, target) == (Status.QUEUED, Status.COMPLETED):
        with pytest.raises(IllegalTransition):
            await kind.swap(jobs, moved, source)
        assert job == await kind.get(jobs, tenant, job.id)
        return
    assert await kind.swap(jobs, moved, source)
    found = await kind.get(jobs, tenant, job.id)
    assert moved == found
    assert found.updated_at > queued.updated_at


@pytest.mark.parametrize("final", [Status.COMPLETED, Status.FAILED, Status.CANCELED])
@pytest.mark.parametrize("target", list(GraphJobStatus))
async def test_a_final_job_never_moves(
    jobs: Repository, kind: Kind, tenant: str, final: GraphJobStatus, target: GraphJobStatus
) -> None:
    """Neither by a swap that says it is final, nor by one that believes it still runs."""
    started = kind.make(tenant).start(at=AT)
    ended = {
        Status.COMPLETED: lambda: kind.completed(started),
        Status.FAILED: lambda: started.fail(at=AT, error="broken"),
        Status.CANCELED: lambda: started.cancel(at=AT),
    }
    job = await jobs.insert(ended[final]())
    wanted = ended[target]() if target in ended else started if target is Status.RUNNING else started.requeue(at=AT)
    with pytest.raises(IllegalTransition):
        await kind.swap(jobs, wanted, final)
    assert not await kind.swap(jobs, wanted.stored(updated_at=job.updated_at), Status.RUNNING)
    assert job == await kind.get(jobs, tenant, job.id)


async def test_a_lost_swap_changes_nothing(jobs: Repository, kind: Kind, tenant: str) -> None:
    """Wrong status, wrong attempts, wrong version, no such job: False, and the row is as it was."""
    stored = await jobs.insert(kind.make(tenant))
    started = stored.start(at=AT)
    losers = [
        (started.cancel(at=AT), Status.RUNNING),
        (started.replace(attempts=2), Status.QUEUED),
        (
            stored.edit(metadata={"a": "b"}).stored(updated_at=stored.updated_at - timedelta(microseconds=1)),
            Status.QUEUED,
        ),
        (started.replace(id=uuid.uuid4()), Status.QUEUED),
        (started.replace(created_at=AT), Status.QUEUED),
    ]
    for loser, expected in losers:
        assert not await kind.swap(jobs, loser, expected)
    found = await kind.get(jobs, tenant, stored.id)
    assert (stored, stored.updated_at) == (found, found.updated_at)


async def test_an_edit_needs_a_version_that_was_read(jobs: Repository, kind: Kind, tenant: str) -> None:
    """Without one, the second of two edits would silently win."""
    job = kind.make(tenant)
    await jobs.insert(job)
    with pytest.raises(InvalidJob, match="updated_at"):
        await kind.swap(jobs, job.edit(metadata={"a": "b"}), Status.QUEUED)


async def test_the_version_only_rises(jobs: Repository, kind: Kind, tenant: str) -> None:
    """Within one transaction too, where now() stands still, and also when the clock of an earlier writer was ahead."""
    job = await jobs.insert(kind.make(tenant))
    seen = [job.updated_at]
    for number in range(5):
        assert await kind.swap(jobs, job.edit(metadata={"n": str(number)}), Status.QUEUED)
        job = await kind.get(jobs, tenant, job.id)
        seen.append(job.updated_at)
    assert sorted(set(seen)) == seen


async def test_lists_are_newest_first_with_ids_as_tie_break(jobs: Repository, kind: Kind, tenant: str) -> None:
    """One fixed order, of one status and of all, whatever the order of the inserts."""
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


async def test_a_log_is_read_in_its_order_and_in_pages(jobs: Repository, kind: Kind, tenant: str) -> None:
    """Oldest first by event id, whatever times the events carry."""
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


async def test_text_that_is_no_uuid_is_not_found(jobs: Repository, kind: Kind, tenant: str) -> None:
    """It is an empty answer and no error, before any SQL."""
    for nonsense in (
        "",
        "42",
        "x" * 10_000,
        "{12345678-1234-5678-1234-567812345678}",
        "\0",
        "\ud800",
        str(uuid.uuid4()),
    ):
        assert await kind.get(jobs, tenant, nonsense) is None
        assert await jobs.list_events(tenant, nonsense) == ()


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
    "unknown expected": (lambda kind, jobs: kind.swap(jobs, kind.make(), "pending"), "expected"),
    "an id that is a number": (lambda kind, jobs: kind.get(jobs, "a", 42), "job_id"),
    "an id that is bytes": (lambda kind, jobs: kind.get(jobs, "a", bytes(16)), "job_id"),
    "no job": (lambda kind, jobs: jobs.insert(None), "job"),  # type: ignore[type-var]
    "a job of the other kind": (
        lambda kind, jobs: kind.swap(jobs, (overlay_job if kind.name == "build" else build_job)(), "queued"),
        "job",
    ),
    "no event": (lambda kind, jobs: jobs.append_event({}), "event"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", list(_BAD_ARGUMENTS))
async def test_a_bad_argument_is_refused_by_its_name(jobs: Repository, kind: Kind, name: str) -> None:
    """Before any SQL: no statement runs for it."""
    call, field = _BAD_ARGUMENTS[name]
    with pytest.raises(InvalidJob, match=field) as caught:
        await call(kind, jobs)
    assert field == caught.value.field


# --- in the caller's transaction ---


async def test_a_job_and_the_callers_own_rows_vanish_together(storage: Storage, tenant: str) -> None:
    """Rolled back, neither is there; committed, both are."""
    alone = Repository(storage.database)
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
            assert await alone.get_build_job(tenant, job.id) is None
            await (session.rollback() if ending == "rollback" else session.commit())
        async with storage.session() as session:
            own_rows = await session.scalar(text(f"SELECT count(*) FROM {table}"))
        found = await alone.get_build_job(tenant, job.id)
        assert (own_rows, found) == (0, None) if ending == "rollback" else (1, job.start(at=AT)) == (own_rows, found)


async def test_a_savepoint_takes_a_swap_back(storage: Storage, tenant: str) -> None:
    """The caller's nested transaction holds for jobs too."""
    job = await Repository(storage.database).insert(build_job(tenant))
    async with storage.session() as session, session.begin():
        inside = Repository(storage.database.using(session))
        async with session.begin_nested() as savepoint:
            assert await inside.try_replace(job.cancel(at=AT), Status.QUEUED)
            await savepoint.rollback()
        assert job == await inside.get_build_job(tenant, job.id)


async def test_reading_after_a_swap_gives_what_the_row_holds_now(storage: Storage, tenant: str) -> None:
    """No identity map is in between: another's swap is seen by the same session."""
    alone = Repository(storage.database)
    job = await alone.insert(build_job(tenant))
    async with storage.session() as session:
        inside = Repository(storage.database.using(session))
        assert job == await inside.get_build_job(tenant, job.id)
        assert await alone.try_replace(job.start(at=AT), Status.QUEUED)
        assert job.start(at=AT) == await inside.get_build_job(tenant, job.id)


async def test_a_session_in_autocommit_is_refused(shared_settings: Settings, storage: Storage, tenant: str) -> None:
    """By its engine, by an option of the engine, and by an option of its connection; nothing is written."""
    url = shared_settings.database_url
    assert url is not None

    async def creator(*_args: object, **_kwargs: object) -> Any:
        return await connect(url.get_secret_value(), shared_settings)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, isolation_level="AUTOCOMMIT")
    plain = create_async_engine("postgresql+asyncpg://", async_creator=creator)
    try:
        for autocommit in (engine, plain.execution_options(isolation_level="AUTOCOMMIT")):
            async with AsyncSession(autocommit) as session:
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


async def test_a_hosts_own_engine_serves_as_well(graphjobs_database_url: str, storage: Storage, tenant: str) -> None:
    """A session of any asyncpg engine will do: its JSON codecs are not relied on."""
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


async def test_callers_at_once_each_get_their_own_answer(storage: Storage, tenant: str) -> None:
    """More callers than connections: all are served, none gets another's row."""
    alone = Repository(storage.database)
    made = await asyncio.gather(*(alone.insert(build_job(tenant)) for _ in range(60)))
    found = await asyncio.gather(*(alone.get_build_job(tenant, job.id) for job in made))
    assert made == found


async def test_values_are_handed_out_and_never_rows(storage: Storage, tenant: str) -> None:
    """The answers are frozen values with plain types."""
    alone = Repository(storage.database)
    job = await alone.insert(build_job(tenant))
    event = await alone.append_event(GraphJobEvent(job_id=job.id, tenant_id=tenant, status=Status.QUEUED))
    found = await alone.get_build_job(tenant, job.id)
    (logged,) = await alone.list_events(tenant, job.id)
    assert GraphBuildJob is type(found)
    assert (uuid.UUID, uuid.UUID, event) == (type(found.id), type(logged.job_id), logged)
    assert GraphOverlayJob is type(await alone.insert(overlay_job(tenant)))
