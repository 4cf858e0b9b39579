"""Run psql, pg_dump, `graphjobs` and `alembic` as processes."""

import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit

from graphjobs.database.embedded.server import embedded_cluster
from graphjobs.database.migrations.commands import history
from graphjobs.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS_MAX = 60

Done: TypeAlias = "subprocess.CompletedProcess[str]"
Command: TypeAlias = Callable[..., Done]


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without variables of graphjobs, libpq and Python, plus these variables."""
    prefixes = ("GRAPHJOBS_", "PG", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)} | variables


def run(command: list[str | Path], *, text: str = "", cwd: Path | None = None, env: dict[str, str]) -> Done:
    """Run a program to completion; fail the test after 60 seconds."""
    return subprocess.run(
        command, input=text, cwd=cwd, env=env, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


def run_on_terminal(command: list[str | Path], *, cwd: Path | None = None, env: dict[str, str]) -> Done:
    """Run a program with a terminal of 200 columns as standard error; its text is the result's `stderr`."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, cwd=cwd, env={**env, "TERM": "xterm", "COLUMNS": "200"}, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    overdue = threading.Timer(SECONDS_MAX, process.kill)
    overdue.start()
    shown = b""
    with process:
        try:
            while piece := os.read(ours, 65_536):
                shown += piece
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(ours)
        out, _ = process.communicate()
    overdue.cancel()
    return subprocess.CompletedProcess(command, process.returncode, out.decode(), shown.decode())


def psql(url: str, sql: str, *, stop: bool = True) -> Done:
    """Pipe SQL into psql, like `graphjobs db sql | psql`."""
    options = ["-v", "ON_ERROR_STOP=1"] if stop else []
    return run([_of_postgres("psql"), "-XqAt", *options, "-d", url], text=sql, env=environment())


def ask(url: str, sql: str) -> str:
    """Return the output of a statement, which must succeed."""
    done = psql(url, sql)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.strip()


def as_role(url: str, role: str) -> str:
    """Return a URL with a role that has its name as password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:{role}@{parts.netloc.rpartition('@')[2]}"))


def dump(url: str, *tables: str) -> str:
    """Dump the schema with pg_dump: of these tables of `scheduler`, or of the whole database."""
    options = [f"--table=scheduler.{table}" for table in tables]
    done = run([_of_postgres("pg_dump"), "--schema-only", *options, "-d", url], env=environment())
    assert (0, "") == (done.returncode, done.stderr)
    # A newer pg_dump adds \restrict with a random word.
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("\\restrict ", "\\unrestrict "))]
    return "\n".join(lines)


def relative_to_head(revision: str | None) -> str:
    """Return a revision, or the empty schema, as the number of steps down from the newest one."""
    later = [one.revision for one in history()][::-1]
    return f"-{later.index(revision) if revision else len(later)}"


def assert_failed(done: Done, *words: str, code: int = 1) -> None:
    """Assert the exit code, and that the output is one sentence on standard error with these words."""
    assert (code, "") == (done.returncode, done.stdout), done.stderr
    assert done.stderr.startswith("graphjobs: ")
    assert 1 == done.stderr.count("\n"), done.stderr
    assert [] == [word for word in words if word not in done.stderr], done.stderr


def graphjobs(*arguments: str | Path, url: str = "", **variables: str) -> Done:
    """Run `graphjobs` with the database of a URL."""
    env = environment(**variables) | ({"GRAPHJOBS_DATABASE_URL": url} if url else {})
    return run([beside_python("graphjobs"), *arguments], env=env)


@contextmanager
def many_graphjobs(python: str | Path = sys.executable) -> Iterator[Command]:
    """Provide a function that runs `graphjobs` in a process forked from one with all imports.

    The imports take most of the time of a call. The entry point, the exit and the streams are the real ones.

    Args:
        python: a Python with graphjobs.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [python, "-c", _FORK_GRAPHJOBS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            env=environment(),
            text=True,
            bufsize=1,
        )
        out, err = Path(folder, "out"), Path(folder, "err")

        def call(*arguments: str, url: str = "", **variables: str) -> Done:
            assert server.stdin is not None
            assert server.stdout is not None
            env = variables | ({"GRAPHJOBS_DATABASE_URL": url} if url else {})
            server.stdin.write(json.dumps([arguments, env, str(out), str(err), SECONDS_MAX]) + "\n")
            code = int(server.stdout.readline())
            return subprocess.CompletedProcess(list(arguments), code, out.read_text(), err.read_text())

        with server:
            yield call
            server.communicate(timeout=SECONDS_MAX)


_FORK_GRAPHJOBS = """
import json, os, signal, sys
from graphjobs.cli import main

for line in sys.stdin:
    arguments, env, out, err, seconds_max = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(seconds_max)
        for number, file in enumerate((os.devnull, out, err)):
            os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(env)
        sys.argv = ["graphjobs", *arguments]
        sys.exit(main())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def alembic(*arguments: str, url: str = "") -> Done:
    """Run `alembic` from the repository's root."""
    env = environment() | ({"GRAPHJOBS_DATABASE_URL": url} if url else {})
    return run([beside_python("alembic"), *arguments], cwd=REPOSITORY, env=env)


def beside_python(program: str) -> Path:
    """Return the path of a program of the Python that runs the tests."""
    return Path(sys.executable).with_name(program)


@cache
def _of_postgres(program: str) -> Path:
    """Return a client program of the embedded server, which is the newest version, or else of the system."""
    try:
        return embedded_cluster(None).bin_dir / program
    except ConfigurationError:
        path = shutil.which(program)
        assert path is not None, f"{program} is missing: install the extra `embedded`, or PostgreSQL's client"
        return Path(path)
