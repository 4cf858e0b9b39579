"""One interface to the worker of graph jobs and the dispatcher of policy runs, for tests of both."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from itertools import cycle, islice
from typing import Any, ClassVar, Final, TypeAlias

from typing_extensions import override

from graphjobs import GraphJobQuery
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.policy_runs.attempt_results import RetryBackoff
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.storage import Storage
from graphjobs.worker import BuildResult, DispatcherOptions, GraphJobWorker, PolicyRunDispatcher, WorkerOptions
from tests.builders import build_job, policy_run

POLL: Final = timedelta(milliseconds=20)
SHORT_BACKOFF: Final = RetryBackoff(first=timedelta(milliseconds=1), cap=timedelta(milliseconds=1))

Worker: TypeAlias = GraphJobWorker | PolicyRunDispatcher
Handler: TypeAlias = Callable[[Any, Any], Awaitable[BuildResult]]


async def return_result(_job: object, _context: object) -> BuildResult:
    """Return at once; a dispatcher ignores the result."""
    return BuildResult("graph")


async def wait_forever(_job: object, _context: object) -> BuildResult:
    """Wait until cancelled."""
    await asyncio.Event().wait()
    raise AssertionError


async def wait_until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait until a condition is true, and fail after a time limit."""
    deadline = time.monotonic() + seconds
    while True:
        is_true = condition()
        if is_true if isinstance(is_true, bool) else await is_true:
            return
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


