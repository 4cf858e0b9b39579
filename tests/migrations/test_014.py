"""Revision 014 equals hand-written SQL and is reversible; `check` reports drift."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from graphjobs.database.migrations import commands
from graphjobs.database.schema import REVISION
from graphjobs.errors import GraphJobsError, SchemaOutOfDate
from graphjobs.settings import Settings
from tests.migrations.cli_tools import REPOSITORY, alembic, ask, dump

# Migration 014 of the plan: its columns and indexes, with PostgreSQL's default names of constraints.
BY_HAND = """
CREATE SCHEMA scheduler;

CREATE TABLE scheduler.graph_jobs (
    id UUID PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    type SMALLINT NOT NULL,
    status SMALLINT NOT NULL,
    payload JSONB NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    correlation_id TEXT NULL
);
CREATE INDEX idx_graph_jobs_tenant_status ON scheduler.graph_jobs (tenant_id, status, created_at DESC);
CREATE INDEX idx_graph_jobs_tenant_type_status ON scheduler.graph_jobs (tenant_id, type, status, created_at DESC);

CREATE TABLE scheduler.graph_job_events (
    id BIGSERIAL PRIMARY KEY,
    job_id UUID NOT NULL REFERENCES scheduler.graph_jobs (id) ON DELETE CASCADE,
    tenant_id TEXT NOT NULL,
    status SMALLINT NOT NULL,
    payload JSONB NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX idx_graph_job_events_job ON scheduler.graph_job_events (job_id, created_at DESC);
"""

_SCRIPTS = sorted((REPOSITORY / "alembic" / "versions").glob("*.py"))

# Manual changes of the tables, and a word of the error that reports them.
_DRIFT = {
    "a dropped index": ("DROP INDEX scheduler.idx_graph_job_events_job", "idx_graph_job_events_job"),
    "an added index": ("CREATE INDEX idx_by_hand ON scheduler.graph_jobs (updated_at)", "idx_by_hand"),
    "an added column": ("ALTER TABLE scheduler.graph_jobs ADD COLUMN lease TEXT", "lease"),
    "a dropped column": ("ALTER TABLE scheduler.graph_jobs DROP COLUMN correlation_id", "correlation_id"),
    "a changed default": (
        "ALTER TABLE scheduler.graph_jobs ALTER COLUMN created_at SET DEFAULT clock_timestamp()",
        "created_at",
    ),
    "a dropped default": ("ALTER TABLE scheduler.graph_job_events ALTER COLUMN created_at DROP DEFAULT", "created_at"),
    "a changed type": ("ALTER TABLE scheduler.graph_job_events ALTER COLUMN status TYPE INTEGER", "status"),
    "a column that may be null": (
        "ALTER TABLE scheduler.graph_jobs ALTER COLUMN tenant_id DROP NOT NULL",
        "tenant_id",
    ),
    "a dropped foreign key": (
        "ALTER TABLE scheduler.graph_job_events DROP CONSTRAINT graph_job_events_job_id_fkey",
        "graph_job_events_job_id_fkey",
    ),
}


async def test_a_dump_of_the_two_tables_equals_that_of_the_sql_by_hand(
    graphjobs_settings: Settings, graphjobs_database_url: str, empty_url: str
) -> None:
    """The dumps are equal byte for byte: columns, defaults, the sequence, indexes and names of constraints."""
    await commands.downgrade(graphjobs_settings, revision="base")
    await commands.upgrade(graphjobs_settings, revision="014_graph_jobs")
    ask(empty_url, BY_HAND)
    tables = ("graph_jobs", "graph_job_events")
    by_hand = dump(empty_url, *tables)
    assert "CREATE INDEX idx_graph_jobs_tenant_type_status" in by_hand
    assert "ON DELETE CASCADE" in by_hand
    assert by_hand == dump(graphjobs_database_url, *tables)


def test_the_code_needs_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(REPOSITORY / "alembic"))
    assert [REVISION] == ScriptDirectory.from_config(config).get_heads()
    assert commands.history()[-1].revision == REVISION


@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda script: script.stem)
def test_a_revision_follows_the_rules(script: Path) -> None:
    """It has both directions, says when it runs, has the name of its file, and never imports the package's models."""
    tree = ast.parse(script.read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." * node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    revision = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "revision"
    )

    assert {"upgrade", "downgrade"} <= set(functions)
    assert not any(isinstance(node, ast.Pass) for name in functions for node in functions[name].body)
    assert "\nWhen: " in (ast.get_docstring(tree) or "")
    assert script.stem == revision
    assert not {name for name in imported if name.startswith((".", "graphjobs"))}


def test_the_rules_are_checked_on_014() -> None:
    assert "014_graph_jobs" in [script.stem for script in _SCRIPTS]


async def test_an_upgrade_after_a_downgrade_leads_to_the_same_schema(empty_settings: Settings, empty_url: str) -> None:
    assert await commands.upgrade(empty_settings) == REVISION
    first = dump(empty_url)
    assert await commands.downgrade(empty_settings, revision="base") is None
    remaining = ask(
        empty_url, "SELECT string_agg(relname, ',') FROM pg_class WHERE relnamespace = 'scheduler'::regnamespace"
    )
    assert await commands.upgrade(empty_settings) == REVISION

    assert {"graphjobs_schema_version", "graphjobs_schema_version_pkc"} == set(remaining.split(","))
    assert first == dump(empty_url)


async def test_a_downgrade_keeps_the_schema_and_the_hosts_tables(empty_settings: Settings, empty_url: str) -> None:
    ask(
        empty_url,
        "CREATE SCHEMA scheduler; CREATE TABLE scheduler.runs (id INT PRIMARY KEY);"
        "INSERT INTO scheduler.runs VALUES (7)",
    )
    before = dump(empty_url, "runs")
    await commands.upgrade(empty_settings)
    await commands.check(empty_settings)
    await commands.downgrade(empty_settings, revision="base")

    assert before == dump(empty_url, "runs")
    assert ask(empty_url, "SELECT id FROM scheduler.runs") == "7"
    assert ask(empty_url, "SELECT to_regclass('scheduler.graph_jobs') IS NULL") == "t"


async def test_check_finds_no_drift_after_an_upgrade(graphjobs_settings: Settings, graphjobs_database_url: str) -> None:
    before = dump(graphjobs_database_url)
    await commands.check(graphjobs_settings)
    assert before == dump(graphjobs_database_url)


@pytest.mark.parametrize("drift", list(_DRIFT))
async def test_check_reports_manual_changes(
    graphjobs_settings: Settings, graphjobs_database_url: str, drift: str
) -> None:
    statement, word = _DRIFT[drift]
    ask(graphjobs_database_url, statement)
    with pytest.raises(GraphJobsError, match=word) as caught:
        await commands.check(graphjobs_settings)
    assert "the database differs from the declared tables: " in str(caught.value)


async def test_check_reports_missing_tables_and_changes_nothing(empty_settings: Settings, empty_url: str) -> None:
    for host in ("SELECT 1", "CREATE SCHEMA scheduler"):
        ask(empty_url, host)
        before = dump(empty_url)
        with pytest.raises(SchemaOutOfDate, match="graphjobs db upgrade"):
            await commands.check(empty_settings)
        assert before == dump(empty_url)


def test_the_alembic_command_upgrades_and_checks_from_the_root(empty_url: str) -> None:
    """It uses the settings of graphjobs and its own exit codes."""
    up = alembic("upgrade", "head", url=empty_url)
    same = alembic("check", url=empty_url)
    ask(empty_url, "DROP INDEX scheduler.idx_graph_jobs_tenant_status")
    other = alembic("check", url=empty_url)

    assert (0, 0) == (up.returncode, same.returncode), up.stderr + same.stderr
    assert "No new upgrade operations detected" in same.stdout
    assert other.returncode != 0
    assert "idx_graph_jobs_tenant_status" in other.stdout + other.stderr


def test_a_new_revision_is_a_file_with_its_id_as_name(tmp_path: Path) -> None:
    """The command of `make revision`, on a copy of the folder, does not repeat the name, and the file has the rules."""
    shutil.copytree(REPOSITORY / "alembic", tmp_path / "alembic")
    shutil.copy(REPOSITORY / "alembic.ini", tmp_path)
    subprocess.run(
        [Path(sys.executable).with_name("alembic"), "revision", "--rev-id", "999_trial", "--message", "999_trial"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    )
    revision = tmp_path / "alembic" / "versions" / "999_trial.py"
    assert "Rules of a revision" in revision.read_text(encoding="utf-8")
