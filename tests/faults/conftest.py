"""What the fault tests share: a watch on the test's own database, and one on the database that tests share."""

from collections.abc import AsyncIterator

import pytest_asyncio

from graphjobs.settings import Settings
from tests.faults.backend_monitor import Watch, watching


@pytest_asyncio.fixture
async def watch(graphjobs_settings: Settings) -> AsyncIterator[Watch]:
    """A watch on this test's own database."""
    async with watching(graphjobs_settings) as opened:
        yield opened


@pytest_asyncio.fixture
async def shared_watch(shared_settings: Settings) -> AsyncIterator[Watch]:
    """A watch on the database that tests share; it sees what any storage does there."""
    async with watching(shared_settings) as opened:
        yield opened
