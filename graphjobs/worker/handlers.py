"""The handlers of graph jobs: their contexts and their results."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from uuid import UUID

from uuid_utils.compat import uuid7

from graphjobs.core.transitions import UpdateResult
from graphjobs.errors import ConfigurationError, InvalidJob, JobConflict
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphOverlayJob
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.worker.context import (
    Context,
    accepts_job_and_context,
    call_handler,
    interruptions,
    retry_until_available,
)

_EMPTY: Final[Mapping[str, str]] = MappingProxyType({})
_RETRIES_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result of a build job's handler; it completes the job.

    Attributes:
        graph_snapshot_id: the graph that was built.
        metadata: merged into the job's; an existing name gets the new value.
        followups: queued jobs of the same tenant to add together with the completion, at most 100. A job with the
            id of another job of the tenant is skipped; with the id of another tenant's job, the attempt fails.
    """

    graph_snapshot_id: str
    metadata: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    followups: Iterable[AnyJob] = ()


@dataclass(frozen=True, slots=True)
class OverlayResult:
    """The result of an overlay job's handler, with the fields of `BuildResult`. A handler may return None instead."""

    metadata: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    followups: Iterable[AnyJob] = ()


class JobContext(Context[AnyJob]):
    """The state of one attempt and the calls of its handler. Both calls wait while the database is unavailable.

    Attributes:
        job: the current value of the job, with its stored progress.
        cancelled: see `Context`.
        stopping: see `Context`.
    """

    def __init__(self, job: AnyJob, store: GraphJobStore, queue: GraphJobQueue, actor: str) -> None:
        super().__init__(job)
        self._store = store
        self._queue = queue
        self._actor = actor

    async def renew(self) -> bool:
        """Send a heartbeat now; the worker sends four per lease by itself.

        Returns:
            False if the job is lost: the result of the handler will be refused.
        """
        renewed = await retry_until_available(lambda: self._queue.renew([self._job]))
        for version in renewed.versions.values():
            self.refresh(self._job.stored(updated_at=version))
        if renewed.lost:
            self.cancelled = True
        return not renewed.lost

    async def progress(self, *, metadata: Mapping[str, str] = _EMPTY, cartographer_job_id: str | None = None) -> AnyJob:
        """Store the progress of the job in its payload and its event log; it counts as a heartbeat.

        Args:
            metadata: merged into the job's; an existing name gets the new value.
            cartographer_job_id: the builder's own id of the job; for a build job only.

        Returns:
            The job with its progress.

        Raises:
            InvalidJob: an argument is invalid.
            JobConflict: the job is lost, and nothing was stored.
        """
        fields: dict[str, Any] = {}
        if cartographer_job_id is not None:
            if not isinstance(self._job, GraphBuildJob):
                raise InvalidJob("cartographer_job_id: an overlay job has no such field", field="cartographer_job_id")
            fields = {"cartographer_job_id": cartographer_job_id}
        for _ in range(_RETRIES_MAX):
            attempts = self._job.attempts
            changed = self._job.renew(metadata={**self._job.metadata, **metadata}, **fields)
            result = await retry_until_available(partial(self._update, changed, uuid7()))
            current = result.job
            if current is None or current.status is not GraphJobStatus.RUNNING or current.attempts != attempts:
                break
            # The update was applied, or a heartbeat was faster: then it is repeated on the current value.
            self._job = current
            if result.applied:
                return self.job
        self.cancelled = self.cancelled or current is None or current.status is not GraphJobStatus.RUNNING
        status = current.status if current else "not there"
        raise JobConflict(f"no progress was stored: {result.reason}", job_id=self._job.id, status=status)

    async def _update(self, job: AnyJob, transition_id: UUID) -> UpdateResult[Any]:
        return await self._store.update(
            job, expected=GraphJobStatus.RUNNING, transition_id=transition_id, actor=self._actor
        )


BuildHandler: TypeAlias = Callable[[GraphBuildJob, JobContext], Awaitable[BuildResult]]
OverlayHandler: TypeAlias = Callable[[GraphOverlayJob, JobContext], Awaitable[OverlayResult | None]]


@dataclass(frozen=True, slots=True)
class Handlers:
    """A user's handlers. A job type without a handler is left to other workers.

    Attributes:
        build: awaited with a build job and its context.
        overlay: awaited with an overlay job and its context.

    Raises:
        ConfigurationError: there is no handler, or a handler does not accept a job and its context.
    """

    build: BuildHandler | None = None
    overlay: OverlayHandler | None = None

    def __post_init__(self) -> None:
        for name, handler in (("build", self.build), ("overlay", self.overlay)):
            if handler is not None and not accepts_job_and_context(handler):
                raise ConfigurationError(f"{name} must be an `async def` function of a job and its context")
        if not self.job_types:
            raise ConfigurationError("a worker needs at least one handler: build or overlay")

    @property
    def job_types(self) -> tuple[GraphJobType, ...]:
        """The job types with a handler."""
        return tuple(job_type for job_type in GraphJobType if getattr(self, job_type.value) is not None)


async def run_handler(handlers: Handlers, job: AnyJob, context: JobContext) -> AttemptResult:
    """Run the handler of a job, and return the result of the attempt.

    Raises:
        HandlerNotAsync: the handler is not asynchronous.
        TypeError: the handler returned an object of another type.
        HandlerInterrupted: the handler raised SystemExit or KeyboardInterrupt.
        InvalidJob: the result of the handler is invalid.
        Exception: any exception of the handler.
    """
    handler: Any = getattr(handlers, job.type.value)
    result = await call_handler(lambda: handler(job, context), job.type.value)
    with interruptions():
        return _to_attempt_result(job, context, result)


def _to_attempt_result(job: AnyJob, context: JobContext, result: object) -> AttemptResult:
    if isinstance(job, GraphBuildJob):
        if not isinstance(result, BuildResult):
            raise TypeError(f"the build handler returned {type(result).__name__}, not a BuildResult")
        graph_snapshot_id = result.graph_snapshot_id
    else:
        if result is None:
            return AttemptResult.completed(job)
        if not isinstance(result, OverlayResult):
            raise TypeError(f"the overlay handler returned {type(result).__name__}, not an OverlayResult or None")
        graph_snapshot_id = None
    # Progress may have added metadata since the claim: the result is merged into the current value.
    metadata = {**context.job.metadata, **result.metadata} if result.metadata else None
    return AttemptResult.completed(
        job, graph_snapshot_id=graph_snapshot_id, metadata=metadata, followups=result.followups
    )
