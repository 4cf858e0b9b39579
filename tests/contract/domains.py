"""Graph jobs and policy runs behind one interface, so that one test checks the same guarantee of both domains."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, NamedTuple, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import override

from graphjobs.core.results import FinishResult, RescueResult, StalledItem
from graphjobs.core.transitions import UpdateResult
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.policy_runs.attempt_results import LeaseResult, RetryBackoff
from graphjobs.storage import Storage
from tests.builders import AT, build_job, expired_of, policy_run

OWNER: Final = "A"
MINUTE: Final = timedelta(minutes=1)
_MICROSECOND: Final = timedelta(microseconds=1)
_NO_BACKOFF: Final = RetryBackoff(first=_MICROSECOND, cap=_MICROSECOND)


class Batch(NamedTuple):
    """The items of one claim or lease, the cursor for the next one of all tenants, and the lost items."""

    items: list[Any]
    cursor: Any
    lost: tuple[UUID, ...]


class Heartbeat(NamedTuple):
    """The result of a heartbeat: the new versions, the lost items, and the items that another transaction locks."""

    versions: dict[UUID, datetime]
    lost: frozenset[UUID]
    busy: frozenset[UUID]


class Update(NamedTuple):
    """A kind of update: whether its item must be started first, and the target value of racer `n`."""

    needs_start: bool
    target: Callable[[Any, int], Any]


@dataclass(frozen=True)
class Domain(ABC):
    """One domain, for one tenant, in autocommit or in a session."""

    storage: Storage
    tenant: str
    session: AsyncSession | None = None

    table: ClassVar[str]
    """The name of the table, and of the store in a storage."""
    queue_name: ClassVar[str]
    waiting: ClassVar[str]
    started: ClassVar[str]
    finished: ClassVar[str]
    results: ClassVar[Mapping[str, Callable[[Any], Any]]]
    """The attempt results by the status that they lead to, the successful one first."""
    updates: ClassVar[Mapping[str, Update]]
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    """Fields of items that a queue orders differently."""
    names_insertions: ClassVar[bool]
    """Whether `insert` takes a transition id."""

    def using(self, session: AsyncSession) -> Self:
        """Return the domain inside the caller's transaction."""
        return replace(self, session=session)

    def on(self, storage: Storage) -> Self:
        """Return the domain on another storage."""
        return replace(self, storage=storage, session=None)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Self]:
        """Open a transaction that keeps its locks until it commits at the end."""
        async with self.storage.session() as session, session.begin():
            yield self.using(session)

    def _component(self, name: str) -> Any:
        component = getattr(self.storage, name)
        return component if self.session is None else component.using(self.session)

    @property
    def store(self) -> Any:
        """The store or repository."""
        return self._component(self.table)

    @property
    def queue(self) -> Any:
        """The queue."""
        return self._component(self.queue_name)

    @abstractmethod
    def new(self, number: int = 0, **fields: Any) -> Any:
        """Build a waiting item; items start in the order of their numbers."""

    @abstractmethod
    def rival(self, item: Any) -> Any:
        """Build an item that must not be stored together with `item`."""

    @abstractmethod
    def content(self, item: Any) -> Any:
        """Return what the caller asked for: the part of an item that an insertion stores unchanged."""

    @abstractmethod
    def released(self, item: Any, found: Any) -> Any:
        """Return `item` after a release; times and errors of the database are those of `found`."""

    @abstractmethod
    async def insert(self, item: Any, transition_id: UUID) -> Any:
        """Store an item."""

    @abstractmethod
    async def start(
        self, *, limit: int = 1, owner: str = OWNER, all_tenants: bool = False, cursor: Any = None
    ) -> Batch:
        """Claim or lease waiting items."""

    @abstractmethod
    async def renew(self, *items: Any) -> Heartbeat:
        """Send a heartbeat."""

    @abstractmethod
    async def end_leases(self, *items: Any) -> None:
        """Let items stall."""

    @abstractmethod
    async def stalled(self) -> set[UUID]:
        """List the ids of the stalled items of the tenant."""

    @abstractmethod
    async def rescue(self, *items: Any) -> RescueResult:
        """Rescue items at the version that they have; those of more than two attempts fail."""

    @abstractmethod
    async def update(self, before: Any, target: Any, transition_id: UUID | None = None) -> UpdateResult[Any]:
        """Update an item that was read as `before`."""

    @abstractmethod
    def lost_reason(self, item: Any, status: str, attempts: int, owner: str = "") -> str:
        """Return the reason that `finish` reports if the item has another status, attempt or owner."""

    async def add(self, number: int = 0, **fields: Any) -> Any:
        """Store a new item."""
        return await self.insert(self.new(number, **fields), uuid.uuid4())

    async def add_started(self) -> Any:
        """Store a new item and start it; no other item may be waiting."""
        await self.add()
        (item,) = (await self.start()).items
        return item

    async def finish(self, *results: Any, transition_id: UUID | None = None) -> FinishResult:
        """Store attempt results."""
        result: FinishResult = await self.queue.end(results, transition_id=transition_id)
        return result

    async def complete(self, *items: Any) -> FinishResult:
        """Store a successful result of each item."""
        return await self.finish(*map(self.results[self.finished], items))

    async def release(self, item: Any) -> FinishResult:
        """Release an item in order."""
        return await self.finish(self.results[self.waiting](item))

    async def cancel(self, item: Any) -> Any:
        """Cancel an item that was read as `item`, and return it as it is stored."""
        result = await self.update(item, item.cancel(at=AT))
        assert result.applied
        return result.job

    async def get(self, item: Any) -> Any:
        """Read an item; None if it is not stored."""
        return await self.store.get(item.tenant_id, item.id)

    async def read(self, item: Any) -> Any:
        """Read an item that must be stored."""
        found = await self.get(item)
        assert found is not None
        return found

    async def events(self, item: Any) -> Sequence[Any]:
        """List the events of an item."""
        events: Sequence[Any] = await self.store.events(item.tenant_id, item.id)
        return events

    async def log(self, item: Any) -> list[str]:
        """List the statuses in the event log of an item."""
        return [event.status.value for event in await self.events(item)]

    async def prepare(self) -> None:
        """Prepare each statement that writes, on a pool of one connection: each is then one piece on the wire."""
        other = replace(self, tenant=f"other-{uuid.uuid4()}")
        waiting = await other.add()
        (started,) = (await other.start()).items
        await other.renew(started)
        for update in self.updates.values():
            before = started if update.needs_start else waiting
            await other.update(before, update.target(before, 0))
        await other.complete(started)
        await other.rescue(started)