async def run_until(worker: Worker, condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Run a worker until a condition is true, then stop it."""
    running = asyncio.ensure_future(worker.run())
    await wait_until(condition)
    worker.stop()
    await asyncio.wait_for(running, 30)


def job_worker(storage: Storage, tenant: str | None, **arguments: Any) -> GraphJobWorker:
    """Build a worker of graph jobs with short waits; the arguments are handlers, options and `on_ended`."""
    own = {name: arguments.pop(name) for name in ("build", "overlay", "on_ended") if name in arguments}
    options = WorkerOptions(**{"tenant": tenant, "name": "worker", "poll": POLL, **arguments})
    return GraphJobWorker(storage, options=options, **own)


async def run_jobs(storage: Storage, tenant: str | None, **arguments: Any) -> GraphJobWorker:
    """Run a worker of graph jobs until nothing is queued."""
    worker = job_worker(storage, tenant, **arguments)
    await asyncio.wait_for(worker.run(until_empty=True), 30)
    return worker


async def get_job(storage: Storage, job: AnyJob) -> AnyJob:
    """Return the stored job."""
    stored = await storage.graph_jobs.get_job(job.tenant_id, job.id)
    assert stored is not None
    return stored


async def execute(storage: Storage, statement: str, *arguments: object) -> None:
    """Run one SQL statement in a transaction of its own."""
    async with storage.session() as session, session.begin():
        await (await session.connection()).exec_driver_sql(statement, arguments)


class Twin(ABC):
    """A queue with its worker, limited to one tenant unless the tenant is None."""

    queued: ClassVar[str]
    running: ClassVar[str]
    finished: ClassVar[str]
    table: ClassVar[str]

    def __init__(self, storage: Storage, tenant: str | None) -> None:
        self.storage = storage
        self.tenant = tenant

    @abstractmethod
    async def add(self, tenant: str | None = None) -> Any:
        """Add a queued item."""

    @abstractmethod
    async def add_many(self, number: int, tenant: str) -> list[Any]:
        """Add queued items."""

    @abstractmethod
    async def get(self, item: Any) -> Any:
        """Return the stored item."""

    @abstractmethod
    async def events(self, item: Any) -> Iterable[Any]:
        """Return the event log of an item."""

    @abstractmethod
    async def count(self, tenant: str, statuses: Iterable[str]) -> int:
        """Return the number of items of a tenant with one of the statuses."""

    @abstractmethod
    async def claim_without_worker(self, attempts_max: int = 5) -> None:
        """Claim the queued item for a worker that sends no heartbeat."""

    @abstractmethod
    def worker(self, handler: Any = return_result, **options: Any) -> Worker:
        """Build a worker or dispatcher with short waits."""

    @abstractmethod
    def finished_by(self, worker: Worker) -> int:
        """Return the number of items that a worker has completed or submitted."""

    @abstractmethod
    def claimed_by(self, worker: Worker) -> int:
        """Return the number of items that a worker has claimed."""

    async def status(self, item: Any) -> tuple[str, int]:
        """Return the stored status and attempts of an item."""
        stored = await self.get(item)
        return stored.status.value, stored.attempts

    async def statuses(self, item: Any) -> list[str]:
        """Return the statuses of an item in the order of its event log."""
        return [event.status.value for event in await self.events(item)]


class JobTwin(Twin):
    """Build jobs and their worker."""

    queued, running, finished, table = "queued", "running", "completed", "graph_job"

    @override
    async def add(self, tenant: str | None = None) -> Any:
        return await self.storage.graph_jobs.add(build_job(tenant or self.tenant or "acme"))

    @override
    async def add_many(self, number: int, tenant: str) -> list[Any]:
        return list(await self.storage.graph_jobs.add_many(build_job(tenant) for _ in range(number)))

    @override
    async def get(self, item: Any) -> Any:
        return await get_job(self.storage, item)

    @override
    async def events(self, item: Any) -> Iterable[Any]:
        return await self.storage.graph_jobs.events(item.tenant_id, item.id)

    @override
    async def count(self, tenant: str, statuses: Iterable[str]) -> int:
        query = GraphJobQuery(statuses=tuple(statuses))  # type: ignore[arg-type]
        return (await self.storage.graph_jobs.count(tenant, query)).value

    @override
    async def claim_without_worker(self, attempts_max: int = 5) -> None:
        await self.storage.graph_job_queue.claim(self.tenant, "build", limit=1, actor="dead")

    @override
    def worker(self, handler: Any = return_result, **options: Any) -> GraphJobWorker:
        return job_worker(self.storage, self.tenant, build=handler, **options)

    @override
    def finished_by(self, worker: Worker) -> int:
        assert isinstance(worker, GraphJobWorker)
        return worker.stats.completed

    @override
    def claimed_by(self, worker: Worker) -> int:
        assert isinstance(worker, GraphJobWorker)
        return worker.stats.claimed


class RunTwin(Twin):
    """Policy runs and their dispatcher."""

    queued, running, finished, table = "pending", "dispatching", "submitted", "policy_run"

    @override
    async def add(self, tenant: str | None = None) -> Any:
        return await self.storage.policy_runs.insert(policy_run(tenant or self.tenant or "acme"))

    @override
    async def add_many(self, number: int, tenant: str) -> list[Any]:
        priorities = islice(cycle(("normal", "normal", "high", "emergency")), number)
        return [await self.storage.policy_runs.insert(policy_run(tenant, priority=priority)) for priority in priorities]

    @override
    async def get(self, item: Any) -> Any:
        return await self.storage.policy_runs.get(item.tenant_id, item.id)

    @override
    async def events(self, item: Any) -> Iterable[Any]:
        return await self.storage.policy_runs.events(item.tenant_id, item.id)

    @override
    async def count(self, tenant: str, statuses: Iterable[str]) -> int:
        query = PolicyRunQuery(statuses=tuple(statuses))  # type: ignore[arg-type]
        return (await self.storage.policy_runs.count(tenant, query)).value

    @override
    async def claim_without_worker(self, attempts_max: int = 5) -> None:
        lease = timedelta(milliseconds=1)
        queue = self.storage.policy_run_queue
        await queue.lease("dead", lease, attempts_max=attempts_max, tenant_id=self.tenant)

    @override
    def worker(self, handler: Any = return_result, **options: Any) -> PolicyRunDispatcher:
        on_ended = options.pop("on_ended", lambda _result: None)
        merged = DispatcherOptions(**{"tenant": self.tenant, "poll": POLL, "backoff": SHORT_BACKOFF, **options})
        return PolicyRunDispatcher(self.storage, handler, options=merged, on_ended=on_ended)

    @override
    def finished_by(self, worker: Worker) -> int:
        assert isinstance(worker, PolicyRunDispatcher)
        return worker.stats.submitted

    @override
    def claimed_by(self, worker: Worker) -> int:
        assert isinstance(worker, PolicyRunDispatcher)
        return worker.stats.leased


TWINS: Final[Mapping[str, Callable[[Storage, str | None], Twin]]] = {"worker": JobTwin, "dispatcher": RunTwin}
