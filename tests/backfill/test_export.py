"""Export from a real database: the files show one snapshot of the tables, and appear together or not at all."""

import asyncio
import json
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from bson import Int64

from graphjobs import GraphJobEvent, GraphJobStatus, open_storage
from graphjobs.backfill import export as exports
from graphjobs.backfill.export import ExportReport, export
from graphjobs.backfill.extract.records import COLLECTIONS, EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.transform.mapping import Mapped, map_document
from graphjobs.errors import ConfigurationError, DatabaseUnavailable
from graphjobs.graph_jobs.models import GraphJob
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.backfill.dumps import DumpGenerator, Outcome
from tests.backfill.source_helpers import read_documents
from tests.backfill.tables import Command, records
from tests.builders import build_job, overlay_job, policy_run
from tests.migrations.cli_tools import ask, beside_python, environment, run_on_terminal

_FILES = [f"{name}.json" for name in COLLECTIONS]
_ENDS = [UUID(int=0), UUID(int=2**128 - 1)]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


async def _values_in(folder: Path, collection: str) -> list[Any]:
    """Return the values of a file, read and mapped as in a backfill."""
    values = []
    for document in await read_documents(folder / f"{collection}.json", collection):
        mapped = map_document(collection, document)
        assert isinstance(mapped, Mapped), mapped
        values.append(mapped.value)
    return values


async def _fill(storage: Storage, number: int = 3) -> None:
    """Store jobs of both kinds and runs with their events, some of them changed."""
    for index in range(number):
        tenant = f"tenant-{index % 2}"
        build = await storage.graph_jobs.add(build_job(tenant), actor="test")
        await storage.graph_jobs.add(overlay_job(tenant, build_job_id=build.id))
        await storage.graph_job_repository.try_replace(build.start(at=build.created_at), GraphJobStatus.QUEUED)
        await storage.policy_runs.insert(policy_run(tenant, run_id=f"run-{index}"))
    await storage.policy_run_queue.lease("owner", timedelta(minutes=1), attempts_max=5, limit=1)


def _count(url: str) -> dict[str, int]:
    return {name: int(ask(url, f"SELECT count(*) FROM scheduler.{name}")) for name in COLLECTIONS}


