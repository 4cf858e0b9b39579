"""The use cases of graph jobs: idempotent requests, completions, cancellations and observers."""

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
from tests.integration.states import applied

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
    return applied(await storage.graph_jobs.update(added.start(at=AT), expected=QUEUED))


async def test_a_request_without_a_key_adds_a_new_job(service: GraphJobService, tenant: str) -> None:
    request = _build(trigger="backfill", correlation_id="c", metadata={"a": "b"})
    first, second = [await service.request_build(tenant, request, actor="me") for _ in range(2)]
    overlay = await service.request_overlay(tenant, _overlay(subjects=["b", "a"], build_job_id=first.id))
    assert first.id != second.id
    assert (tenant, QUEUED) == (first.tenant_id, first.status)
    assert ("backfill", "c", {"a": "b"}) == (first.trigger, first.correlation_id, first.metadata)
    assert (("a", "b"), first.id, "manual") == (overlay.subjects, overlay.build_job_id, overlay.trigger)


async def test_a_repeated_request_with_its_key_returns_the_same_job(
    service: GraphJobService, storage: Storage, tenant: str
) -> None:
    """A transition of the job changes nothing; the same key of another tenant is another job."""
    first = await service.request_build(tenant, _build(), key="k")
    started = applied(await storage.graph_jobs.update(first.start(at=AT), expected=QUEUED))
    again = await service.request_build(tenant, _build(), key="k")
    other = await service.request_build(f"{tenant}-2", _build(), key="k")
    assert idempotent_id(tenant, "k") == first.id == again.id != other.id
    assert started == again
    assert 2 == len(await storage.graph_jobs.events(tenant, first.id))


async def test_another_request_with_the_same_key_is_refused(
    service: GraphJobService, storage: Storage, tenant: str
) -> None:
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


async def test_concurrent_requests_of_two_services_with_one_key_add_one_job(
    shared_settings: Settings, storage: Storage, tenant: str
) -> None:
    async with open_storage(shared_settings) as other:
        services = [GraphJobService(store) for store in (storage.graph_jobs, other.graph_jobs)] * 4
        for number in range(40):
            key = f"key {number}"
            jobs = await asyncio.gather(*(service.request_build(tenant, _build(), key=key) for service in services))
            assert {idempotent_id(tenant, key)} == {job.id for job in jobs}
            assert 1 == len(await storage.graph_jobs.events(tenant, jobs[0].id))
    assert 40 == (await storage.graph_jobs.count(tenant)).value


async def test_one_of_two_concurrent_requests_with_one_key_is_refused(service: GraphJobService, tenant: str) -> None:
    for number in range(20):
        requests = [service.request_build(tenant, _build(sbom_id=name), key=f"k{number}") for name in ("a", "b")]
        first, second = await asyncio.gather(*requests, return_exceptions=True)
        assert {GraphBuildJob, IdempotencyConflict} == {type(first), type(second)}


async def test_a_completion_finishes_a_job_once(service: GraphJobService, storage: Storage, tenant: str) -> None:
    build, overlay, failing = [
        await _running(storage, build_job(tenant)),
        await _running(storage, overlay_job(tenant)),
        await _running(storage, build_job(tenant)),
    ]
    completions = [
        GraphJobCompletion(job_id=build.id, status="completed", graph_snapshot_id="g1", attempts=1),
        GraphJobCompletion(job_id=overlay.id, status="completed"),
        GraphJobCompletion(job_id=failing.id, status="failed", error="\x00bo\udcffm\n" * 10_000),
    ]
    jobs: list[Any] = [await service.complete(tenant, completion, actor="builder") for completion in completions]
    assert ["completed", "completed", "failed"] == [job.status for job in jobs]
    assert "g1" == jobs[0].graph_snapshot_id
    assert len(jobs[2].error) <= 4_000
    for job, completion in zip(jobs, completions, strict=True):
        assert job == await service.complete(tenant, completion)
        other = GraphJobCompletion(job_id=job.id, status="failed", error="late", attempts=7)
        assert job == await service.complete(tenant, other)
        assert 3 == len(await storage.graph_jobs.events(tenant, job.id))


async def test_a_completion_of_a_job_that_cannot_finish_is_an_error(
    service: GraphJobService, storage: Storage, tenant: str
) -> None:
    queued = await storage.graph_jobs.add(build_job(tenant))
    running = await _running(storage, build_job(tenant))
    requeued = applied(await storage.graph_jobs.update(running.requeue(at=AT), expected=RUNNING))
    second = applied(await storage.graph_jobs.update(requeued.start(at=AT), expected=QUEUED))
    for job_id, attempts, status in ((queued.id, None, "queued"), (running.id, 1, "running")):
        with pytest.raises(JobConflict) as caught:
            await service.complete(
                tenant, GraphJobCompletion(job_id=job_id, status="failed", error="x", attempts=attempts)
            )
        assert (job_id, status) == (caught.value.job_id, caught.value.status)
    for tenant_id, job_id in ((tenant, uuid4()), (f"{tenant}-2", running.id)):
        with pytest.raises(JobNotFound):
            await service.complete(tenant_id, GraphJobCompletion(job_id=job_id, status="failed", error="x"))
    with pytest.raises(InvalidJob) as invalid:
        await service.complete(tenant, GraphJobCompletion(job_id=running.id, status="completed"))
    assert "graph_snapshot_id" == invalid.value.field
    assert second == await storage.graph_jobs.get_job(tenant, running.id)


