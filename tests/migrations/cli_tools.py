"""psql, pg_dump, `graphjobs` and `alembic`, as a person runs them: in processes of their own."""

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

from graphjobs.database.embedded.server import embedded_cluster
from graphjobs.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS_MAX = 60

Done: TypeAlias = "subprocess.CompletedProcess[str]"


def environment(**given: str) -> dict[str, str]:
    """This process's environment without a word of graphjobs or libpq, and what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRAPHJOBS_", "PG", "PYTHON"))}
    return kept | given


def run(command: list[str | Path], *, text: str = "", cwd: Path | None = None, env: dict[str, str]) -> Done:
    """Runs a program to its end, which comes in time or fails the test."""
    return subprocess.run(
        command, input=text, cwd=cwd, env=env, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


def run_on_terminal(command: list[str | Path], *, cwd: Path | None = None, env: dict[str, str]) -> Done:
    """Runs a program whose standard error is a terminal of 200 columns; what that showed is its standard error."""
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
    """Pipes SQL into psql, as `graphjobs db sql | psql` does."""
    options = ["-v", "ON_ERROR_STOP=1"] if stop else []
    return run([_of_postgres("psql"), "-XqAt", *options, "-d", url], text=sql, env=environment())


def ask(url: str, sql: str) -> str:
    """What a statement that works answers."""
    done = psql(url, sql)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.strip()


def dump(url: str, *tables: str) -> str:
    """The schema as pg_dump writes it: of these tables of `scheduler`, or of the whole database."""
    chosen = [f"--table=scheduler.{table}" for table in tables]
    done = run([_of_postgres("pg_dump"), "--schema-only", *chosen, "-d", url], env=environment())
    assert (0, "") == (done.returncode, done.stderr)
    # A newer pg_dump fences its output with a random word.
    kept = [line for line in done.stdout.splitlines() if not line.startswith(("\\restrict ", "\\unrestrict "))]
    return "\n".join(kept)


def graphjobs(*arguments: str, url: str = "", **given: str) -> Done:
    """Runs `graphjobs` against the database of a URL."""
    env = environment(**given) | ({"GRAPHJOBS_DATABASE_URL": url} if url else {})
    return run([beside_python("graphjobs"), *arguments], env=env)


@contextmanager
def many_graphjobs(python: str | Path = sys.executable) -> Iterator[Callable[..., Done]]:
    """Gives `graphjobs` for many calls: each is a process of its own, forked from one that has done the imports.

    They are most of what a call takes. The command's entry point, its exit and its streams are the real ones.

    Args:
        python: the Python that has graphjobs.
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

        def call(*arguments: str, url: str = "", **given: str) -> Done:
            assert server.stdin is not None
            assert server.stdout is not None
            env = given | ({"GRAPHJOBS_DATABASE_URL": url} if url else {})
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
    """Runs `alembic` from the repository's root."""
    env = environment() | ({"GRAPHJOBS_DATABASE_URL": url} if url else {})
    return run([beside_python("alembic"), *arguments], cwd=REPOSITORY, env=env)


def beside_python(program: str) -> Path:
    """The program of this name that belongs to the Python that runs the tests."""
    return Path(sys.executable).with_name(program)


@cache
def _of_postgres(program: str) -> Path:
    """The embedded server's own program, which knows every server there is, or else the system's."""
    try:
        return embedded_cluster(None).bin_dir / program
    except ConfigurationError:
        found = shutil.which(program)
        assert found is not None, f"{program} is needed: install the extra `embedded`, or PostgreSQL's client"
        return Path(found)
