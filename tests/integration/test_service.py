"""The use cases: idempotent requests, the completion hook, cancel, and the observers."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from typing_extensions import override

from graphjobs import (
    ConfigurationError,
    GraphJobService,
    GraphJobStatus,
    IdempotencyConflict,
    InvalidJob,
    JobConflict,
    JobNotFound,
    UpdateResult,
    open_storage,
)
from graphjobs.graph_jobs import service as service_module
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, Job
from graphjobs.graph_jobs.requests import GraphBuildRequest, GraphJobCompletion, GraphOverlayRequest, idempotent_id
from graphjobs.graph_jobs.store import PostgresGraphJobStore
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job, overlay_job

QUEUED, RUNNING = GraphJobStatus.QUEUED, GraphJobStatus.RUNNING
_DIGEST = "sha256:" + "a" * 64


def _build(**fields: Any) -> GraphBuildRequest:
    return GraphBuildRequest(**{"sbom_id": "s", "sbom_version_id": "s@1", "sbom_digest": _DIGEST, **fields})


def _overlay(**fields: Any) -> GraphOverlayRequest:
    return GraphOverlayRequest(**{"graph_snapshot_id": "g", "overlay_kind": "vex", "overlay_key": "k", **fields})


@pytest.fixture
def service(storage: Storage) -> GraphJobService:
    """The service on the shared storage, without observers."""
    return GraphJobService(storage.graph_jobs)


async def _running(storage: Storage, job: Job) -> Job:
    added = await storage.graph_jobs.add(job)
    started = await storage.graph_jobs.update(added.start(at=AT), expected=QUEUED)
    assert started.job is not None
    return started.job


async def test_a_request_makes_a_queued_job_of_what_was_asked(service: GraphJobService, tenant: str) -> None:
    """Without a key, a new one each time; all that was asked is in it."""
    request = _build(trigger="backfill", correlation_id="c", metadata={"a": "b"})
    first, second = [await service.request_build(tenant, request, actor="me") for _ in range(2)]
    overlay = await service.request_overlay(tenant, _overlay(subjects=["b", "a"], build_job_id=first.id))
    assert first.id != second.id
    assert (tenant, QUEUED, "backfill", "c", {"a": "b"}) == (
        first.tenant_id,
        first.status,
        first.trigger,
        first.correlation_id,
        first.metadata,
    )
    assert (("a", "b"), first.id, "manual") == (overlay.subjects, overlay.build_job_id, overlay.trigger)


async def test_the_same_key_is_the_same_job(service: GraphJobService, storage: Storage, tenant: str) -> None:
    """Also after a transition; the same key of another tenant is another job; the id does not show the key."""
    first = await service.request_build(tenant, _build(), key="k")
    moved = await storage.graph_jobs.update(first.start(at=AT), expected=QUEUED)
    again = await service.request_build(tenant, _build(), key="k")
    other = await service.request_build(f"{tenant}-2", _build(), key="k")
    assert idempotent_id(tenant, "k") == first.id == again.id != other.id
    assert moved.job == again
    assert 2 == len(await storage.graph_jobs.events(tenant, first.id))


async def test_the_same_key_with_another_request_is_an_error(
    service: GraphJobService, storage: Storage, tenant: str
) -> None:
    """Of the same kind or the other; nothing is added."""
    await service.request_build(tenant, _build(), key="k")
    others = [
        service.request_build(tenant, _build(sbom_id="other"), key="k"),
        service.request_build(tenant, _build(metadata={"a": "b"}), key="k"),
        service.request_overlay(tenant, _overlay(), key="k"),
    ]
    for other in others:
        with pytest.raises(IdempotencyConflict, match="'k'"):
            await other
    assert 1 == (await storage.graph_jobs.count(tenant)).value
    assert 1 == len(await storage.graph_jobs.events(tenant, idempotent_id(tenant, "k")))


async def test_two_services_with_one_key_at_once_make_one_job(
    shared_settings: Settings, storage: Storage, tenant: str
) -> None:
    """Each process has its own storage; the second gets the job of the first."""
    async with open_storage(shared_settings) as other:
        services = [GraphJobService(store) for store in (storage.graph_jobs, other.graph_jobs)] * 4
        for number in range(40):
            key = f"key {number}"
            jobs = await asyncio.gather(*(one.request_build(tenant, _build(), key=key) for one in services))
            assert {idempotent_id(tenant, key)} == {job.id for job in jobs}
            assert 1 == len(await storage.graph_jobs.events(tenant, jobs[0].id))
    assert 40 == (await storage.graph_jobs.count(tenant)).value


async def test_two_requests_with_one_key_at_once_one_is_refused(storage: Storage, tenant: str) -> None:
    """Whichever came second."""
    service = GraphJobService(storage.graph_jobs)
    for number in range(20):
        asked = [service.request_build(tenant, _build(sbom_id=name), key=f"k{number}") for name in ("a", "b")]
        first, second = await asyncio.gather(*asked, return_exceptions=True)
        assert {GraphBuildJob, IdempotencyConflict} == {type(first), type(second)}


async def test_the_hook_ends_a_build_an_overlay_and_a_failure(
    service: GraphJobService, storage: Storage, tenant: str
) -> None:
    """Called again, late, or saying otherwise, it answers what the job is."""
    build, overlay, failing = [
        await _running(storage, build_job(tenant)),
        await _running(storage, overlay_job(tenant)),
        await _running(storage, build_job(tenant)),
    ]
    hooks = [
        GraphJobCompletion(job_id=build.id, status="completed", graph_snapshot_id="g1", attempts=1),
        GraphJobCompletion(job_id=overlay.id, status="completed"),
        GraphJobCompletion(job_id=failing.id, status="failed", error="\x00bo\udcffm\n" * 10_000),
    ]
    ended = [await service.complete(tenant, hook, actor="builder") for hook in hooks]
    assert ["completed", "completed", "failed"] == [job.status for job in ended]
    assert isinstance(ended[0], GraphBuildJob)
    assert "g1" == ended[0].graph_snapshot_id
    assert ended[2].error is not None
    assert len(ended[2].error) <= 4_000
    for job, hook in zip(ended, hooks, strict=True):
        assert job == await service.complete(tenant, hook)
        other = GraphJobCompletion(job_id=job.id, status="failed", error="late", attempts=7)
        assert job == await service.complete(tenant, other)
        assert 3 == len(await storage.graph_jobs.events(tenant, job.id))


async def test_the_hook_tells_what_it_cannot_end(service: GraphJobService, storage: Storage, tenant: str) -> None:
    """A queued job, an attempt that was lost, another tenant's, none at all, and a build without its graph."""
    queued = await storage.graph_jobs.add(build_job(tenant))
    running = await _running(storage, build_job(tenant))
    back = (await storage.graph_jobs.update(running.requeue(at=AT), expected=RUNNING)).job
    assert back is not None
    second = (await storage.graph_jobs.update(back.start(at=AT), expected=QUEUED)).job
    for job_id, attempts, status in ((queued.id, None, "queued"), (running.id, 1, "running")):
        hook = GraphJobCompletion(job_id=job_id, status="failed", error="x", attempts=attempts)
        with pytest.raises(JobConflict) as caught:
            await service.complete(tenant, hook)
        assert (job_id, status) == (caught.value.job_id, caught.value.status)
    for tenant_id, job_id in ((tenant, uuid4()), (f"{tenant}-2", running.id)):
        with pytest.raises(JobNotFound):
            await service.complete(tenant_id, GraphJobCompletion(job_id=job_id, status="failed", error="x"))
    with pytest.raises(InvalidJob) as invalid:
        await service.complete(tenant, GraphJobCompletion(job_id=running.id, status="completed"))
    assert "graph_snapshot_id" == invalid.value.field
    assert second == await storage.graph_jobs.get_job(tenant, running.id)


