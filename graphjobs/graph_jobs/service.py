"""The use cases of a web service: request a job, take the completion hook, cancel, tell the lag; knows no HTTP."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias, TypeVar
from uuid import UUID, uuid5

from graphjobs.core.fields import check_name, parse_id
from graphjobs.database.executor import run_to_completion
from graphjobs.errors import (
    ConfigurationError,
    IdempotencyConflict,
    InvalidJob,
    JobAlreadyExists,
    JobConflict,
    JobNotFound,
)
from graphjobs.graph_jobs.filters import OverlayLag
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphOverlayJob, Job
from graphjobs.graph_jobs.requests import GraphBuildRequest, GraphJobCompletion, GraphOverlayRequest, idempotent_id
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.graph_jobs.store import GraphJobStore

Given = TypeVar("Given")
Observer: TypeAlias = Callable[[AnyJob], Awaitable[None]]

LAG_WINDOW: Final = timedelta(hours=24)
"""The window of `overlay_lag` where none is given."""

_OBSERVER_SECONDS: Final = 10.0
_CAS_RETRIES_MAX: Final = 8
_NIL_ID: Final = UUID(int=0)

_log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class GraphJobService:
    """What a scheduler's services ask of graph jobs, on any `GraphJobStore`.

    Every method raises `InvalidJob` for an argument that cannot be, and what the store raises; `OutcomeUnknown` says
    that the same call can be made again: none does anything twice, if it is given a key where it takes one.

    Args:
        store: where the jobs are.
        observers: each is awaited with each job that `complete` ended, after its commit and never before. One that
            fails, or takes longer than ten seconds, is logged and harms nothing. Each job is told of at most once: a
            process that ends in between tells nobody, so what must not be missed reads the log.
        now: the clock of `completed_at`.

    Raises:
        ConfigurationError: there are observers, and the store is in a session, whose commit nobody here can see.
    """

    def __init__(
        self, store: GraphJobStore, *, observers: Iterable[Observer] = (), now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._store = store
        self._observers = tuple(observers)
        self._now = now
        if self._observers and not store.is_autocommit:
            raise ConfigurationError("observers hear of what is committed: give them a store that is in no session")

    async def request_build(
        self, tenant_id: str, request: GraphBuildRequest, *, key: str | None = None, actor: str | None = None
    ) -> GraphBuildJob:
        """Adds a build job; with a key, once, however often and by however many it is asked for.

        Args:
            tenant_id: whose job.
            request: what for.
            key: the caller's own name of this request, 1 to 256 characters. None makes a new job each time.
            actor: who asked, for the event.

        Returns:
            The job: as it was added, or as it now is where the key was used before.

        Raises:
            IdempotencyConflict: the key was used for another request.
        """
        return await self._add(
            _require(request, GraphBuildRequest, "request").to_job, tenant_id, request.to_json(), key, actor
        )

    async def request_overlay(
        self, tenant_id: str, request: GraphOverlayRequest, *, key: str | None = None, actor: str | None = None
    ) -> GraphOverlayJob:
        """As `request_build`, for an overlay job. A tenant's keys are one set for both kinds."""
        return await self._add(
            _require(request, GraphOverlayRequest, "request").to_job, tenant_id, request.to_json(), key, actor
        )

    async def complete(self, tenant_id: str, completion: GraphJobCompletion, *, actor: str | None = None) -> AnyJob:
        """Takes the hook a graph builder calls when it is done or has failed. Repeated and late calls are harmless.

        A cancel waits for what was begun, so that whoever hears of the job does.

        Returns:
            The job as it ended; one that was final before is given as it is, whatever the call says.

        Raises:
            JobNotFound: the tenant has no such job.
            JobConflict: the job does not run, or another attempt does.
        """
        given = _require(completion, GraphJobCompletion, "completion")
        return await run_to_completion(self._complete(tenant_id, given, actor))

    async def cancel(self, tenant_id: str, job_id: UUID | str, *, actor: str | None = None) -> AnyJob:
        """Cancels a job that is queued or running.

        Returns:
            The job; one that was canceled before is given as it is.

        Raises:
            JobNotFound: the tenant has no such job.
            JobConflict: the job is completed or failed.
        """
        for _ in range(_CAS_RETRIES_MAX):
            job = await self._read(tenant_id, job_id)
            if job.status is GraphJobStatus.CANCELED:
                return job
            if job.status.is_final:
                raise JobConflict(
                    f"the job is {job.status} already, so it cannot be canceled", job_id=job.id, status=job.status
                )
            ended = await self._finish(job, job.cancel(at=self._now()), actor)
            if ended is not None:
                return ended
        raise _contention_error(job)

    async def overlay_lag(self, tenant_id: str, *, window: timedelta = LAG_WINDOW) -> OverlayLag:
        """Tells how far behind a tenant's overlays are; see `GraphJobStore.overlay_lag`."""
        return await self._store.overlay_lag(tenant_id, window=window)

    async def _add(
        self, to_job: Callable[..., Job], tenant_id: str, request: str, key: str | None, actor: str | None
    ) -> Job:
        if key is None:
            return await self._store.add(to_job(tenant_id), actor=actor)
        job_id = idempotent_id(check_name(tenant_id, "tenant_id"), check_name(key, "key"))
        job = to_job(tenant_id, id=job_id)
        try:
            # The addition is named by its request: the same one is found again, another is not.
            return await self._store.add(job, transition_id=uuid5(job_id, f"{job.type}\n{request}"), actor=actor)
        except JobAlreadyExists:
            pass
        raise IdempotencyConflict(key)

    async def _complete(self, tenant_id: str, completion: GraphJobCompletion, actor: str | None) -> AnyJob:
        for _ in range(_CAS_RETRIES_MAX):
            job = await self._read(tenant_id, completion.job_id)
            if job.status.is_final:
                return job
            if job.status is not GraphJobStatus.RUNNING:
                raise JobConflict(
                    f"the job is {job.status}: it was given back, or never started", job_id=job.id, status=job.status
                )
            if completion.attempts not in (None, job.attempts):
                raise JobConflict(
                    f"attempt {completion.attempts} does not run any more, attempt {job.attempts} does",
                    job_id=job.id,
                    status=job.status,
                )
            ended = await self._finish(job, completion.apply_to(job, at=self._now()), actor)
            if ended is not None:
                await self._notify_observers(ended)
                return ended
        raise _contention_error(job)

    async def _read(self, tenant_id: str, job_id: UUID | str) -> AnyJob:
        job = await self._store.get_job(tenant_id, job_id)
        if job is None:
            raise JobNotFound(tenant_id, parse_id(job_id, "job_id") or _NIL_ID)
        return job

    async def _finish(self, job: AnyJob, finished: AnyJob, actor: str | None) -> AnyJob | None:
        """Ends a job as it was read; None where it has changed since, by a heartbeat perhaps, and should be read again.

        The version is compared, for progress that was noted in between would else be lost.
        """
        result = await self._store.update(finished, expected=job.status, expected_version=job.updated_at, actor=actor)
        return result.job if result.applied else None

    async def _notify_observers(self, job: AnyJob) -> None:
        """Lets the observers hear; each is a task of its own, so that none can end another, or us."""
        if not self._observers:
            return
        tasks = [asyncio.ensure_future(_run_observer(observer, job)) for observer in self._observers]
        _, late = await asyncio.wait(tasks, timeout=_OBSERVER_SECONDS)
        for task in late:
            task.cancel()
            _log.warning(
                "an observer of job %s took longer than %s seconds, and was cancelled", job.id, _OBSERVER_SECONDS
            )


async def _run_observer(observer: Observer, job: AnyJob) -> None:
    try:
        await observer(job)
    except Exception:  # noqa: BLE001  # whatever it raises, the job is ended
        _log.exception("an observer of job %s failed; the job is %s all the same", job.id, job.status)


def _require(value: object, kind: type[Given], field: str) -> Given:
    if isinstance(value, kind):
        return value
    raise InvalidJob(f"{field}: it should be a {kind.__name__}, not {type(value).__name__}", field=field)


def _contention_error(job: AnyJob) -> JobConflict:
    return JobConflict(
        f"the job changed {_CAS_RETRIES_MAX} times while it was looked at; ask again", job_id=job.id, status=job.status
    )
