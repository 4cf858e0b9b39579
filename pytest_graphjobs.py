"""A pytest plugin: a real PostgreSQL with the real schema, for anybody's tests.

The database is chosen once a run: `GRAPHJOBS_TEST_DATABASE_URL` (of a role that may create databases), else a
container where a Docker daemon answers, else an embedded server that lives as long as the run. Without any the run
fails; it never skips. Each test that asks gets a database of its own, cloned from a template that the real upgrade
built.
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

# The plugin is loaded into every run of pytest where graphjobs is installed: what is heavy is imported when it is used.

T = TypeVar("T")

_POSTGRES_IMAGE = "postgres:18-alpine"

_async_fixture: Any
try:
    from pytest_asyncio import fixture as _async_fixture
except ImportError:  # anyio's plugin runs plain fixtures
    _async_fixture = pytest.fixture


@pytest.fixture(scope="session")
def graphjobs_server_url() -> Iterator[str]:
    """The URL of a server whose role may create databases, for the whole run."""
    given = os.environ.get("GRAPHJOBS_TEST_DATABASE_URL")
    with ExitStack() as stack:
        if given:
            yield given
        elif _docker_answers():
            yield stack.enter_context(_container())
        else:
            from graphjobs.database.embedded.server import throwaway_cluster

            yield stack.enter_context(throwaway_cluster()).url()


@pytest.fixture(scope="session")
def graphjobs_template(graphjobs_server_url: str) -> Iterator[str]:
    """The name of a database at the newest revision, empty, that others are cloned from."""
    from graphjobs.database.migrations.commands import upgrade
    from graphjobs.settings import Settings

    with _database(graphjobs_server_url, "") as url:
        run(upgrade(Settings.load(database_url=url)))
        yield urlsplit(url).path.lstrip("/")


@pytest.fixture(scope="session")
def graphjobs_new_database(graphjobs_server_url: str, graphjobs_template: str) -> Iterator[Callable[[], str]]:
    """Makes migrated, empty databases, each a clone; gives the URL. They are dropped at the end of the run."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_database(graphjobs_server_url, graphjobs_template))


@pytest.fixture
def graphjobs_database_url(graphjobs_server_url: str, graphjobs_template: str) -> Iterator[str]:
    """The URL of a migrated, empty database of this test's own."""
    with _database(graphjobs_server_url, graphjobs_template) as url:
        yield url


@pytest.fixture
def graphjobs_settings(graphjobs_database_url: str) -> "Settings":
    """Settings that name this test's own database."""
    from graphjobs.settings import Settings

    return Settings.load(database_url=graphjobs_database_url)


@_async_fixture  # type: ignore[untyped-decorator]  # one of two plugins' own
async def graphjobs_storage(graphjobs_settings: "Settings") -> "AsyncIterator[Storage]":
    """An open storage on this test's own database."""
    from graphjobs.storage import open_storage

    async with open_storage(graphjobs_settings) as storage:
        yield storage


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end from plain code, whatever loop the tests may hold."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@contextmanager
def _database(server_url: str, template: str) -> Iterator[str]:
    """A database of its own, empty or cloned, for the length of a with."""
    name = f"graphjobs_test_{secrets.token_hex(6)}"
    run(_on_server(server_url, f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else "")))
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        # FORCE: what a test left connected shall not keep the next one from a clean end.
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
    # The client leaves a socket open where nobody listens; most machines without Docker can be told without it.
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return False
    try:
        import docker
        import testcontainers  # noqa: F401  # asked for here, used below
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