@pytest.mark.parametrize(("status", "error"), [("completed", "x"), ("failed", None), ("canceled", None)])
def test_a_completion_fits_its_status(status: str, error: str | None) -> None:
    """A failure has a reason, a success has none, and a builder cancels nothing."""
    with pytest.raises(InvalidJob):
        GraphJobCompletion(job_id=uuid4(), status=status, error=error)  # type: ignore[arg-type]


class _NotedBefore(PostgresGraphJobStore):
    """A store in which progress is noted between the read and the first move."""

    noted = False

    @override
    async def update(self, job: Job, **given: Any) -> UpdateResult[Job]:
        if not self.noted:
            self.noted = True
            now = await self.get_build_job(job.tenant_id, job.id)
            assert now is not None
            assert (await super().update(now.renew(metadata={"noted": "yes"}), expected=RUNNING)).applied
        return await super().update(job, **given)


@pytest.mark.parametrize("ending", ["complete", "cancel"])
async def test_progress_that_is_noted_meanwhile_is_not_lost(storage: Storage, tenant: str, ending: str) -> None:
    """The job is read again, and ended as it then is."""
    job = await _running(storage, build_job(tenant))
    service = GraphJobService(_NotedBefore(storage.database))
    if ending == "complete":
        hook = GraphJobCompletion(job_id=job.id, status="completed", graph_snapshot_id="g")
        ended = await service.complete(tenant, hook)
    else:
        ended = await service.cancel(tenant, job.id)
    assert {"noted": "yes"} == ended.metadata
    assert ended.status.is_final


