"""The committed texts are what the code gives, and the committed SQL is valid as it stands."""

from tests.migrations.cli_tools import psql
from tests.snapshots.interfaces import OPENAPI, PUBLIC_NAMES, openapi_text, public_names_text
from tests.snapshots.statements import SQL_FOLDER, binds_of, rendered_statements, statements

_HINT = "run `make snapshots`, and read what `git diff` then shows"


def test_the_sql_of_every_statement_is_the_committed_text() -> None:
    """Each constant statement has its file, byte for byte with its binds in order; no file is left over."""
    committed = {path.relative_to(SQL_FOLDER).as_posix(): path.read_text() for path in SQL_FOLDER.glob("*/*.sql")}
    rendered = rendered_statements()
    assert sorted(rendered) == sorted(committed), _HINT
    differing = [name for name, text in rendered.items() if committed[name] != text]
    assert [] == differing, _HINT


def test_introspection_finds_the_statements_of_every_package() -> None:
    """What is not found is not compared: a package that lost its statements would pass."""
    packages = {name.partition("/")[0] for name in rendered_statements()}
    assert {"graph_jobs", "policy_runs", "backfill", "database"} <= packages


def test_no_bind_has_the_name_of_a_column() -> None:
    """Each is `p_` and the column, so that it can be guessed, and none is taken for a column."""
    assert {"p_"} == {name[:2] for found in statements() for name in binds_of(found)}


def test_the_committed_sql_can_be_pasted_into_psql(graphjobs_database_url: str) -> None:
    """Psql takes every file as it is committed, and the server prepares each statement."""
    texts = [path.read_text() for path in sorted(SQL_FOLDER.glob("*/*.sql"))]
    # Statements that verify read a temporary table, which others create.
    script = "\n".join(["BEGIN;", *sorted(texts, key=lambda text: "PREPARE" in text)])
    done = psql(graphjobs_database_url, script)
    assert (0, "") == (done.returncode, done.stderr)
    assert len(texts) == script.count("\n-- graphjobs.")


def test_the_openapi_document_is_the_committed_one() -> None:
    assert OPENAPI.read_text(encoding="utf-8") == openapi_text(), _HINT


def test_the_public_names_are_the_committed_ones() -> None:
    """What `graphjobs` exports, with the fields and methods of each."""
    assert PUBLIC_NAMES.read_text(encoding="utf-8") == public_names_text(), _HINT
