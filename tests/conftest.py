"""What tests of every room share: a storage for those that need no empty database, and a tenant of each own."""

import os
import secrets
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from graphjobs import open_storage
from graphjobs.jobs.repository import PostgresGraphJobRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage

# pgbouncer is a program of the system's: `make test-oldest` names it, `make test` asks for nothing but Python.
collect_ignore = [] if os.environ.get("GRAPHJOBS_TEST_PGBOUNCER") else ["pooler"]


@pytest.fixture(scope="session")
def shared_settings(graphjobs_new_database: Callable[[], str]) -> Settings:
    """Settings of a database that all tests share: each keeps to a tenant of its own."""
    return Settings.load(database_url=graphjobs_new_database())


@pytest_asyncio.fixture(scope="session")
async def storage(shared_settings: Settings) -> AsyncIterator[Storage]:
    """An open storage on the shared database."""
    async with open_storage(shared_settings) as opened:
        yield opened


@pytest.fixture
def jobs(storage: Storage) -> PostgresGraphJobRepository:
    """The repository, each call its own transaction."""
    return PostgresGraphJobRepository(storage.database)


@pytest.fixture
def tenant() -> str:
    """A tenant nobody else uses."""
    return f"tenant-{secrets.token_hex(4)}"
