"""The examples of the pages run unchanged on a real database."""

import os
import re
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from _pytest.mark import ParameterSet

from graphjobs.database.embedded.server import embedded_cluster
from tests.migrations.cli_tools import Done, run

_ROOT = Path(__file__).resolve().parents[2]
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]


def _blocks(language: str) -> list[ParameterSet]:
    """Return the fenced blocks of a language, each with its page and line as id."""
    blocks: list[ParameterSet] = []
    for page in _PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            blocks.append(pytest.param(match.group(1), id=f"{page.name}:{line}"))
    return blocks


def python_examples() -> list[str]:
    """Return the code of each Python example of the pages."""
    return [str(block.values[0]) for block in _blocks("python")]


def _environment(url: str) -> dict[str, str]:
    return {**os.environ, "GRAPHJOBS_DATABASE_URL": url, "GRAPHJOBS_TEST_DATABASE_URL": url}


@pytest.mark.parametrize("code", _blocks("python"))
def test_each_python_example_runs(code: str, graphjobs_database_url: str, tmp_path: Path) -> None:
    """Run it as a script, or with pytest if it has a test; warnings are errors."""
    name = "test_example.py" if "def test_" in code else "example.py"
    (tmp_path / name).write_text(code, encoding="utf-8")
    runner = (
        ["-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider"]
        if "def test_" in code
        else ["-W", "error"]
    )
    done = run([sys.executable, *runner, name], cwd=tmp_path, env=_environment(graphjobs_database_url))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_has_an_example() -> None:
    """A misspelled fence would leave no example to run."""
    assert 4 <= len(_blocks("python"))


def test_the_commands_of_the_rollback_run_unchanged(graphjobs_database_url: str, tmp_path: Path) -> None:
    """Run each command of docs/migrations.md on a database with rows: refuse, dump, downgrade, upgrade, restore."""
    text = (_ROOT / "docs" / "migrations.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\$ (.*)$", text.split("## Down")[1], flags=re.MULTILINE)
    assert 5 == len(lines)
    # Programs of the server's version: an older server may not know the output of a newer pg_dump.
    server_programs = os.environ.get("GRAPHJOBS_TEST_PROGRAMS") or embedded_cluster(None).bin_dir
    programs = f"{Path(sys.executable).parent}:{server_programs}"
    environment = {**_environment(graphjobs_database_url), "PATH": f"{programs}:{os.environ['PATH']}"}
    # pg_dump and psql read the database from libpq's variables.
    environment |= _libpq(graphjobs_database_url)
    insert = (
        "INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload) "
        "VALUES ('12345678-1234-5678-1234-567812345678', 'acme', 0, 0, '{}')"
    )
    count = "psql -At -c 'SELECT count(*) FROM scheduler.graph_jobs'"

    def shell(command: str) -> Done:
        return run(["bash", "-c", command], cwd=tmp_path, env=environment)

    assert shell(f'psql -v ON_ERROR_STOP=1 -c "{insert}"').returncode == 0
    first = shell(lines[0])
    assert first.returncode == 1
    assert "1 rows" in first.stderr
    for line in lines[1:]:
        done = shell(line)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert shell(count).stdout == "1\n"


def _libpq(url: str) -> dict[str, str]:
    """Return the URL as libpq's variables."""
    parts = urlsplit(url)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    variables = {
        "PGDATABASE": parts.path.lstrip("/"),
        "PGHOST": query.get("host", parts.hostname or ""),
        "PGPORT": query.get("port", str(parts.port or "")),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
    }
    return {key: value for key, value in variables.items() if value}
