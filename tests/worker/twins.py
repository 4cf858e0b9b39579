"""One interface to the worker of graph jobs and the dispatcher of policy runs, for tests of both."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from itertools import cycle, islice
from typing import Any, ClassVar, Final
from uuid import UUID

from typing_extensions import override

from graphjobs import GraphBuildJob, GraphJobQuery, GraphJobStatus, PolicyRunJob
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.policy_runs.attempt_results import RetryBackoff
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.storage import Storage
from graphjobs.worker import DispatcherOptions, GraphJobWorker, PolicyRunDispatcher, WorkerOptions
from tests.builders import build_job, policy_run
from tests.worker.worker_control import Worker, return_result

POLL: Final = timedelta(milliseconds=20)
SHORT_BACKOFF: Final = RetryBackoff(first=timedelta(milliseconds=1), cap=timedelta(milliseconds=1))


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


async def statuses_of(storage: Storage, jobs: Iterable[AnyJob]) -> list[GraphJobStatus]:
    """Return the stored status of each job."""
    return [(await get_job(storage, job)).status for job in jobs]


async def execute(storage: Storage, statement: str, *arguments: object) -> None:
    """Run one SQL statement in a transaction of its own."""
    async with storage.session() as session, session.begin():
        await (await session.connection()).exec_driver_sql(statement, arguments)


class Twin(ABC):
    """A queue with its worker, limited to one tenant unless the tenant is None."""

    queued: ClassVar[str]
    running: ClassVar[str]
    claimed: ClassVar[str]
    finished: ClassVar[str]
    table: ClassVar[str]
    query: ClassVar[Callable[..., Any]]
    repository: Any
    insert: Callable[[Any], Awaitable[Any]]
    find: Callable[[str, UUID], Awaitable[Any]]

    def __init__(self, storage: Storage, tenant: str | None) -> None:
        self.storage = storage
        self.tenant = tenant

    @abstractmethod
    def new_items(self, number: int, tenant: str) -> Iterable[Any]:
        """Build queued items."""

    @abstractmethod
    async def claim_without_worker(self, attempts_max: int = 5) -> None:
        """Claim the queued item for a worker that sends no heartbeat."""

    @abstractmethod
    def worker(self, handler: Any = return_result, **options: Any) -> Worker:
        """Build a worker or dispatcher with short waits."""

    async def add(self, tenant: str | None = None) -> Any:
        """Add a queued item."""
        (item,) = self.new_items(1, tenant or self.tenant or "acme")
        return await self.insert(item)

    async def add_many(self, number: int, tenant: str) -> list[Any]:
        """Add queued items."""
        return [await self.insert(item) for item in self.new_items(number, tenant)]

    async def get(self, item: Any) -> Any:
        """Return the stored item."""
        stored = await self.find(item.tenant_id, item.id)
        assert stored is not None
        return stored

    async def status(self, item: Any) -> tuple[str, int]:
        """Return the stored status and attempts of an item."""
        stored = await self.get(item)
        return stored.status.value, stored.attempts

    async def error(self, item: Any) -> str:
        """Return the stored error of an item."""
        stored = await self.get(item)
        return str(stored.last_error if isinstance(stored, PolicyRunJob) else stored.error)

    async def count(self, tenant: str, statuses: Iterable[str]) -> int:
        """Return the number of items of a tenant with one of the statuses."""
        count = await self.repository.count(tenant, self.query(statuses=tuple(statuses)))
        return int(count.value)

    async def events(self, item: Any) -> Iterable[Any]:
        """Return the event log of an item."""
        events: Iterable[Any] = await self.repository.events(item.tenant_id, item.id)
        return events

    async def statuses(self, item: Any) -> list[str]:
        """Return the statuses of an item in the order of its event log."""
        return [event.status.value for event in await self.events(item)]

    def finished_by(self, worker: Worker) -> int:
        """Return the number of items that a worker has completed or submitted."""
        return int(getattr(worker.stats, self.finished))

    def claimed_by(self, worker: Worker) -> int:
        """Return the number of items that a worker has claimed."""
        return int(getattr(worker.stats, self.claimed))


class JobTwin(Twin):
    """Build jobs and their worker."""

    queued, running, claimed, finished, table = "queued", "running", "claimed", "completed", "graph_job"
    query = GraphJobQuery

    def __init__(self, storage: Storage, tenant: str | None) -> None:
        super().__init__(storage, tenant)
        self.repository, self.insert, self.find = storage.graph_jobs, storage.graph_jobs.add, storage.graph_jobs.get_job

    @override
    def new_items(self, number: int, tenant: str) -> Iterable[GraphBuildJob]:
        return (build_job(tenant) for _ in range(number))

    @override
    async def add_many(self, number: int, tenant: str) -> list[Any]:
        return list(await self.storage.graph_jobs.add_many(self.new_items(number, tenant)))

    @override
    async def claim_without_worker(self, attempts_max: int = 5) -> None:
        await self.storage.graph_job_queue.claim(self.tenant, "build", limit=1, actor="dead")

    @override
    def worker(self, handler: Any = return_result, **options: Any) -> GraphJobWorker:
        return job_worker(self.storage, self.tenant, build=handler, **options)


class RunTwin(Twin):
    """Policy runs and their dispatcher."""

    queued, running, claimed, finished, table = "pending", "dispatching", "leased", "submitted", "policy_run"
    query = PolicyRunQuery

    def __init__(self, storage: Storage, tenant: str | None) -> None:
        super().__init__(storage, tenant)
        self.repository, self.insert, self.find = (
            storage.policy_runs,
            storage.policy_runs.insert,
            storage.policy_runs.get,
        )

    @override
    def new_items(self, number: int, tenant: str) -> Iterable[PolicyRunJob]:
        priorities = islice(cycle(("normal", "normal", "high", "emergency")), number)
        return (policy_run(tenant, priority=priority) for priority in priorities)

    @override
    async def claim_without_worker(self, attempts_max: int = 5) -> None:
        queue, lease = self.storage.policy_run_queue, timedelta(milliseconds=1)
        await queue.lease("dead", lease, attempts_max=attempts_max, tenant_id=self.tenant)

    @override
    def worker(self, handler: Any = return_result, **options: Any) -> PolicyRunDispatcher:
        on_ended = options.pop("on_ended", lambda _result: None)
        merged = DispatcherOptions(**{"tenant": self.tenant, "poll": POLL, "backoff": SHORT_BACKOFF, **options})
        return PolicyRunDispatcher(self.storage, handler, options=merged, on_ended=on_ended)


TWINS: Final[Mapping[str, Callable[[Storage, str | None], Twin]]] = {"worker": JobTwin, "dispatcher": RunTwin}