async def test_cancel_ends_what_has_not_ended(service: GraphJobService, storage: Storage, tenant: str) -> None:
    """Twice is once; a completed job is a conflict that tells so; text that is no id is no job."""
    queued = await storage.graph_jobs.add(build_job(tenant))
    running = await _running(storage, overlay_job(tenant))
    for job_id in (queued.id, str(running.id)):
        first, second = [await service.cancel(tenant, job_id, actor="me") for _ in range(2)]
        assert ("canceled", first) == (first.status, second)
    done = await _running(storage, overlay_job(tenant))
    await storage.graph_jobs.update(done.complete(at=AT), expected=RUNNING)
    with pytest.raises(JobConflict, match="already completed"):
        await service.cancel(tenant, done.id)
    for tenant_id, job_id in ((tenant, "nope"), (tenant, uuid4()), (f"{tenant}-2", queued.id)):
        with pytest.raises(JobNotFound):
            await service.cancel(tenant_id, job_id)


def _hook(job: AnyJob) -> GraphJobCompletion:
    return GraphJobCompletion(job_id=job.id, status="failed", error="x")


async def test_observers_hear_after_the_commit_and_once(storage: Storage, tenant: str) -> None:
    """They get the state that another connection reads; a repeated call notifies no observer."""
    seen: list[tuple[UUID, AnyJob | None]] = []

    async def observer(job: AnyJob) -> None:
        seen.append((job.id, await storage.graph_jobs.get_job(tenant, job.id)))

    service = GraphJobService(storage.graph_jobs, observers=[observer])
    job = await _running(storage, build_job(tenant))
    both = await asyncio.gather(*(service.complete(tenant, _hook(job)) for _ in range(5)))
    await service.complete(tenant, _hook(job))
    assert 1 == len({one.updated_at for one in both})
    assert [(job.id, both[0])] == seen


async def test_an_observer_that_fails_or_hangs_harms_nothing(
    storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The job is ended, the others hear, and the log tells."""
    monkeypatch.setattr(service_module, "_OBSERVER_SECONDS", 0.05)
    heard: list[UUID] = []

    async def failing(_job: AnyJob) -> None:
        raise RuntimeError("broken observer")

    async def cancelling(_job: AnyJob) -> None:
        raise asyncio.CancelledError

    async def hanging(_job: AnyJob) -> None:
        await asyncio.Event().wait()

    async def hearing(job: AnyJob) -> None:
        heard.append(job.id)

    service = GraphJobService(storage.graph_jobs, observers=[failing, cancelling, hanging, hearing])
    job = await _running(storage, build_job(tenant))
    ended = await service.complete(tenant, _hook(job))
    assert ("failed", [job.id]) == (ended.status, heard)
    assert "broken observer" in caplog.text
    assert "took longer" in caplog.text


async def test_a_cancelled_call_still_lets_observers_hear_of_what_was_done(storage: Storage, tenant: str) -> None:
    """After a cancellation at any await, the job is finished and observers are notified, or neither."""
    heard: list[UUID] = []

    async def observer(job: AnyJob) -> None:
        await asyncio.sleep(0)
        heard.append(job.id)

    service = GraphJobService(storage.graph_jobs, observers=[observer])
    ended: list[UUID] = []
    for delay in range(30):
        job = await _running(storage, build_job(tenant))
        call = asyncio.create_task(service.complete(tenant, _hook(job)))
        await asyncio.sleep(delay / 10_000)
        call.cancel()
        await asyncio.wait([call])
        now = await storage.graph_jobs.get_job(tenant, job.id)
        assert now is not None
        if now.status.is_final:
            ended.append(job.id)
    assert ended
    assert ended == heard


async def test_observers_need_a_store_in_autocommit(storage: Storage) -> None:
    """In a session the service does not see the commit; without observers a session is accepted."""

    async def observer(_job: AnyJob) -> None: ...

    async with storage.session() as session:
        inside = storage.graph_jobs.using(session)
        with pytest.raises(ConfigurationError, match="not in a session"):
            GraphJobService(inside, observers=[observer])
        job = await GraphJobService(inside).request_build("acme", _build())
        await session.rollback()
    assert await storage.graph_jobs.get_job("acme", job.id) is None


async def test_an_invalid_request_is_refused(service: GraphJobService, tenant: str) -> None:
    """Before anything is done."""
    calls: list[Any] = [
        service.request_build(tenant, _overlay()),  # type: ignore[arg-type]
        service.request_overlay(tenant, {}),  # type: ignore[arg-type]
        service.complete(tenant, None),  # type: ignore[arg-type]
        service.request_build(tenant, _build(), key=""),
        service.request_build(tenant, _build(), key="x" * 257),
        service.request_build("", _build(), key="k"),
    ]
    for call in calls:
        with pytest.raises(InvalidJob):
            await call
