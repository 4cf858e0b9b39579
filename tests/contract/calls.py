"""Writes that a test can repeat with the same arguments: insertions, updates and attempt results."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from typing_extensions import override

from graphjobs.core.results import FinishResult
from graphjobs.core.transitions import UpdateOutcome
from tests.contract.domains import DOMAINS, Domain
from tests.faults.backend_monitor import Watch


@dataclass
class Call(ABC):
    """A write of one item with one transition id."""

    item: Any
    transition_id: uuid.UUID = field(default_factory=uuid.uuid4, kw_only=True)

    @abstractmethod
    async def run(self, domain: Domain) -> Any:
        """Make the call; a second time it repeats the first."""

    @abstractmethod
    def blocked(self, domain: Domain, watch: Watch) -> Any:
        """Return a context manager: inside it the call waits for a lock, and can be applied afterwards."""

    @abstractmethod
    async def assert_applied_once(self, domain: Domain, *answers: Any) -> None:
        """Assert that the answers, and the answer of a repeated call, report the one change in row and log."""

    @abstractmethod
    async def assert_not_applied(self, domain: Domain) -> None:
        """Assert that neither row nor log has the change."""


@dataclass
class Insertion(Call):
    """An insertion of a new item."""

    @override
    async def run(self, domain: Domain) -> Any:
        return await domain.insert(self.item, self.transition_id)

    @override
    @asynccontextmanager
    async def blocked(self, domain: Domain, watch: Watch) -> AsyncIterator[None]:
        async with domain.storage.session() as session:
            await domain.using(session).insert(domain.rival(self.item), uuid.uuid4())
            yield
            await session.rollback()

    @override
    async def assert_applied_once(self, domain: Domain, *answers: Any) -> None:
        found = await domain.read(self.item)
        (event,) = await domain.events(self.item)
        assert domain.content(self.item) == domain.content(found)
        assert (domain.waiting, found.updated_at) == (event.status, event.created_at)
        if domain.names_insertions:
            assert str(self.transition_id) == event.payload["transitionId"]
        for answer in (*answers, await self.run(domain)):
            assert (found, found.updated_at) == (answer, answer.updated_at)

    @override
    async def assert_not_applied(self, domain: Domain) -> None:
        assert await domain.get(self.item) is None
        assert () == await domain.events(self.item)


@dataclass
class StoredCall(Call):
    """A call for an item that is stored already.

    Attributes:
        log: the event log before the call.
    """

    log: list[str]

    @override
    def blocked(self, domain: Domain, watch: Watch) -> Any:
        return watch.holding(self.item.id, table=domain.table)

    @override
    async def assert_not_applied(self, domain: Domain) -> None:
        found = await domain.read(self.item)
        assert (self.item, self.item.updated_at) == (found, found.updated_at)
        assert self.log == await domain.log(self.item)


@dataclass
class UpdateCall(StoredCall):
    """An update to the value `target`."""

    target: Any

    @override
    async def run(self, domain: Domain) -> Any:
        return await domain.update(self.item, self.target, self.transition_id)

    @override
    async def assert_applied_once(self, domain: Domain, *answers: Any) -> None:
        found = await domain.read(self.item)
        *_, event = await domain.events(self.item)
        assert [*self.log, self.target.status] == await domain.log(self.item)
        assert self.target.stored(updated_at=event.created_at) == found
        assert event.created_at == found.updated_at
        for answer in (*answers, await self.run(domain)):
            assert (UpdateOutcome.APPLIED, event.id, found) == (answer.outcome, answer.event_id, answer.job)
            assert found.updated_at == answer.job.updated_at


@dataclass
class FinishCall(StoredCall):
    """An attempt result that leads to the status `result`."""

    result: str

    @override
    async def run(self, domain: Domain) -> Any:
        return await domain.finish(domain.results[self.result](self.item), transition_id=self.transition_id)

    @override
    async def assert_applied_once(self, domain: Domain, *answers: Any) -> None:
        found = await domain.read(self.item)
        assert (self.result, None) == (found.status, getattr(found, "lease_owner", None))
        assert [*self.log, self.result] == await domain.log(self.item)
        for answer in (*answers, await self.run(domain)):
            assert FinishResult({self.item.id: found.updated_at}, {}) == answer


def params(calls: Iterable[tuple[type[Domain], str]]) -> list[Any]:
    """Return test parameters: the domain, and the name of one of its calls."""
    return [pytest.param(domain, name, id=f"{domain.table}-{name}") for domain, name in calls]


INSERT: Final = "insert"
UPDATES: Final = [(domain, f"update {name}") for domain in DOMAINS for name in domain.updates]
RESULTS: Final = [(domain, f"finish {name}") for domain in DOMAINS for name in domain.results]
INSERTIONS: Final = [(domain, INSERT) for domain in DOMAINS]


async def make_call(domain: Domain, name: str) -> Call:
    """Build a call by its name, and store the item that it needs."""
    if name == INSERT:
        return Insertion(domain.new())
    verb, _, kind = name.partition(" ")
    needs_start = verb == "finish" or domain.updates[kind].needs_start
    item = await (domain.add_started() if needs_start else domain.add())
    log = await domain.log(item)
    if verb == "finish":
        return FinishCall(item, log, kind)
    return UpdateCall(item, log, domain.updates[kind].target(item, 0))
