"""A pytest plugin that provides a real PostgreSQL with the real schema.

It selects the server once per run: `GRAPHJOBS_TEST_DATABASE_URL` (of a role with CREATEDB), or a container if a Docker
daemon answers, or an embedded server that lives as long as the run. Without a server the run fails; it never skips.
Each test gets a database of its own, cloned from a template that the real upgrade built.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import pytest

if TYPE_CHECKING:
    from graphjobs.settings import Settings
    from graphjobs.storage import Storage

# Every pytest run in an environment with graphjobs loads this plugin, so the fixtures import what they need.

T = TypeVar("T")

_POSTGRES_IMAGE = "postgres:18-alpine"

_async_fixture: Any
try:
    from pytest_asyncio import fixture as _async_fixture
except ImportError:  # anyio's plugin runs plain fixtures
    _async_fixture = pytest.fixture


@pytest.fixture(scope="session")
def graphjobs_server_url() -> Iterator[str]:
    """Provide the URL of a server, with a role that may create databases, for the whole run."""
    configured = os.environ.get("GRAPHJOBS_TEST_DATABASE_URL")
    with ExitStack() as stack:
        if configured:
            yield configured
        elif _docker_answers():
            yield stack.enter_context(_container())
        else:
            from graphjobs.database.embedded.server import throwaway_cluster

            yield stack.enter_context(throwaway_cluster()).url()


@pytest.fixture(scope="session")
def graphjobs_template(graphjobs_server_url: str) -> Iterator[str]:
    """Create the template, an empty database at the newest revision, and provide its name."""
    from graphjobs.database.migrations.commands import upgrade
    from graphjobs.settings import Settings

    with _database(graphjobs_server_url, "") as url:
        run(upgrade(Settings.load(database_url=url)))
        yield urlsplit(url).path.lstrip("/")


@pytest.fixture(scope="session")
def graphjobs_new_database(graphjobs_server_url: str, graphjobs_template: str) -> Iterator[Callable[[], str]]:
    """Provide a function that creates a migrated, empty database and returns its URL; drop them after the run."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_database(graphjobs_server_url, graphjobs_template))


@pytest.fixture
def graphjobs_database_url(graphjobs_server_url: str, graphjobs_template: str) -> Iterator[str]:
    """Create a migrated, empty database for this test and provide its URL."""
    with _database(graphjobs_server_url, graphjobs_template) as url:
        yield url


@pytest.fixture
def graphjobs_settings(graphjobs_database_url: str) -> "Settings":
    """Provide settings with this test's own database."""
    from graphjobs.settings import Settings

    return Settings.load(database_url=graphjobs_database_url)


@_async_fixture  # type: ignore[untyped-decorator]  # from one of two plugins
async def graphjobs_storage(graphjobs_settings: "Settings") -> "AsyncIterator[Storage]":
    """Open a storage on this test's own database."""
    from graphjobs.storage import open_storage

    async with open_storage(graphjobs_settings) as storage:
        yield storage


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to completion in another thread, since an event loop may run in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@contextmanager
def _database(server_url: str, template: str) -> Iterator[str]:
    """Create a database, empty or from a template, yield its URL, and drop the database."""
    name = f"graphjobs_test_{secrets.token_hex(6)}"
    run(_on_server(server_url, f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else "")))
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        # FORCE: a test may leave connections open.
        run(_on_server(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


async def _on_server(url: str, statement: str) -> None:
    from graphjobs.database.engine import connect
    from graphjobs.settings import Settings

    connection = await connect(url, Settings.load(database_url=url))
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=10)


def _docker_answers() -> bool:
    # Without a daemon the client leaks a socket, so check for the daemon's socket first.
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return False
    try:
        import docker
        import testcontainers  # noqa: F401  # used in _container
    except ImportError:
        return False
    try:
        with closing(docker.from_env(timeout=5)) as client:
            return bool(client.ping())
    except docker.errors.DockerException:
        return False


@contextmanager
def _container() -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer(_POSTGRES_IMAGE, driver=None) as container:
        yield container.get_connection_url()