@pytest.mark.parametrize("page_rows", [1, 2, 1_000])
async def test_the_files_equal_the_tables(
    storage: Storage, url: str, tmp_path: Path, page_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_PAGE_ROWS", page_rows)
    await _fill(storage)
    for end in _ENDS:
        await storage.graph_jobs.add(build_job(id=end))
        await storage.policy_runs.insert(policy_run(id=end, run_id=str(end)))
    progress: list[int] = []
    exported = await export(
        storage, tmp_path, on_progress=lambda report: progress.append(sum(report.documents.values()))
    )
    assert (_count(url), {0}) == (exported.documents, {*exported.unreadable.values()})
    assert progress == sorted(progress)
    assert sum(exported.documents.values()) == progress[-1]
    assert sorted(_FILES) == _names(tmp_path)
    for job in await _values_in(tmp_path, JOBS):
        row = await storage.graph_jobs.get_job(job.tenant_id, job.id)
        assert (row, row and row.updated_at) == (job, job.updated_at)
        log = await storage.graph_jobs.events(job.tenant_id, job.id)
        assert list(log) == [event for event in await _values_in(tmp_path, EVENTS) if event.job_id == job.id]
        assert len(log) > 0
    for run in await _values_in(tmp_path, RUNS):
        assert run == await storage.policy_runs.get(run.tenant_id, run.id)
        entries = await storage.policy_runs.events(run.tenant_id, run.id)
        assert list(entries) == [event for event in await _values_in(tmp_path, RUN_EVENTS) if event.job_id == run.id]
    for name in COLLECTIONS:
        keys = [value.id for value in await _values_in(tmp_path, name)]
        assert exported.documents[name] == len(keys)
        assert sorted(keys) == keys


async def test_documents_from_mongodb_are_exported_under_their_legacy_ids(storage: Storage, tmp_path: Path) -> None:
    """Ids and references of events have the same type as in MongoDB."""
    maker = DumpGenerator(5, dirty=0)
    originals: dict[str, list[dict[str, Any]]] = {JOBS: [], RUNS: [], EVENTS: []}
    for generated in [*maker.jobs(60), *maker.runs(40), *maker.events(40)]:
        mapped = map_document(generated.collection, generated.document)
        if generated.outcome is Outcome.REJECTED or not isinstance(mapped, Mapped):
            continue
        if isinstance(mapped.value, GraphJobEvent):
            await storage.graph_job_repository.append_event(mapped.value)
        elif isinstance(mapped.value, GraphJob):
            await storage.graph_job_repository.insert(mapped.value)
        else:
            assert isinstance(mapped.value, PolicyRunJob)
            await storage.policy_runs.insert(mapped.value)
        originals[generated.collection].append(generated.document)
    await export(storage, tmp_path)
    for collection, documents in originals.items():
        exported = {
            str(document["_id"]): document
            for document in await read_documents(tmp_path / f"{collection}.json", collection)
        }
        assert len(documents) == len(exported)
        for old in documents:
            new = exported[str(old["_id"])]
            assert (type(old["_id"]), old["_id"]) == (type(new["_id"]), new["_id"])
            if collection == EVENTS:
                assert (type(old["jobId"]), old["jobId"]) == (type(new["jobId"]), new["jobId"])
                assert Int64 is type(new["id"])


async def test_empty_tables_give_empty_files(storage: Storage, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    exported = await export(storage, folder)
    assert {*exported.documents.values()} == {0}
    assert dict.fromkeys(_FILES, b"") == {path.name: path.read_bytes() for path in folder.iterdir()}


_DAMAGE = {
    JOBS: "created_at = 'infinity'",
    RUNS: """payload = payload || '{"extra": 1}'""",
    EVENTS: "status = -1",
    RUN_EVENTS: "payload = '[1]'",
}


async def _damage(storage: Storage, url: str) -> None:
    """Make two rows of each table unreadable. Their order on disk is not that of the key."""
    await _fill(storage)
    for table, assignment in _DAMAGE.items():
        for key in reversed(ask(url, f"SELECT id FROM scheduler.{table} ORDER BY id LIMIT 2").split()):
            ask(url, f"UPDATE scheduler.{table} SET {assignment} WHERE id = '{key}'")


async def test_unreadable_rows_are_in_a_separate_file(storage: Storage, url: str, tmp_path: Path) -> None:
    """With the reason and all columns as text. The other rows are in their files."""
    await _damage(storage, url)
    exported = await export(storage, tmp_path)
    assert dict.fromkeys(COLLECTIONS, 2) == exported.unreadable
    assert {name: number - 2 for name, number in _count(url).items()} == exported.documents
    lines = [json.loads(line) for line in (tmp_path / "unreadable.json").read_text().splitlines()]
    assert [name for name in COLLECTIONS for _ in range(2)] == [line["table"] for line in lines]
    for line in lines:
        table, row, columns = line["table"], line["id"], line["columns"]
        for name, value in columns.items():
            query = f"SELECT coalesce({name}::text, 'none') FROM scheduler.{table} WHERE id = '{row}'"
            assert ask(url, f"SET TimeZone = 'UTC'; {query}") == ("none" if value is None else value)
        assert int(ask(url, f"SELECT count(*) FROM pg_attribute WHERE attrelid = 'scheduler.{table}'::regclass "
                            "AND attnum > 0 AND NOT attisdropped")) == len(columns)  # fmt: skip
        assert row not in [str(value.id) for value in await _values_in(tmp_path, table)]
    reasons = {line["table"]: line["reason"] for line in lines}
    assert "extra" in reasons[RUNS]
    assert "infinity" == lines[0]["columns"]["created_at"]
    assert all(reasons.values())


@pytest.mark.parametrize("name", [*_FILES, "unreadable.json", "graph_jobs.json.part", "policy_run_events.json.part"])
@pytest.mark.parametrize("dangling", [False, True])
async def test_an_existing_file_is_not_overwritten(storage: Storage, tmp_path: Path, name: str, dangling: bool) -> None:
    existing = tmp_path / name
    if dangling:
        existing.symlink_to("nowhere")
    else:
        existing.write_text("other")
    with pytest.raises(ConfigurationError, match=f"{name} exists and is not overwritten|{name} exists: another export"):
        await export(storage, tmp_path)
    assert [name] == _names(tmp_path)
    assert dangling or "other" == existing.read_text()


async def test_a_file_that_appears_meanwhile_is_not_overwritten(storage: Storage, tmp_path: Path) -> None:
    """For instance of a second export into the same folder."""
    existing = tmp_path / "policy_runs.json"

    def on_progress(exported: ExportReport) -> None:
        existing.write_text("other")

    with pytest.raises(ConfigurationError, match=r"policy_runs\.json exists and is not overwritten"):
        await export(storage, tmp_path, on_progress=on_progress)
    assert ([existing.name], "other") == (_names(tmp_path), existing.read_text())


async def test_a_file_in_place_of_the_folder_is_one_sentence(storage: Storage, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(ConfigurationError, match=r"are not writable: .*file: File exists; name another folder"):
        await export(storage, place)


@pytest.mark.parametrize("fails_at", [0, 1, 3])
async def test_a_failed_rename_leaves_no_file(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """Also none of those that were renamed before."""
    rename, calls = Path.rename, iter(range(9))

    def failing(self: Path, target: Path) -> Path:
        if next(calls) == fails_at:
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        await export(storage, tmp_path)
    assert [] == _names(tmp_path)


async def test_a_cancelled_export_leaves_no_file(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any await. The next export works, on the same connections."""
    monkeypatch.setattr(exports, "_PAGE_ROWS", 2)
    await _fill(storage)
    ended: ExportReport | BaseException | None = None
    turns = 0
    for turns in range(0, 20_000, 10):
        folder = tmp_path / str(turns)
        task = asyncio.create_task(export(storage, folder))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        ended = (await asyncio.gather(task, return_exceptions=True))[0]
        names = _names(folder)
        if isinstance(ended, ExportReport):
            assert sorted(_FILES) == names
            break
        assert isinstance(ended, asyncio.CancelledError), ended
        assert names in ([], sorted(_FILES)), turns  # all of them, if the export was complete
    assert isinstance(ended, ExportReport)
    assert turns > 100
    assert 6 == (await export(storage, tmp_path / "last")).documents[JOBS]


async def test_a_lost_connection_leaves_no_file(
    storage: Storage, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one of graphjobs, after which a caller may retry."""
    monkeypatch.setattr(exports, "_PAGE_ROWS", 2)
    await _fill(storage)

    def on_progress(exported: ExportReport) -> None:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        ask(url, f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}")

    with pytest.raises(DatabaseUnavailable):
        await export(storage, tmp_path, on_progress=on_progress)
    assert [] == _names(tmp_path)


async def test_an_exhausted_pool_leaves_no_file(graphjobs_settings: Settings, tmp_path: Path) -> None:
    """The wait for a connection is limited."""
    short = {"pool_size": 1, "connect_timeout": timedelta(seconds=0.2)}
    async with open_storage(graphjobs_settings.model_copy(update=short)) as storage, storage.session() as session:
        await session.connection()
        with pytest.raises(DatabaseUnavailable, match="the pool had no free connection"):
            await export(storage, tmp_path)
    assert [] == _names(tmp_path)


@pytest.mark.parametrize("pooler", ["direct", "transaction"])
async def test_the_files_show_one_snapshot(
    graphjobs_settings: Settings, storage: Storage, url: str, tmp_path: Path, pooler: str
) -> None:
    """Rows that are written or deleted meanwhile are in all files or in none, also behind a pooler."""
    await _fill(storage)
    before = _count(url)

    def on_progress(exported: ExportReport) -> None:
        if not exported.documents[RUNS]:
            ask(
                url,
                "INSERT INTO scheduler.graph_jobs SELECT gen_random_uuid(), tenant_id, type, status, payload"
                " FROM scheduler.graph_jobs LIMIT 1;"
                "INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload)"
                " SELECT id, tenant_id, status, '{}' FROM scheduler.graph_jobs;"
                "DELETE FROM scheduler.policy_runs;",
            )

    async with open_storage(graphjobs_settings.model_copy(update={"pooler": pooler})) as pooled:
        exported = await export(pooled, tmp_path, on_progress=on_progress)
    assert before == exported.documents
    assert before != _count(url)
    jobs = {job.id for job in await _values_in(tmp_path, JOBS)}
    assert jobs == {event.job_id for event in await _values_in(tmp_path, EVENTS)}
    runs = {run.id for run in await _values_in(tmp_path, RUNS)}
    assert runs == {event.job_id for event in await _values_in(tmp_path, RUN_EVENTS)}


async def test_the_connection_is_reset_afterwards(graphjobs_settings: Settings, tmp_path: Path) -> None:
    """Its next user can write, and sees commits of others."""
    async with open_storage(graphjobs_settings.model_copy(update={"pool_size": 1})) as storage:
        idle: list[str] = []

        def on_progress(exported: ExportReport) -> None:
            assert graphjobs_settings.database_url is not None
            url = graphjobs_settings.database_url.get_secret_value()
            query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            idle.append(ask(url, f"{query} AND datname = current_database()"))

        await export(storage, tmp_path, on_progress=on_progress)
        assert {"1"} == {*idle}
        async with storage.session() as session, session.begin():
            connection = await session.connection()
            for setting, value in (("isolation", "read committed"), ("read_only", "off")):
                result = await connection.exec_driver_sql(f"SHOW transaction_{setting}")
                assert value == result.scalar_one()
            await storage.graph_jobs.using(session).add(build_job())


async def test_a_backfill_imports_all_that_the_command_writes(
    graphjobs: Command, storage: Storage, url: str, tmp_path: Path
) -> None:
    await _fill(storage)
    folder = tmp_path / "dump"
    done = graphjobs("export", str(folder), "--json", url=url)
    assert (0, "") == (done.returncode, done.stderr)
    expected = [{"table": name, "documents": number, "unreadable": 0} for name, number in _count(url).items()]
    assert expected == records(done)
    table = graphjobs("export", str(tmp_path / "again"), url=url)
    assert 0 == table.returncode
    assert "graph_jobs 6 0" in [" ".join(line.split()) for line in table.stdout.splitlines()]
    read = graphjobs("backfill", str(folder), "--dry-run", "--json")
    assert 0 == read.returncode, read.stderr
    assert sum(_count(url).values()) == records(read)[0]["documents"]
    for name in _FILES:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


async def test_a_terminal_shows_bars(storage: Storage, url: str, tmp_path: Path) -> None:
    await _fill(storage)
    env = environment(GRAPHJOBS_DATABASE_URL=url)
    program = beside_python("graphjobs")
    exported = run_on_terminal([program, "export", tmp_path / "dump"], env=env)
    number = sum(_count(url).values())
    imported = run_on_terminal([program, "backfill", tmp_path / "dump"], env=env)
    for done in (exported, imported):
        assert 0 == done.returncode, done.stderr
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stderr)
        assert re.search(rf"policy_run_events\S* ━+ .*[\d-]\s+{number} documents, [\d,]+ per second", shown), shown
        assert "graph_jobs" in done.stdout


async def test_the_command_exits_1_if_a_row_is_unreadable(
    graphjobs: Command, storage: Storage, url: str, tmp_path: Path
) -> None:
    await _damage(storage, url)
    done = graphjobs("export", str(tmp_path), "--json", url=url)
    assert 1 == done.returncode
    assert f"graphjobs: 8 unreadable rows are in {tmp_path}/unreadable.json" in done.stderr
    assert dict.fromkeys(COLLECTIONS, 2) == {record["table"]: record["unreadable"] for record in records(done)}


async def test_the_command_rejects_existing_files(graphjobs: Command, url: str, tmp_path: Path) -> None:
    (tmp_path / "graph_jobs.json").write_text("other")
    done = graphjobs("export", str(tmp_path), url=url)
    assert (3, "") == (done.returncode, done.stdout)
    assert f"graphjobs: {tmp_path}/graph_jobs.json exists and is not overwritten" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_the_files_are_on_disk_before_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stops leaves complete files, or partial ones with another name."""
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(number: int) -> None:
        done.append("sync")
        fsync(number)

    def renamed(self: Path, target: Path) -> Path:
        done.append("name")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    files = exports._ExportFiles(tmp_path)
    files.open()
    files.publish()
    assert ["sync"] * 4 + ["name"] * 4 + ["sync"] == done
