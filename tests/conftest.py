"""Shared fixtures: a storage on a shared database, and a unique tenant per test."""

import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Generator

import pytest
import pytest_asyncio

from graphjobs import open_storage
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.policy_runs.sql import acquire
from graphjobs.settings import Settings
from graphjobs.storage import Storage

# pgbouncer is a system program: `make test-oldest` sets its path, `make test` needs only Python.
collect_ignore = [] if os.environ.get("GRAPHJOBS_TEST_PGBOUNCER") else ["pooler"]

# SIGTERM interrupts the run as Ctrl-C does, so that fixtures end what they started. A shell starts background
# processes with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


OVERDUE_EVERY = acquire.OVERDUE_EVERY


@pytest.fixture(autouse=True)
def _order_of_small_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give leases of fewer than eight runs a fixed order: else a random part of them begins with another priority."""
    monkeypatch.setattr(acquire, "OVERDUE_EVERY", 1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Replace what is not UTF-8 in captured output: tests log hostile text, and xdist sends reports as UTF-8."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def shared_settings(graphjobs_new_database: Callable[[], str]) -> Settings:
    """Settings of a database that all tests share; each test uses a tenant of its own."""
    return Settings.load(database_url=graphjobs_new_database())


@pytest_asyncio.fixture(scope="session")
async def storage(shared_settings: Settings) -> AsyncIterator[Storage]:
    """An open storage on the shared database."""
    async with open_storage(shared_settings) as storage:
        yield storage


@pytest.fixture
def jobs(storage: Storage) -> GraphJobRepository:
    """The repository in autocommit."""
    return GraphJobRepository(storage.database)


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test uses."""
    return f"tenant-{secrets.token_hex(4)}"
