"""Shared fixtures of the fault tests: monitors of the test's own database and of the shared database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from graphjobs import open_storage
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.contract.domains import PolicyRuns
from tests.contract.wired_storage import open_wire
from tests.faults.backend_monitor import Watch, watching, with_settings
from tests.faults.faulty_proxy import Wire


@pytest_asyncio.fixture
async def watch(graphjobs_settings: Settings) -> AsyncIterator[Watch]:
    """A monitor of this test's own database."""
    async with watching(graphjobs_settings) as monitor:
        yield monitor


@pytest_asyncio.fixture
async def shared_watch(shared_settings: Settings) -> AsyncIterator[Watch]:
    """A monitor of the database that tests share; it reports the backends of every storage there."""
    async with watching(shared_settings) as monitor:
        yield monitor


@pytest_asyncio.fixture
async def wire(shared_settings: Settings, tmp_path: Path) -> AsyncIterator[Wire]:
    """An intact connection to the shared database."""
    async with open_wire(shared_settings, tmp_path) as wire:
        yield wire


@pytest_asyncio.fixture
async def small(shared_settings: Settings) -> AsyncIterator[Storage]:
    """A separate storage on the shared database, with two connections per pool."""
    async with open_storage(with_settings(shared_settings, pool_size=2)) as storage:
        yield storage


@pytest.fixture
def runs(storage: Storage, tenant: str) -> PolicyRuns:
    """Policy runs on the shared database."""
    return PolicyRuns(storage, tenant)
