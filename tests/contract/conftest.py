"""Fixtures of the contract suite: the domain under test, and a storage behind a faulty proxy."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.contract.domains import DOMAINS, Domain
from tests.contract.wired_storage import open_wire, open_wired
from tests.faults.backend_monitor import Watch, watching
from tests.faults.faulty_proxy import Wire


@pytest.fixture(params=DOMAINS, ids=lambda domain: domain.table)
def domain(request: pytest.FixtureRequest, storage: Storage, tenant: str) -> Domain:
    """Each domain in turn, on the shared database."""
    domain: Domain = request.param(storage, tenant)
    return domain


@pytest_asyncio.fixture
async def watch(graphjobs_settings: Settings) -> AsyncIterator[Watch]:
    """A watch on the database of this test."""
    async with watching(graphjobs_settings) as watch:
        yield watch


@pytest_asyncio.fixture
async def shared_watch(shared_settings: Settings) -> AsyncIterator[Watch]:
    """A watch on the shared database."""
    async with watching(shared_settings) as watch:
        yield watch


@pytest_asyncio.fixture
async def wire(shared_settings: Settings, tmp_path: Path) -> AsyncIterator[Wire]:
    """An intact connection to the shared database."""
    async with open_wire(shared_settings, tmp_path) as wire:
        yield wire


@pytest_asyncio.fixture
async def wired(wire: Wire, shared_settings: Settings, domain: Domain) -> AsyncIterator[Domain]:
    """The domain behind the wire, with one connection and each statement prepared."""
    async with open_wired(wire, shared_settings) as storage:
        behind = domain.on(storage)
        await behind.prepare()
        yield behind
