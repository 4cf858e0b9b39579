"""A pytest plugin that provides a real PostgreSQL with the real schema.

It selects the server once per run: `GRAPHJOBS_TEST_DATABASE_URL` (of a role with CREATEDB), or a container if a Docker
daemon answers, or an embedded server that lives as long as the run. Without a server the run fails; it never skips.
Each test gets a database of its own, cloned from a template that the real upgrade built.
"""

import asyncio
import inspect
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from graphjobs.settings import Settings
    from graphjobs.storage import Storage

# Every pytest run in an environment with graphjobs loads this plugin, so the fixtures import what they need.

T = TypeVar("T")

_POSTGRES_IMAGE = "postgres:18-alpine"

_LOOP_SCOPES = ("function", "class", "module", "package", "session")

_asyncio_fixture: Any = None
with suppress(ImportError):
    from pytest_asyncio import fixture as _asyncio_fixture

    if "loop_scope" not in inspect.signature(_asyncio_fixture).parameters:  # older than 0.24
        _asyncio_fixture = None


@pytest.fixture(scope="session")
def graphjobs_server_url() -> Iterator[str]:
    """Provide the URL of a server, with a role that may create databases, for the whole run."""
    configured = os.environ.get("GRAPHJOBS_TEST_DATABASE_URL")
    with ExitStack() as stack:
        if configured:
            yield _configured_url(configured)
        elif _docker_answers():
            yield stack.enter_context(_container())
        else:
            from graphjobs.database.embedded.server import throwaway_cluster

            yield stack.enter_context(throwaway_cluster()).url()


@pytest.fixture(scope="session")
def graphjobs_template(graphjobs_server_url: str) -> Iterator[str]:
    """Create the template, an empty database at the newest revision, and provide its name."""
    from graphjobs.database.migrations.commands import upgrade
    from graphjobs.database.url import parse_url
    from graphjobs.settings import Settings

    with _database(graphjobs_server_url, "") as url:
        run(upgrade(Settings.load(database_url=url)))
        yield parse_url(url).database


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


@pytest.fixture
def graphjobs_storage(request: pytest.FixtureRequest, graphjobs_settings: "Settings") -> "Storage":
    """Open a storage on this test's own database, in the event loop that runs the test."""
    storage: Storage = request.getfixturevalue(f"_graphjobs_storage_of_{_find_loop(request)}")
    return storage


def _find_loop(request: pytest.FixtureRequest) -> str:
    """Return what runs the test: "anyio", or the scope of a loop of pytest-asyncio."""
    config = request.config
    runs_asyncio = _asyncio_fixture is not None and config.pluginmanager.has_plugin("asyncio")
    marker = request.node.get_closest_marker("asyncio")
    if runs_asyncio and marker is not None:
        return str(
            marker.kwargs.get("loop_scope")
            or marker.kwargs.get("scope")
            or config.getini("asyncio_default_test_loop_scope")
        )
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend_name")
        if backend != "asyncio":
            pytest.fail(
                f"graphjobs_storage needs asyncio and this test runs on {backend}: "
                'write a fixture anyio_backend that returns "asyncio"',
                pytrace=False,
            )
        return "anyio"
    if not runs_asyncio:
        pytest.fail(
            "graphjobs_storage needs an event loop: install pytest-asyncio 0.26 or newer, "
            "or mark the test with pytest.mark.anyio",
            pytrace=False,
        )
    # The test is not async, or another plugin runs it.
    scope = config.getini("asyncio_default_fixture_loop_scope")
    return scope if scope in _LOOP_SCOPES else "function"


def _fixture_for(loop: str) -> Any:
    async def opened(graphjobs_settings: "Settings") -> "AsyncIterator[Storage]":
        from graphjobs.storage import open_storage

        async with open_storage(graphjobs_settings) as storage:
            yield storage

    name = f"_graphjobs_storage_of_{loop}"
    if loop == "anyio":  # its plugin runs plain fixtures
        return pytest.fixture(opened, name=name)
    return _asyncio_fixture(opened, name=name, loop_scope=loop)


_storage_of_anyio = _fixture_for("anyio")
if _asyncio_fixture is not None:
    for _scope in _LOOP_SCOPES:
        globals()[f"_storage_of_{_scope}"] = _fixture_for(_scope)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to completion in another thread, since an event loop may run in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@contextmanager
def _database(server_url: str, template: str) -> Iterator[str]:
    """Create a database, empty or from a template, yield its URL, and drop the database."""
    from graphjobs.database.url import with_database

    name = f"graphjobs_test_{secrets.token_hex(6)}"
    run(_on_server(server_url, f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else "")))
    try:
        yield with_database(server_url, name)
    finally:
        # FORCE: a test may leave connections open.
        run(_on_server(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


def _configured_url(configured: str) -> str:
    """Return the URL of the configured server; the word embedded starts the embedded one."""
    from graphjobs.settings import Settings

    settings = Settings.load(database_url=configured)
    if not settings.is_embedded:
        return configured
    from graphjobs.database.embedded.server import ensure_running

    return ensure_running(settings.data_dir)


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
