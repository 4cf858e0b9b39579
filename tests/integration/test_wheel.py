"""The wheel, installed outside of the repository: it contains the revisions, and all of `graphjobs db` works."""

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from graphjobs.database.migrations.commands import sql
from graphjobs.database.schema import REVISION
from tests.migrations.cli_tools import REPOSITORY, Done, ask, assert_failed, environment, many_graphjobs, run

_UPGRADE_IN_A_LOOP = """
import asyncio, json
import graphjobs
from graphjobs.database.migrations import commands

async def main():
    reached = await graphjobs.upgrade()
    async with graphjobs.open_storage() as storage:
        jobs = await storage.graph_job_repository.list_build_jobs("acme", limit=1)
    return {"reached": reached, "jobs": len(jobs)}

print(json.dumps(asyncio.run(main()) | {
    "package": graphjobs.__file__, "revisions": str(commands._revisions_folder())
}))
"""


def _python(*arguments: str | Path, cwd: Path | None = None) -> None:
    """Run this Python, which must succeed."""
    done = run([sys.executable, *arguments], cwd=cwd, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of all files that git would commit."""
    copy = tmp_path_factory.mktemp("copy")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    for name in listed.stdout.split("\0"):
        if name and (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, copy / name)
    _python("-m", "hatchling", "build", "-t", "wheel", "-d", "dist", cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel, and an empty working directory."""

    home: Path
    work: Path

    def run(self, program: str, *arguments: str, url: str = "") -> Done:
        """Run a program of this environment outside of the repository."""
        env = environment() | ({"GRAPHJOBS_DATABASE_URL": url} if url else {})
        return run([self.home / "bin" / program, *arguments], cwd=self.work, env=env)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a new environment, with the dependencies of the environment that runs the tests."""
    # ConfigParser, which alembic uses, fails on an unescaped percent sign.
    home = tmp_path_factory.mktemp("50%") / "env"
    _python("-m", "venv", "--without-pip", home)
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    _python("-m", "pip", "--python", home / "bin" / "python", "install", *options, wheel)
    (packages,) = home.glob("lib/python*/site-packages")
    # After the install: before, pip would find the editable install there. Python does not read the .pth files of
    # folders that a .pth file adds, so the checkout is not on the path.
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return Installed(home, tmp_path_factory.mktemp("elsewhere"))


def test_the_wheel_holds_what_the_package_needs_and_no_tests(wheel: Path) -> None:
    """It has the type marker, the revisions with their environment, the demo's data, the plugin and nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "alembic").rglob("*") if path.suffix != ".pyc"}
    revisions = {f"graphjobs/database/migrations/{path}" for path in tracked if (REPOSITORY / path).is_file()}
    demo = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "graphjobs/demo/data").glob("*.json")}

    assert "graphjobs/database/migrations/alembic/versions/014_graph_jobs.py" in revisions
    assert not revisions - names
    assert demo
    assert not demo - names
    assert "graphjobs/py.typed" in names
    assert "pytest_graphjobs.py" in names
    names.remove("pytest_graphjobs.py")
    assert not [name for name in names if not name.startswith(("graphjobs/", "graphjobs-"))]
    assert not [name for name in names if "test_" in name or "__pycache__" in name]


def test_an_upgrade_is_awaited_in_a_running_loop(installed: Installed, empty_url: str) -> None:
    """The imported package and the revisions are those of the wheel."""
    done = installed.run("python", "-c", _UPGRADE_IN_A_LOOP, url=empty_url)
    assert (0, "") == (done.returncode, done.stderr)
    report = json.loads(done.stdout)
    assert (REVISION, 0) == (report["reached"], report["jobs"])
    for location in ("package", "revisions"):
        assert Path(report[location]).is_relative_to(installed.home)
    assert ask(empty_url, "SELECT to_regclass('scheduler.graph_jobs') IS NOT NULL") == "t"


def test_every_command_works(installed: Installed, empty_url: str) -> None:
    outputs = {
        ("upgrade",): f"the database is at revision {REVISION}\n",
        ("current",): f"{REVISION}\n",
        ("check",): "the database has the declared tables\n",
        ("sql",): sql(),
        ("downgrade", "base"): "the database has no tables of graphjobs now\n",
    }
    with many_graphjobs(installed.home / "bin" / "python") as graphjobs:
        for command, expected in outputs.items():
            done = graphjobs("db", *command, url=empty_url)
            assert (0, expected, "") == (done.returncode, done.stdout, done.stderr)
        history = graphjobs("db", "history")
    assert history.stdout.splitlines()[-1].startswith(f"{REVISION}  ")


def test_the_installed_command_has_an_exit_code_for_scripts(installed: Installed, empty_url: str) -> None:
    done = installed.run("graphjobs", "db", "upgrade", url=empty_url)
    assert (0, f"the database is at revision {REVISION}\n", "") == (done.returncode, done.stdout, done.stderr)
    failed = installed.run("graphjobs", "db", "upgrade", url="postgresql://alice:hunter2@127.0.0.1:1/graphjobs")
    assert_failed(failed, "graphjobs: no PostgreSQL answers at 127.0.0.1:1/graphjobs", code=4)