def _stalled_item(item: Any) -> StalledItem:
    return StalledItem(item.id, item.tenant_id, item.updated_at, item.attempts)


class GraphJobs(Domain):
    """Graph jobs: build jobs in the store, claimed by workers."""

    table, queue_name = "graph_jobs", "graph_job_queue"
    waiting, started, finished = "queued", "running", "completed"
    names_insertions = True
    results: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "completed": lambda job: AttemptResult.completed(job, graph_snapshot_id="graph"),
        "queued": AttemptResult.released,
        "failed": lambda job: AttemptResult.failed(job, "broken"),
    }
    updates: ClassVar[Mapping[str, Update]] = {
        "edit": Update(needs_start=False, target=lambda job, n: job.edit(metadata={"racer": str(n)})),
        "start": Update(needs_start=False, target=lambda job, n: job.start(at=AT + n * _MICROSECOND)),
        "finish": Update(
            needs_start=True,
            target=lambda job, n: (
                job.complete(at=AT, graph_snapshot_id=f"racer {n}"),
                job.fail(at=AT, error=f"racer {n}"),
                job.requeue(at=AT),
            )[n % 3],
        ),
    }

    @override
    def new(self, number: int = 0, **fields: Any) -> Any:
        return build_job(**{"tenant_id": self.tenant, "created_at": AT + timedelta(seconds=number), **fields})

    @override
    def rival(self, item: Any) -> Any:
        return item

    @override
    def content(self, item: Any) -> Any:
        return item

    @override
    def released(self, item: Any, found: Any) -> Any:
        return item.requeue()

    @override
    async def insert(self, item: Any, transition_id: UUID) -> Any:
        return await self.store.add(item, transition_id=transition_id)

    @override
    async def get(self, item: Any) -> Any:
        return await self.store.get_job(item.tenant_id, item.id)

    @override
    async def start(
        self, *, limit: int = 1, owner: str = OWNER, all_tenants: bool = False, cursor: Any = None
    ) -> Batch:
        tenants = None if all_tenants else self.tenant
        claim = await self.queue.claim(tenants, "build", limit=limit, after=cursor or "", actor=owner)
        assert () == claim.unreadable
        return Batch(list(claim.jobs), claim.cursor, claim.lost)

    @override
    async def renew(self, *items: Any) -> Heartbeat:
        renewed = await self.queue.renew(items)
        busy = {item.id for item in items} - renewed.versions.keys() - renewed.lost
        return Heartbeat(dict(renewed.versions), renewed.lost, frozenset(busy))

    @override
    async def end_leases(self, *items: Any) -> None:
        """Do nothing: `stalled` compares with the shortest lease."""

    @override
    async def stalled(self) -> set[UUID]:
        stalled, _ = await self.queue.stalled(self.tenant, "build", lease=_MICROSECOND)
        return {item.job_id for item in stalled}

    @override
    async def rescue(self, *items: Any) -> RescueResult:
        result: RescueResult = await self.queue.rescue(map(_stalled_item, items), attempts_max=3)
        return result

    @override
    async def update(self, before: Any, target: Any, transition_id: UUID | None = None) -> UpdateResult[Any]:
        result: UpdateResult[Any] = await self.store.update(target, expected=before.status, transition_id=transition_id)
        return result

    @override
    def lost_reason(self, item: Any, status: str, attempts: int, owner: str = "") -> str:
        return f"attempt {item.attempts} no longer runs: a later read found the job {status} at attempt {attempts}"