@pytest.mark.parametrize(("status", "error"), [("completed", "x"), ("failed", None), ("canceled", None)])
def test_an_invalid_completion_is_refused(status: str, error: str | None) -> None:
    with pytest.raises(InvalidJob):
        GraphJobCompletion(job_id=uuid4(), status=status, error=error)  # type: ignore[arg-type]


class _UpdatedAfterTheRead(PostgresGraphJobStore):
    """A store in which metadata change between the read and the first update."""

    changed = False

    @override
    async def update(self, job: Job, **arguments: Any) -> UpdateResult[Job]:
        if not self.changed:
            self.changed = True
            now = await self.get_build_job(job.tenant_id, job.id)
            assert now is not None
            applied(await super().update(now.renew(metadata={"progress": "half"}), expected=RUNNING))
        return await super().update(job, **arguments)


@pytest.mark.parametrize("method", ["complete", "cancel"])
async def test_a_concurrent_change_of_metadata_is_not_lost(storage: Storage, tenant: str, method: str) -> None:
    job = await _running(storage, build_job(tenant))
    service = GraphJobService(_UpdatedAfterTheRead(storage.database))
    if method == "complete":
        completion = GraphJobCompletion(job_id=job.id, status="completed", graph_snapshot_id="g")
        final = await service.complete(tenant, completion)
    else:
        final = await service.cancel(tenant, job.id)
    assert {"progress": "half"} == final.metadata
    assert final.status.is_final


async def test_queued_and_running_jobs_are_canceled(service: GraphJobService, storage: Storage, tenant: str) -> None:
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


def _failure(job: AnyJob) -> GraphJobCompletion:
    return GraphJobCompletion(job_id=job.id, status="failed", error="x")


async def test_observers_are_called_once_after_the_commit(storage: Storage, tenant: str) -> None:
    """Another connection reads the final job; concurrent and repeated calls notify no observer."""
    seen: list[tuple[UUID, AnyJob | None]] = []

    async def observer(job: AnyJob) -> None:
        seen.append((job.id, await storage.graph_jobs.get_job(tenant, job.id)))

    service = GraphJobService(storage.graph_jobs, observers=[observer])
    job = await _running(storage, build_job(tenant))
    answers = await asyncio.gather(*(service.complete(tenant, _failure(job)) for _ in range(5)))
    await service.complete(tenant, _failure(job))
    assert 1 == len({answer.updated_at for answer in answers})
    assert [(job.id, answers[0])] == seen


async def test_an_observer_that_fails_or_hangs_does_not_affect_the_job(
    storage: Storage, tenant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The job is finished, the other observers are called, and the failure is logged."""
    monkeypatch.setattr(service_module, "_OBSERVER_SECONDS", 0.05)
    notified: list[UUID] = []

    async def failing(_job: AnyJob) -> None:
        raise RuntimeError("broken observer")

    async def cancelling(_job: AnyJob) -> None:
        raise asyncio.CancelledError

    async def hanging(_job: AnyJob) -> None:
        await asyncio.Event().wait()

    async def recording(job: AnyJob) -> None:
        notified.append(job.id)

    service = GraphJobService(storage.graph_jobs, observers=[failing, cancelling, hanging, recording])
    job = await _running(storage, build_job(tenant))
    final = await service.complete(tenant, _failure(job))
    assert ("failed", [job.id]) == (final.status, notified)
    assert "broken observer" in caplog.text
    assert "took longer" in caplog.text


async def test_a_cancelled_call_that_finished_the_job_still_calls_observers(storage: Storage, tenant: str) -> None:
    """A cancellation at any await leaves a finished job with called observers, or neither."""
    notified: list[UUID] = []

    async def observer(job: AnyJob) -> None:
        await asyncio.sleep(0)
        notified.append(job.id)

    service = GraphJobService(storage.graph_jobs, observers=[observer])
    finished: list[UUID] = []
    for delay in range(30):
        job = await _running(storage, build_job(tenant))
        call = asyncio.create_task(service.complete(tenant, _failure(job)))
        await asyncio.sleep(delay / 10_000)
        call.cancel()
        await asyncio.wait([call])
        now = await storage.graph_jobs.get_job(tenant, job.id)
        assert now is not None
        if now.status.is_final:
            finished.append(job.id)
    assert finished
    assert finished == notified


async def test_observers_need_a_store_in_autocommit(storage: Storage) -> None:
    """The service does not see the commit of a session; without observers a session is accepted."""

    async def observer(_job: AnyJob) -> None: ...

    async with storage.session() as session:
        inside = storage.graph_jobs.using(session)
        with pytest.raises(ConfigurationError, match="not in a session"):
            GraphJobService(inside, observers=[observer])
        job = await GraphJobService(inside).request_build("acme", _build())
        await session.rollback()
    assert await storage.graph_jobs.get_job("acme", job.id) is None


async def test_an_invalid_request_is_refused(service: GraphJobService, storage: Storage, tenant: str) -> None:
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
    assert 0 == (await storage.graph_jobs.count(tenant)).value
