"""What tests of every room share: a storage for those that need no empty database, and a tenant of each own."""

import os
import secrets
from collections.abc import AsyncIterator, Callable, Generator

import pytest
import pytest_asyncio

from graphjobs import open_storage
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage

# pgbouncer is a program of the system's: `make test-oldest` names it, `make test` asks for nothing but Python.
collect_ignore = [] if os.environ.get("GRAPHJOBS_TEST_PGBOUNCER") else ["pooler"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Cleans what was logged: hostile text is, and what crosses from one of the tests' processes has to be UTF-8."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]
    return report


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
def jobs(storage: Storage) -> GraphJobRepository:
    """The repository, each call its own transaction."""
    return GraphJobRepository(storage.database)


@pytest.fixture
def tenant() -> str:
    """A tenant nobody else uses."""
    return f"tenant-{secrets.token_hex(4)}"