class PolicyRuns(Domain):
    """Policy runs in the repository, leased by dispatchers."""

    table, queue_name = "policy_runs", "policy_run_queue"
    waiting, started, finished = "pending", "dispatching", "submitted"
    variants: ClassVar[Sequence[Mapping[str, Any]]] = tuple(
        {"priority": priority} for priority in ("normal", "high", "emergency")
    )
    names_insertions = False
    results: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "submitted": LeaseResult.submitted,
        "pending": LeaseResult.released,
        "failed": lambda run: LeaseResult.failed(run, "no engine took it"),
        "canceled": LeaseResult.canceled,
    }
    updates: ClassVar[Mapping[str, Update]] = {
        "edit": Update(needs_start=True, target=lambda run, n: run.request_cancellation(at=AT, reason=f"racer {n}")),
        "start": Update(needs_start=False, target=lambda run, n: run.lease(at=AT, owner=f"racer {n}", until=AT)),
        "finish": Update(
            needs_start=True,
            target=lambda run, n: (
                run.submit(at=AT),
                run.fail(at=AT, error=f"racer {n}"),
                run.release(at=AT, available_at=AT),
            )[n % 3],
        ),
    }

    @override
    def new(self, number: int = 0, **fields: Any) -> Any:
        at = AT + timedelta(seconds=number)
        return policy_run(**{"tenant_id": self.tenant, "created_at": at, "available_at": at, **fields})

    @override
    def rival(self, item: Any) -> Any:
        return policy_run(item.tenant_id, run_id=item.run_id)

    @override
    def content(self, item: Any) -> Any:
        return item.spec()

    @override
    def released(self, item: Any, found: Any) -> Any:
        released = item.release(at=AT, available_at=found.available_at, error=found.last_error)
        return released.stored(updated_at=found.updated_at)

    @override
    async def insert(self, item: Any, transition_id: UUID) -> Any:
        return await self.store.insert(item)

    @override
    async def start(
        self, *, limit: int = 1, owner: str = OWNER, all_tenants: bool = False, cursor: Any = None
    ) -> Batch:
        tenant_id = None if all_tenants else self.tenant
        lease = await self.queue.lease(owner, MINUTE, attempts_max=9, limit=limit, tenant_id=tenant_id, after=cursor)
        assert {owner} >= {run.lease_owner for run in lease.runs}
        assert () == lease.unreadable == lease.exhausted
        return Batch(list(lease.runs), lease.cursors, lease.lost)

    @override
    async def renew(self, *items: Any) -> Heartbeat:
        renewed = await self.queue.renew(items, MINUTE)
        return Heartbeat({run.id: run.updated_at for run in renewed.runs}, renewed.lost, renewed.busy)

    @override
    async def end_leases(self, *items: Any) -> None:
        await self.queue.renew(items, _MICROSECOND)

    @override
    async def stalled(self) -> set[UUID]:
        expired = await expired_of(self.queue, self.tenant)
        return {item.job_id for item in expired}

    @override
    async def rescue(self, *items: Any) -> RescueResult:
        result: RescueResult = await self.queue.rescue(map(_stalled_item, items), attempts_max=3, backoff=_NO_BACKOFF)
        return result

    @override
    async def update(self, before: Any, target: Any, transition_id: UUID | None = None) -> UpdateResult[Any]:
        result: UpdateResult[Any] = await self.store.replace(target, before.lease_owner, transition_id=transition_id)
        return result

    @override
    def lost_reason(self, item: Any, status: str, attempts: int, owner: str = "") -> str:
        where = f"a later read found the run {status}{f' by {owner!r}' if owner else ''} at attempt {attempts}"
        return f"the lease of {item.lease_owner!r} at attempt {item.attempts} is lost: {where}"


DOMAINS: Final[tuple[type[Domain], ...]] = (GraphJobs, PolicyRuns)
