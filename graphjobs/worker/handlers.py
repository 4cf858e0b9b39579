"""What a user's handlers are given and what they return."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

from uuid_utils.compat import uuid7

from graphjobs.errors import ConfigurationError, InvalidJob, JobConflict
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphOverlayJob
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.graph_jobs.store import GraphJobStore, GraphJobUpdateResult
from graphjobs.worker.context import Context, awaited, patiently, takes_two

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_TRIES_MAX: Final = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What completes a build job.

    Attributes:
        graph_snapshot_id: the graph that was built.
        metadata: added to the job's; what has a name that is taken replaces it.
        following: queued jobs of the same tenant to add with the completion, both or neither; at most 100. One whose id
            is taken is left out.
    """

    graph_snapshot_id: str
    metadata: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    following: Iterable[AnyJob] = ()


@dataclass(frozen=True, slots=True)
class OverlayResult:
    """What completes an overlay job; its fields are those of `BuildResult`. A handler may return None instead."""

    metadata: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    following: Iterable[AnyJob] = ()


class JobContext(Context[AnyJob]):
    """What a handler knows of its attempt, and can do about it. Both calls wait for a database that is away.

    Attributes:
        job: the job as it now is, with the progress that was noted.
        cancelled: see `Context`.
        stopping: see `Context`.
    """

    def __init__(self, job: AnyJob, store: GraphJobStore, queue: GraphJobQueue, actor: str) -> None:
        super().__init__(job)
        self._store = store
        self._queue = queue
        self._actor = actor

    async def renew(self) -> bool:
        """Tells at once that the job is alive; the worker does so by itself, a few times a lease.

        Returns:
            False where the job is lost: whatever the handler returns will be refused.
        """
        renewed = await patiently(lambda: self._queue.renew([self._job]))
        for version in renewed.versions.values():
            self.saw(self._job.stored(updated_at=version))
        if renewed.lost:
            self.cancelled = True
        return not renewed.lost

    async def progress(
        self, *, metadata: Mapping[str, str] = _NOTHING, cartographer_job_id: str | None = None
    ) -> AnyJob:
        """Notes how far the job is, in its payload and its log, and tells that it is alive.

        Args:
            metadata: added to the job's; what has a name that is taken replaces it.
            cartographer_job_id: the builder's own name of the job; for a build job only.

        Returns:
            The job with it.

        Raises:
            InvalidJob: one of these cannot be.
            JobConflict: the job is lost, and nothing was noted.
        """
        more: dict[str, Any] = {}
        if cartographer_job_id is not None:
            if not isinstance(self._job, GraphBuildJob):
                raise InvalidJob("cartographer_job_id: an overlay job has none", field="cartographer_job_id")
            more = {"cartographer_job_id": cartographer_job_id}
        for _ in range(_TRIES_MAX):
            attempts = self._job.attempts
            noted = self._job.renew(metadata={**self._job.metadata, **metadata}, **more)
            result = await patiently(partial(self._noted, noted, uuid7()))
            now = result.job
            if now is None or now.status is not GraphJobStatus.RUNNING or now.attempts != attempts:
                break
            # Applied, or a heartbeat was faster: then the same is noted on the job as it now is.
            self._job = now
            if result.applied:
                return self.job
        self.cancelled = self.cancelled or now is None or now.status is not GraphJobStatus.RUNNING
        raise JobConflict(
            f"no progress was noted: {result.reason}", job_id=self._job.id, status=now.status if now else "not there"
        )

    async def _noted(self, noted: AnyJob, named: UUID) -> GraphJobUpdateResult[Any]:
        return await self._store.update(noted, expected=GraphJobStatus.RUNNING, transition_id=named, actor=self._actor)


BuildHandler: TypeAlias = Callable[[GraphBuildJob, JobContext], Awaitable[BuildResult]]
OverlayHandler: TypeAlias = Callable[[GraphOverlayJob, JobContext], Awaitable[OverlayResult | None]]


@dataclass(frozen=True, slots=True)
class Handlers:
    """A user's handlers; a kind without one is left to other workers.

    Attributes:
        build: awaited with a build job and its context.
        overlay: awaited with an overlay job and its context.

    Raises:
        ConfigurationError: there is none, or one cannot be called with a job and its context.
    """

    build: BuildHandler | None = None
    overlay: OverlayHandler | None = None

    def __post_init__(self) -> None:
        for name, handler in (("build", self.build), ("overlay", self.overlay)):
            if handler is not None and not takes_two(handler):
                raise ConfigurationError(f"{name}: it should be an `async def` that takes a job and its context")
        if not self.kinds:
            raise ConfigurationError("a worker needs a handler: give build, overlay, or both")

    @property
    def kinds(self) -> tuple[GraphJobType, ...]:
        """The kinds there is a handler for."""
        return tuple(kind for kind in GraphJobType if getattr(self, kind.value) is not None)


async def handled(handlers: Handlers, job: AnyJob, context: JobContext) -> AttemptResult:
    """Runs a job's handler, and gives how the job ends by what it returned.

    Raises:
        NotAwaitable: it cannot be awaited.
        TypeError: it returned something else than a result.
        Interrupted: it raised SystemExit or KeyboardInterrupt.
        InvalidJob: its result cannot be stored.
        Exception: whatever the handler raises.
    """
    handler: Any = getattr(handlers, job.type.value)
    result = await awaited(lambda: handler(job, context), job.type.value)
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
    # Over what the job holds by now, which is more than it was given with.
    metadata = {**context.job.metadata, **result.metadata} if result.metadata else None
    return AttemptResult.completed(
        job, graph_snapshot_id=graph_snapshot_id, metadata=metadata, followups=result.following
    )
