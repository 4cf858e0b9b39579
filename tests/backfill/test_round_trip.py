"""Export, then backfill into an empty database: the same rows; and the runbook's commands, as they stand there."""

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
from graphjobs.backfill.load.staging import row_of
from graphjobs.backfill.transactions import transaction
from graphjobs.database.embedded.server import embedded_cluster
from graphjobs.policy_runs.models import PolicyRunEvent
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.backfill import dumps
from tests.backfill.tables import TABLES, backfilled, compared, state, waiting
from tests.migrations.cli_tools import ask, environment
from tests.unit.backfill.values import STORED_TIMES, events, graph_jobs, policy_runs

_VERSIONS = st.datetimes(datetime(1, 1, 3), datetime(2026, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
"""Rows have none of the future."""
_CEILING = datetime(2026, 1, 2, tzinfo=UTC)
_ROOT = Path(__file__).resolve().parents[2]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def place(graphjobs_new_database: Any) -> AsyncIterator[tuple[Storage, str]]:
    """A storage, and its URL, for many examples."""
    url = graphjobs_new_database()
    async with open_storage(Settings.load(database_url=url)) as storage:
        yield storage, url


def _each_once(values: list[Any], *keys: str) -> list[Any]:
    for key in keys:
        values = list({getattr(each, key): each for each in reversed(values)}.values())
    return values


@st.composite
def _contents(draw: st.DrawFn) -> dict[str, list[Any]]:
    """What the four tables may hold: values of every kind, and logs of the jobs and runs among them."""
    jobs = [
        each.replace(created_at=draw(STORED_TIMES), updated_at=draw(_VERSIONS))
        for each in _each_once(draw(st.lists(graph_jobs(), min_size=1, max_size=4)), "id")
    ]
    runs = [
        each.replace(updated_at=draw(_VERSIONS))
        for each in _each_once(draw(st.lists(policy_runs(), min_size=1, max_size=4)), "id", "run_id")
    ]
    logs = {}
    for name, kind, of in ((EVENTS, GraphJobEvent, jobs), (RUN_EVENTS, PolicyRunEvent, runs)):
        drawn = draw(st.lists(st.tuples(events(kind), st.sampled_from(of)), max_size=4))
        numbered = [
            each.replace(id=number, job_id=job.id, tenant_id=job.tenant_id, created_at=draw(STORED_TIMES))
            for number, (each, job) in enumerate(drawn, start=draw(st.integers(1, 1_000)))
        ]
        logs[name] = numbered
    return {JOBS: jobs, RUNS: runs, **logs}


async def _emptied(storage: Storage) -> None:
    async with storage.session() as session, session.begin():
        tables = ", ".join(f"scheduler.{name}" for name in (*TABLES, "backfill_checkpoints", "backfill_quarantine"))
        await session.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))


@pytest.mark.asyncio(loop_scope="module")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=_contents())
async def test_what_was_exported_comes_back_row_for_row(
    place: tuple[Storage, str], contents: dict[str, list[Any]]
) -> None:
    """Whatever the tables held: ids, versions, log numbers, to the microsecond; and no number is given twice."""
    storage, url = place
    await _emptied(storage)
    async with transaction(storage) as executor:
        for name in (JOBS, RUNS, EVENTS, RUN_EVENTS):
            if contents[name]:
                await write(executor, name, [row_of(each) for each in contents[name]], _CEILING)
    before = state(url)
    with tempfile.TemporaryDirectory() as folder:
        await export(storage, Path(folder, "export"))
        await _emptied(storage)
        report = await backfilled(storage, Path(folder, "export"))
        assert ([], {}) == (waiting(url), report.waiting)
        assert before == state(url)
        assert (await compared(storage, Path(folder, "export"))).holds
    for name in (EVENTS, RUN_EVENTS):
        last = max((row["id"] for row in before[name]), default=0)
        assert last < int(ask(url, f"SELECT nextval('scheduler.{name}_id_seq')"))


async def test_a_dirty_dump_comes_back_from_an_export(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Old ids of every form among them."""
    dumps.write_files(tmp_path / "dump", dumps.generate(2_000, 5, dirty=4))
    await backfilled(graphjobs_storage, tmp_path / "dump")
    before = {**state(graphjobs_database_url), "waiting": []}
    await export(graphjobs_storage, tmp_path / "export")
    await _emptied(graphjobs_storage)
    report = await backfilled(graphjobs_storage, tmp_path / "export")
    assert before == state(graphjobs_database_url)
    assert ({}, sum(map(len, before.values()))) == (report.waiting, report.counts.added)


def test_the_commands_of_the_rollback_run_as_they_stand(graphjobs_database_url: str, tmp_path: Path) -> None:
    """Each of docs/rollback.md, in its order; what the database held is there again, and was refused to be dropped."""
    url = graphjobs_database_url
    page = (_ROOT / "docs" / "rollback.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", page, flags=re.MULTILINE | re.DOTALL)
    commands = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    assert 8 == len(commands)
    imports = re.findall(r"--collection (\w+) --mode=upsert (\S+)", page)
    of_server = os.environ.get("GRAPHJOBS_TEST_PROGRAMS") or embedded_cluster(None).bin_dir
    path = f"{Path(sys.executable).parent}:{of_server}:{os.environ['PATH']}"
    env = environment(GRAPHJOBS_DATABASE_URL=url, PATH=path)

    def shell(command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
        )

    dumps.write_files(tmp_path / "dump", dumps.generate(500, 2, dirty=0))
    # Twins are dirt, too: they wait, and are given up.
    shell("graphjobs backfill dump")
    ask(url, "DELETE FROM scheduler.backfill_quarantine")
    before = state(url)
    refused = shell("graphjobs db downgrade base")
    assert 1 == refused.returncode
    assert "graphjobs export FOLDER" in refused.stderr
    for command in commands:
        done = shell(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        if command.startswith("psql"):
            assert "(0 rows)" in done.stdout
        if command.startswith("graphjobs export"):
            assert all((tmp_path / file).is_file() for _, file in imports)
    assert set(TABLES) == {collection for collection, _ in imports}
    assert before == state(url)
