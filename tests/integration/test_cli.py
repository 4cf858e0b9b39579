"""The `graphjobs` command itself: version, help, the database option, exit codes of wrong calls, times of the log."""

from importlib.metadata import version

import pytest

import graphjobs as package
from graphjobs.database.schema import REVISION
from tests.migrations.cli_tools import graphjobs


def test_the_version_is_that_of_the_package() -> None:
    """The command and the module print the installed version."""
    assert version("graphjobs") == package.__version__
    assert f"graphjobs {package.__version__}\n" == graphjobs("--version").stdout


def test_short_help_equals_long_help() -> None:
    """Groups have it, too."""
    assert graphjobs("--help").stdout == graphjobs("-h").stdout
    assert graphjobs("db", "--help").stdout == graphjobs("db", "-h").stdout


def test_completion_is_printed() -> None:
    """Shells load it."""
    assert "_GRAPHJOBS_COMPLETE" in graphjobs(_GRAPHJOBS_COMPLETE="source_bash").stdout


def test_the_option_names_the_database(graphjobs_database_url: str) -> None:
    """It takes precedence over the environment."""
    done = graphjobs("--database-url", graphjobs_database_url, "db", "current", url="postgresql://localhost:1/none")
    assert (0, f"{REVISION}\n") == (done.returncode, done.stdout), done.stderr


@pytest.mark.parametrize(
    "call",
    [
        ["policy", "list", "--tenant", ""],
        ["policy", "list", "--tenant", "a", "--status", "busy"],
        ["policy", "list", "--tenant", "a", "--limit", "0"],
        ["policy", "list", "--tenant", "a", "--cursor", "forged"],
        ["policy", "submit", "P", "--tenant", "a", "--environment", "[]"],
        ["worker", "json:loads", "--batch", "0"],
        ["worker", "json:loads", "--name", ""],
        ["db", "downgrade", "base", "-x", "drop-data=maybe"],
        ["db", "nothing"],
    ],
    ids=" ".join,
)
def test_a_wrong_call_exits_with_2(graphjobs_database_url: str, call: list[str]) -> None:
    """The error is on standard error, without a traceback."""
    done = graphjobs(*call, url=graphjobs_database_url)
    assert (2, "") == (done.returncode, done.stdout)
    assert "Traceback" not in done.stderr
    assert done.stderr
