"""Export, then backfill into an empty database: the same rows. The commands of docs/rollback.md run as printed."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from graphjobs import GraphJobEvent, open_storage
from graphjobs.backfill.export import export
from graphjobs.backfill.extract.records import EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.load.loader import write
from graphjobs.backfill.load.staging import to_row
from graphjobs.backfill.transactions import transaction
from graphjobs.database.embedded.server import embedded_cluster
from graphjobs.policy_runs.models import PolicyRunEvent
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.backfill import dumps
from tests.backfill.tables import TABLES, backfill_path, pending_entries, state, verify_path
from tests.migrations.cli_tools import ask, environment
from tests.unit.backfill.values import STORED_TIMES, events, graph_jobs, policy_runs

_VERSIONS = st.datetimes(datetime(1, 1, 3), datetime(2026, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
"""Versions of rows are not in the future."""
_VERSION_MAX = datetime(2026, 1, 2, tzinfo=UTC)
_ROOT = Path(__file__).resolve().parents[2]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def database(graphjobs_new_database: Any) -> AsyncIterator[tuple[Storage, str]]:
    """Return a storage and its URL, for many examples."""
    url = graphjobs_new_database()
    async with open_storage(Settings.load(database_url=url)) as storage:
        yield storage, url


def _unique(values: list[Any], *keys: str) -> list[Any]:
    for key in keys:
        values = list({getattr(value, key): value for value in reversed(values)}.values())
    return values


@st.composite
def _contents(draw: st.DrawFn) -> dict[str, list[Any]]:
    """Draw contents of the four tables: values of every kind, and events of the jobs and runs among them."""
    jobs = [
        job.replace(created_at=draw(STORED_TIMES), updated_at=draw(_VERSIONS))
        for job in _unique(draw(st.lists(graph_jobs(), min_size=1, max_size=4)), "id")
    ]
    runs = [
        run.replace(updated_at=draw(_VERSIONS))
        for run in _unique(draw(st.lists(policy_runs(), min_size=1, max_size=4)), "id", "run_id")
    ]
    logs = {}
    for name, kind, parents in ((EVENTS, GraphJobEvent, jobs), (RUN_EVENTS, PolicyRunEvent, runs)):
        drawn = draw(st.lists(st.tuples(events(kind), st.sampled_from(parents)), max_size=4))
        numbered = [
            event.replace(id=number, job_id=parent.id, tenant_id=parent.tenant_id, created_at=draw(STORED_TIMES))
            for number, (event, parent) in enumerate(drawn, start=draw(st.integers(1, 1_000)))
        ]
        logs[name] = numbered
    return {JOBS: jobs, RUNS: runs, **logs}


async def _truncate(storage: Storage) -> None:
    async with storage.session() as session, session.begin():
        tables = ", ".join(f"scheduler.{name}" for name in (*TABLES, "backfill_checkpoints", "backfill_quarantine"))
        await session.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))


@pytest.mark.asyncio(loop_scope="module")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=_contents())
async def test_a_backfill_of_an_export_restores_every_row(
    database: tuple[Storage, str], contents: dict[str, list[Any]]
) -> None:
    storage, url = database
    await _truncate(storage)
    async with transaction(storage) as executor:
        for name in (JOBS, RUNS, EVENTS, RUN_EVENTS):
            if contents[name]:
                await write(executor, name, [to_row(value) for value in contents[name]], _VERSION_MAX)
    before = state(url)
    with tempfile.TemporaryDirectory() as folder:
        await export(storage, Path(folder, "export"))
        await _truncate(storage)
        report = await backfill_path(storage, Path(folder, "export"))
        assert ([], {}) == (pending_entries(url), report.pending)
        assert before == state(url)
        assert (await verify_path(storage, Path(folder, "export"))).ok
    for name in (EVENTS, RUN_EVENTS):
        last = max((row["id"] for row in before[name]), default=0)
        assert last < int(ask(url, f"SELECT nextval('scheduler.{name}_id_seq')"))


async def test_a_dirty_dump_is_restored_from_an_export(storage: Storage, url: str, tmp_path: Path) -> None:
    dumps.write_files(tmp_path / "dump", dumps.generate(2_000, 5, dirty=4))
    await backfill_path(storage, tmp_path / "dump")
    before = {**state(url), "pending": []}
    await export(storage, tmp_path / "export")
    await _truncate(storage)
    report = await backfill_path(storage, tmp_path / "export")
    assert before == state(url)
    assert ({}, sum(map(len, before.values()))) == (report.pending, report.counts.added)


def test_the_commands_of_the_rollback_run_as_printed(url: str, tmp_path: Path) -> None:
    """In the order of docs/rollback.md. The rows are the same afterwards, and a downgrade without the option fails."""
    page = (_ROOT / "docs" / "rollback.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", page, flags=re.MULTILINE | re.DOTALL)
    commands = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    assert 8 == len(commands)
    imports = re.findall(r"--collection (\w+) --mode=upsert (\S+)", page)
    programs = os.environ.get("GRAPHJOBS_TEST_PROGRAMS") or embedded_cluster(None).bin_dir
    path = f"{Path(sys.executable).parent}:{programs}:{os.environ['PATH']}"
    env = environment(GRAPHJOBS_DATABASE_URL=url, PATH=path)

    def shell(command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
        )

    dumps.write_files(tmp_path / "dump", dumps.generate(500, 2, dirty=0))
    # Duplicates are pending: discard them.
    shell("graphjobs backfill dump")
    ask(url, "DELETE FROM scheduler.backfill_quarantine")
    before = state(url)
    rejected = shell("graphjobs db downgrade base")
    assert 1 == rejected.returncode
    assert "graphjobs export FOLDER" in rejected.stderr
    for command in commands:
        done = shell(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        if command.startswith("psql"):
            assert "(0 rows)" in done.stdout
        if command.startswith("graphjobs export"):
            assert all((tmp_path / file).is_file() for _, file in imports)
    assert set(TABLES) == {collection for collection, _ in imports}
    assert before == state(url)
