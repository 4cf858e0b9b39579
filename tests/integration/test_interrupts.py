"""SIGTERM ends a run of the benchmarks or tests with every process and server that it started."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.migrations.cli_tools import REPOSITORY, environment

_BENCHMARKS = ["-m", "benchmarks", "--quick", "--suite", "repository"]
_TESTS = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/worker/test_processes.py"]
_MARK = "STARTED_BY_TEST"


def _wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.05)


def _commands(mark: str) -> list[list[str]]:
    """Return the command lines of all processes that inherited the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if process.environ().get(_MARK) == mark:
                found.append(command)
        except psutil.Error:  # ended, or of another user
            continue
    return found


def _owner_files(mark: str) -> Iterator[Path]:
    """Return the files of the temporary clusters of a run: they are removed last."""
    return (Path(word) for command in _commands(mark) for word in command if word.endswith(".owner"))


@pytest.mark.parametrize(
    "arguments",
    [_BENCHMARKS, [*_TESTS, "-n", "0"], [*_TESTS, "-n", "1"]],
    ids=["benchmarks", "tests", "tests with xdist"],
)
def test_sigterm_leaves_nothing_behind(arguments: list[str], tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    env = environment(**{_MARK: mark}, PYTHONPATH=os.pathsep.join(sys.path), PYTEST_DEBUG_TEMPROOT=str(tmp_path))
    with subprocess.Popen([sys.executable, *arguments], cwd=REPOSITORY, env=env, stdout=subprocess.PIPE) as run:
        try:
            _wait_until(lambda: any((file.with_suffix("") / "data").exists() for file in _owner_files(mark)))
            owner_files = list(_owner_files(mark))
            run.send_signal(signal.SIGTERM)
            run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode != 0
    _wait_until(lambda: not _commands(mark))
    assert not [file for file in owner_files if file.exists()]
