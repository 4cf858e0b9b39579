"""A server of the MongoDB protocol for tests: MongoDB where Docker runs, else mongoeco in a Python of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pytest_graphjobs import _docker_answers

_ROOT: Final = Path(__file__).resolve().parents[2]
_PYTHON: Final = "GRAPHJOBS_TEST_MONGO_PYTHON"
"""The Python that has mongoeco; by default that of the environment which `make test` sets up."""


def mongoeco_python() -> Path | None:
    """Return a Python with mongoeco, or None."""
    python = Path(os.environ.get(_PYTHON) or _ROOT / ".venv-mongo" / "bin" / "python")
    return python if python.exists() else None


def can_serve() -> bool:
    """Return whether a server can be started."""
    return _docker_answers() or mongoeco_python() is not None


@contextmanager
def mongo_server() -> Iterator[str]:
    """Start a server, and yield its address with a user and without a database."""
    if _docker_answers():
        from testcontainers.community.mongodb import MongoDbContainer

        with MongoDbContainer("mongo:8") as container:
            yield container.get_connection_url().rstrip("/")
        return
    python = mongoeco_python()
    if python is None:
        raise RuntimeError("no Python with mongoeco: run make test with a Python 3.13 on the path or in pyenv")
    # Its output on the standard error is that of the tests.
    command = [str(python), "-I", str(_ROOT / "tests" / "backfill" / "mongo_server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise TypeError("the server needs pipes")
        address = process.stdout.readline().strip()
        if not address:
            sys.exit(f"{python} could not start mongoeco")
        yield address
        process.stdin.close()  # ends it, also if this process is killed
