"""The use cases of graph jobs: request, complete, cancel, read the overlay lag. No HTTP here."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID, uuid5

from graphjobs.core.fields import check_name, parse_id, utc_now
from graphjobs.core.update_retry import conflict, update_until_applied
from graphjobs.core.validation import check_type
from graphjobs.database.executor import run_to_completion
from graphjobs.errors import ConfigurationError, IdempotencyConflict, JobAlreadyExists, JobNotFound
from graphjobs.graph_jobs.filters import OverlayLag
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphOverlayJob, Job
from graphjobs.graph_jobs.requests import GraphBuildRequest, GraphJobCompletion, GraphOverlayRequest, idempotent_id
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.graph_jobs.store import GraphJobStore

Observer: TypeAlias = Callable[[AnyJob], Awaitable[None]]

LAG_WINDOW: Final = timedelta(hours=24)
"""The default window of `overlay_lag`."""

_OBSERVER_SECONDS: Final = 10.0
_NIL_ID: Final = UUID(int=0)

_log = logging.getLogger(__name__)


class GraphJobService:
    """The use cases of graph jobs, on any `GraphJobStore`.

    Every method raises `InvalidJob` for an invalid argument, and what the store raises. After an `OutcomeUnknown` the
    same call can be repeated: no call does anything twice, if it is given a key where it takes one.

    Args:
        store: the store of the jobs.
        observers: each is awaited with each job that `complete` finished, after the commit. An observer that fails, or
            takes longer than ten seconds, is logged. An observer is called at most once for a job: if the process ends
            in between, it is not called, so a consumer that must not miss a job reads the log.
        now: the clock of `completed_at`.

    Raises:
        ConfigurationError: there are observers, and the store is in a session, so that its commit is not visible here.
    """

    def __init__(
        self, store: GraphJobStore, *, observers: Iterable[Observer] = (), now: Callable[[], datetime] = utc_now
    ) -> None:
        self._store = store
        self._observers = tuple(observers)
        self._now = now
        if self._observers and not store.is_autocommit:
            raise ConfigurationError("observers are called after a commit: pass a store that is not in a session")

    async def request_build(
        self, tenant_id: str, request: GraphBuildRequest, *, key: str | None = None, actor: str | None = None
    ) -> GraphBuildJob:
        """Add a build job; with a key, only once, however many callers request it.

        Args:
            tenant_id: the tenant.
            request: the request.
            key: the caller's name for this request, 1 to 256 characters. None adds a new job each time.
            actor: who requests the job, for the event.

        Returns:
            The job as it was added, or as it is now where the key was used before.

        Raises:
            IdempotencyConflict: the key was used for another request.
        """
        return await self._add(
            check_type(request, GraphBuildRequest, "request").to_job, tenant_id, request.to_json(), key, actor
        )

    async def request_overlay(
        self, tenant_id: str, request: GraphOverlayRequest, *, key: str | None = None, actor: str | None = None
    ) -> GraphOverlayJob:
        """Add an overlay job; see `request_build`. A tenant's keys are shared by both types."""
        return await self._add(
            check_type(request, GraphOverlayRequest, "request").to_job, tenant_id, request.to_json(), key, actor
        )

    async def complete(self, tenant_id: str, completion: GraphJobCompletion, *, actor: str | None = None) -> AnyJob:
        """Finish a running job, as the hook of a graph builder. Repeated and late calls are harmless.

        A cancelled call still calls the observers of a job that it finished.

        Returns:
            The finished job. A job that was final before is returned unchanged.

        Raises:
            JobNotFound: the tenant has no such job.
            JobConflict: the job is not running, or another attempt is.
        """
        check_type(completion, GraphJobCompletion, "completion")
        return await run_to_completion(self._complete(tenant_id, completion, actor))

    async def cancel(self, tenant_id: str, job_id: UUID | str, *, actor: str | None = None) -> AnyJob:
        """Cancel a queued or running job.

        Returns:
            The job. A job that was canceled before is returned unchanged.

        Raises:
            JobNotFound: the tenant has no such job.
            JobConflict: the job is completed or failed.
        """

        async def cancel(job: AnyJob) -> AnyJob | None:
            if job.status is GraphJobStatus.CANCELED:
                return job
            if job.status.is_final:
                raise conflict(job, f"the job is already {job.status}, and final")
            return await self._finish(job, job.cancel(at=self._now()), actor)

        return await update_until_applied(lambda: self._read(tenant_id, job_id), cancel)

    async def overlay_lag(self, tenant_id: str, *, window: timedelta = LAG_WINDOW) -> OverlayLag:
        """Return the lag of a tenant's overlay jobs; see `GraphJobStore.overlay_lag`."""
        return await self._store.overlay_lag(tenant_id, window=window)

    async def _add(
        self, to_job: Callable[..., Job], tenant_id: str, request: str, key: str | None, actor: str | None
    ) -> Job:
        if key is None:
            return await self._store.add(to_job(tenant_id), actor=actor)
        job_id = idempotent_id(check_name(tenant_id, "tenant_id"), check_name(key, "key"))
        job = to_job(tenant_id, id=job_id)
        try:
            # The transition id is derived from the request: the same request is found again, another one is not.
            return await self._store.add(job, transition_id=uuid5(job_id, f"{job.type}\n{request}"), actor=actor)
        except JobAlreadyExists:
            pass
        raise IdempotencyConflict(key)

    async def _complete(self, tenant_id: str, completion: GraphJobCompletion, actor: str | None) -> AnyJob:
        async def complete(job: AnyJob) -> AnyJob | None:
            if job.status.is_final:
                return job
            if job.status is not GraphJobStatus.RUNNING:
                raise conflict(job, f"the job is {job.status}: it was released, or never started")
            if completion.attempts not in (None, job.attempts):
                raise conflict(job, f"attempt {completion.attempts} no longer runs, attempt {job.attempts} does")
            finished = await self._finish(job, completion.apply_to(job, at=self._now()), actor)
            if finished is not None:
                await self._notify_observers(finished)
            return finished

        return await update_until_applied(lambda: self._read(tenant_id, completion.job_id), complete)

    async def _read(self, tenant_id: str, job_id: UUID | str) -> AnyJob:
        job = await self._store.get_job(tenant_id, job_id)
        if job is None:
            raise JobNotFound(tenant_id, parse_id(job_id, "job_id") or _NIL_ID)
        return job

    async def _finish(self, job: AnyJob, finished: AnyJob, actor: str | None) -> AnyJob | None:
        """Finish a job as it was read; return None where it changed since, for example by a heartbeat.

        The version is compared, because progress that was recorded in between would be lost otherwise.
        """
        result = await self._store.update(finished, expected=job.status, expected_version=job.updated_at, actor=actor)
        return result.job if result.applied else None

    async def _notify_observers(self, job: AnyJob) -> None:
        """Call the observers, each in a task of its own, so that none affects another."""
        if not self._observers:
            return
        tasks = [asyncio.ensure_future(_run_observer(observer, job)) for observer in self._observers]
        _, late = await asyncio.wait(tasks, timeout=_OBSERVER_SECONDS)
        for task in late:
            task.cancel()
            _log.warning(
                "an observer of job %s took longer than %s seconds and was cancelled", job.id, _OBSERVER_SECONDS
            )


async def _run_observer(observer: Observer, job: AnyJob) -> None:
    try:
        await observer(job)
    except Exception:  # noqa: BLE001  # whatever it raises, the job is finished
        _log.exception("an observer of job %s failed; the job is %s", job.id, job.status)
