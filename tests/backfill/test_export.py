"""The way back, on a real database: files of one moment that hold what the tables hold, all of them or none."""

import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import pytest
from bson import Int64

from graphjobs import GraphJobEvent, GraphJobStatus, open_storage
from graphjobs.backfill import export as exports
from graphjobs.backfill.export import Exported, export
from graphjobs.backfill.extract.records import COLLECTIONS, EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.transform.mapping import Mapped, map_document
from graphjobs.errors import ConfigurationError, DatabaseUnavailable
from graphjobs.graph_jobs.models import GraphJob
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.backfill.dumps import DumpGenerator, Outcome
from tests.backfill.source_helpers import read_documents
from tests.builders import build_job, overlay_job, policy_run
from tests.migrations.cli_tools import Done, ask, beside_python, environment, many_graphjobs, run_on_terminal

Command: TypeAlias = Callable[..., Done]

_FILES = [f"{name}.json" for name in COLLECTIONS]
_ENDS = [UUID(int=0), UUID(int=2**128 - 1)]


@pytest.fixture(scope="module")
def graphjobs() -> Iterator[Command]:
    """The command."""
    with many_graphjobs() as command:
        yield command


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


async def _values_in(folder: Path, collection: str) -> list[Any]:
    """Gives what a file comes to, read and mapped as any backfill does."""
    values = []
    for document in await read_documents(folder / f"{collection}.json", collection):
        mapped = map_document(collection, document)
        assert isinstance(mapped, Mapped), mapped
        values.append(mapped.value)
    return values


async def _fill(storage: Storage, number: int = 3) -> None:
    """Stores jobs of both kinds and runs, some of them moved, each with its log."""
    for each in range(number):
        tenant = f"tenant-{each % 2}"
        build = await storage.graph_jobs.add(build_job(tenant), actor="test")
        await storage.graph_jobs.add(overlay_job(tenant, build_job_id=build.id))
        await storage.graph_job_repository.try_replace(build.start(at=build.created_at), GraphJobStatus.QUEUED)
        await storage.policy_runs.insert(policy_run(tenant, run_id=f"run-{each}"))
    await storage.policy_run_queue.lease("owner", timedelta(minutes=1), attempts_max=5, limit=1)


def _count(url: str) -> dict[str, int]:
    return {name: int(ask(url, f"SELECT count(*) FROM scheduler.{name}")) for name in COLLECTIONS}


@pytest.mark.parametrize("page_rows", [1, 2, 1_000])
async def test_the_files_hold_what_the_tables_hold(
    graphjobs_storage: Storage,
    graphjobs_database_url: str,
    tmp_path: Path,
    page_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each row once, in the order of its key, with its version and its number; a page at a time."""
    monkeypatch.setattr(exports, "_PAGE_ROWS", page_rows)
    await _fill(graphjobs_storage)
    for end in _ENDS:
        await graphjobs_storage.graph_jobs.add(build_job(id=end))
        await graphjobs_storage.policy_runs.insert(policy_run(id=end, run_id=str(end)))
    told: list[int] = []
    exported = await export(graphjobs_storage, tmp_path, told=lambda each: told.append(sum(each.documents.values())))
    assert (_count(graphjobs_database_url), {0}) == (exported.documents, {*exported.unreadable.values()})
    assert told == sorted(told)
    assert sum(exported.documents.values()) == told[-1]
    assert sorted(_FILES) == _names(tmp_path)
    stored = graphjobs_storage
    for job in await _values_in(tmp_path, JOBS):
        kept = await stored.graph_jobs.get_job(job.tenant_id, job.id)
        assert (kept, kept and kept.updated_at) == (job, job.updated_at)
        log = await stored.graph_jobs.events(job.tenant_id, job.id)
        assert list(log) == [event for event in await _values_in(tmp_path, EVENTS) if event.job_id == job.id]
        assert len(log) > 0
    for run in await _values_in(tmp_path, RUNS):
        assert run == await stored.policy_runs.get(run.tenant_id, run.id)
        entries = await stored.policy_runs.events(run.tenant_id, run.id)
        assert list(entries) == [event for event in await _values_in(tmp_path, RUN_EVENTS) if event.job_id == run.id]
    for name in COLLECTIONS:
        keys = [value.id for value in await _values_in(tmp_path, name)]
        assert exported.documents[name] == len(keys)
        assert sorted(keys) == keys


async def test_what_came_from_mongodb_goes_back_under_its_old_ids(graphjobs_storage: Storage, tmp_path: Path) -> None:
    """Of the same type, and so do the references of logs; the rest of it is as it was."""
    maker = DumpGenerator(5, dirty=0)
    olds: dict[str, list[dict[str, Any]]] = {JOBS: [], RUNS: [], EVENTS: []}
    for made in [*maker.jobs(60), *maker.runs(40), *maker.events(40)]:
        mapped = map_document(made.collection, made.document)
        if made.outcome is Outcome.REJECTED or not isinstance(mapped, Mapped):
            continue
        if isinstance(mapped.value, GraphJobEvent):
            await graphjobs_storage.graph_job_repository.append_event(mapped.value)
        elif isinstance(mapped.value, GraphJob):
            await graphjobs_storage.graph_job_repository.insert(mapped.value)
        else:
            assert isinstance(mapped.value, PolicyRunJob)
            await graphjobs_storage.policy_runs.insert(mapped.value)
        olds[made.collection].append(made.document)
    await export(graphjobs_storage, tmp_path)
    for collection, documents in olds.items():
        back = {str(each["_id"]): each for each in await read_documents(tmp_path / f"{collection}.json", collection)}
        assert len(documents) == len(back)
        for old in documents:
            new = back[str(old["_id"])]
            assert (type(old["_id"]), old["_id"]) == (type(new["_id"]), new["_id"])
            if collection == EVENTS:
                assert (type(old["jobId"]), old["jobId"]) == (type(new["jobId"]), new["jobId"])
                assert Int64 is type(new["id"])


async def test_empty_tables_give_empty_files(graphjobs_storage: Storage, tmp_path: Path) -> None:
    """In a folder that is made for them."""
    folder = tmp_path / "new" / "folder"
    exported = await export(graphjobs_storage, folder)
    assert {*exported.documents.values()} == {0}
    assert dict.fromkeys(_FILES, b"") == {path.name: path.read_bytes() for path in folder.iterdir()}


_HAND = {
    JOBS: "created_at = 'infinity'",
    RUNS: """payload = payload || '{"extra": 1}'""",
    EVENTS: "status = -1",
    RUN_EVENTS: "payload = '[1]'",
}


async def _damage(storage: Storage, url: str) -> None:
    """Makes two rows of each table such that they cannot be read; they lie in another order than that of the key."""
    await _fill(storage)
    for table, assignment in _HAND.items():
        for key in reversed(ask(url, f"SELECT id FROM scheduler.{table} ORDER BY id LIMIT 2").split()):
            ask(url, f"UPDATE scheduler.{table} SET {assignment} WHERE id = '{key}'")


async def test_rows_that_cannot_be_read_stand_in_a_file_of_their_own(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """With why, and all their columns as they are; the others are where they belong."""
    url = graphjobs_database_url
    await _damage(graphjobs_storage, url)
    exported = await export(graphjobs_storage, tmp_path)
    assert dict.fromkeys(COLLECTIONS, 2) == exported.unreadable
    assert {name: number - 2 for name, number in _count(url).items()} == exported.documents
    lines = [json.loads(line) for line in (tmp_path / "unreadable.json").read_text().splitlines()]
    assert [name for name in COLLECTIONS for _ in range(2)] == [line["table"] for line in lines]
    for line in lines:
        table, row, columns = line["table"], line["id"], line["columns"]
        for name, value in columns.items():
            asked = f"SELECT coalesce({name}::text, 'none') FROM scheduler.{table} WHERE id = '{row}'"
            assert ask(url, f"SET TimeZone = 'UTC'; {asked}") == ("none" if value is None else value)
        assert int(ask(url, f"SELECT count(*) FROM pg_attribute WHERE attrelid = 'scheduler.{table}'::regclass "
                            "AND attnum > 0 AND NOT attisdropped")) == len(columns)  # fmt: skip
        assert row not in [str(value.id) for value in await _values_in(tmp_path, table)]
    reasons = {line["table"]: line["reason"] for line in lines}
    assert "extra" in reasons[RUNS]
    assert "infinity" == lines[0]["columns"]["created_at"]
    assert all(reasons.values())


@pytest.mark.parametrize("name", [*_FILES, "unreadable.json", "graph_jobs.json.part", "policy_run_events.json.part"])
@pytest.mark.parametrize("dangling", [False, True])
async def test_what_is_there_is_not_written_over(
    graphjobs_storage: Storage, tmp_path: Path, name: str, dangling: bool
) -> None:
    """Nor is anything else written, nor the file of another export removed."""
    there = tmp_path / name
    if dangling:
        there.symlink_to("nowhere")
    else:
        there.write_text("mine")
    with pytest.raises(ConfigurationError, match=f"{name} is there already"):
        await export(graphjobs_storage, tmp_path)
    assert [name] == _names(tmp_path)
    assert dangling or "mine" == there.read_text()


async def test_a_file_that_appears_meanwhile_is_not_written_over(graphjobs_storage: Storage, tmp_path: Path) -> None:
    """Of two exports into one folder, or of one and a person."""
    there = tmp_path / "policy_runs.json"

    def told(exported: Exported) -> None:
        there.write_text("mine")

    with pytest.raises(ConfigurationError, match=r"policy_runs\.json is there already"):
        await export(graphjobs_storage, tmp_path, told=told)
    assert ([there.name], "mine") == (_names(tmp_path), there.read_text())


async def test_a_folder_that_is_none_is_one_sentence(graphjobs_storage: Storage, tmp_path: Path) -> None:
    """With the system's own reason."""
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot be written: .*file: File exists; name another folder"):
        await export(graphjobs_storage, place)


@pytest.mark.parametrize("fails_at", [0, 1, 3])
async def test_files_that_cannot_be_named_leave_nothing(
    graphjobs_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """Also those that were named before."""
    rename, left = Path.rename, iter(range(9))

    def failing(self: Path, target: Path) -> Path:
        if next(left) == fails_at:
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        await export(graphjobs_storage, tmp_path)
    assert [] == _names(tmp_path)


async def test_a_cancelled_export_leaves_nothing(
    graphjobs_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever await; and the next one works, on the same connections."""
    monkeypatch.setattr(exports, "_PAGE_ROWS", 2)
    await _fill(graphjobs_storage)
    ended: Exported | BaseException | None = None
    turns = 0
    for turns in range(0, 20_000, 10):
        folder = tmp_path / str(turns)
        task = asyncio.create_task(export(graphjobs_storage, folder))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        ended = (await asyncio.gather(task, return_exceptions=True))[0]
        there = _names(folder)
        if isinstance(ended, Exported):
            assert sorted(_FILES) == there
            break
        assert isinstance(ended, asyncio.CancelledError), ended
        assert there in ([], sorted(_FILES)), turns  # all, where it was done already
    assert isinstance(ended, Exported)
    assert turns > 100
    assert 6 == (await export(graphjobs_storage, tmp_path / "last")).documents[JOBS]


async def test_a_lost_connection_leaves_nothing(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error of ours, and to be tried again."""
    monkeypatch.setattr(exports, "_PAGE_ROWS", 2)
    await _fill(graphjobs_storage)

    def told(exported: Exported) -> None:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        ask(graphjobs_database_url, f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}")

    with pytest.raises(DatabaseUnavailable):
        await export(graphjobs_storage, tmp_path, told=told)
    assert [] == _names(tmp_path)


async def test_no_connection_leaves_nothing(graphjobs_settings: Settings, tmp_path: Path) -> None:
    """Nor is one waited for without an end."""
    short = {"pool_size": 1, "connect_timeout": timedelta(seconds=0.2)}
    async with open_storage(graphjobs_settings.model_copy(update=short)) as storage, storage.session() as session:
        await session.connection()
        with pytest.raises(DatabaseUnavailable, match="the pool had no free connection"):
            await export(storage, tmp_path)
    assert [] == _names(tmp_path)


@pytest.mark.parametrize("pooler", ["direct", "transaction"])
async def test_the_files_are_of_one_moment(
    graphjobs_settings: Settings, graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path, pooler: str
) -> None:
    """What is written or deleted while it reads is in none of them, or in all; also where a statement begins it."""
    await _fill(graphjobs_storage)
    before = _count(graphjobs_database_url)

    def told(exported: Exported) -> None:
        if not exported.documents[RUNS]:
            ask(
                graphjobs_database_url,
                "INSERT INTO scheduler.graph_jobs SELECT gen_random_uuid(), tenant_id, type, status, payload"
                " FROM scheduler.graph_jobs LIMIT 1;"
                "INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload)"
                " SELECT id, tenant_id, status, '{}' FROM scheduler.graph_jobs;"
                "DELETE FROM scheduler.policy_runs;",
            )

    async with open_storage(graphjobs_settings.model_copy(update={"pooler": pooler})) as storage:
        exported = await export(storage, tmp_path, told=told)
    assert before == exported.documents
    assert before != _count(graphjobs_database_url)
    jobs = {job.id for job in await _values_in(tmp_path, JOBS)}
    assert jobs == {event.job_id for event in await _values_in(tmp_path, EVENTS)}
    runs = {run.id for run in await _values_in(tmp_path, RUNS)}
    assert runs == {event.job_id for event in await _values_in(tmp_path, RUN_EVENTS)}


async def test_the_connection_is_as_it_was(graphjobs_settings: Settings, tmp_path: Path) -> None:
    """Whoever gets it next can write, and sees what others commit."""
    async with open_storage(graphjobs_settings.model_copy(update={"pool_size": 1})) as storage:
        seen: list[str] = []

        def told(exported: Exported) -> None:
            assert graphjobs_settings.database_url is not None
            url = graphjobs_settings.database_url.get_secret_value()
            asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            seen.append(ask(url, f"{asked} AND datname = current_database()"))

        await export(storage, tmp_path, told=told)
        assert {"1"} == {*seen}
        async with storage.session() as session, session.begin():
            connection = await session.connection()
            for setting, value in (("isolation", "read committed"), ("read_only", "off")):
                result = await connection.exec_driver_sql(f"SHOW transaction_{setting}")
                assert value == result.scalar_one()
            await storage.graph_jobs.using(session).add(build_job())


def _records(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_the_command_writes_what_a_backfill_reads(
    graphjobs: Command, graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """It tells the counts to people and to programs; and all that it wrote can come."""
    await _fill(graphjobs_storage)
    url, folder = graphjobs_database_url, tmp_path / "dump"
    done = graphjobs("export", str(folder), "--json", url=url)
    assert (0, "") == (done.returncode, done.stderr)
    told = [{"table": name, "documents": number, "unreadable": 0} for name, number in _count(url).items()]
    assert told == _records(done)
    table = graphjobs("export", str(tmp_path / "again"), url=url)
    assert 0 == table.returncode
    assert "graph_jobs 6 0" in [" ".join(line.split()) for line in table.stdout.splitlines()]
    read = graphjobs("backfill", str(folder), "--dry-run", "--json")
    assert 0 == read.returncode, read.stderr
    assert sum(_count(url).values()) == _records(read)[0]["documents"]
    for name in _FILES:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


async def test_people_see_bars(graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path) -> None:
    """Of the way here and of the way back: what is worked at, how much, how fast, what is left; and then the table."""
    await _fill(graphjobs_storage)
    env = environment(GRAPHJOBS_DATABASE_URL=graphjobs_database_url)
    program = beside_python("graphjobs")
    back = run_on_terminal([program, "export", tmp_path / "dump"], env=env)
    number = sum(_count(graphjobs_database_url).values())
    here = run_on_terminal([program, "backfill", tmp_path / "dump"], env=env)
    for done in (back, here):
        assert 0 == done.returncode, done.stderr
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stderr)
        assert re.search(rf"policy_run_events\S* ━+ .*[\d-]\s+{number} documents, [\d,]+ a second", shown), shown
        assert "graph_jobs" in done.stdout


async def test_the_command_exits_1_where_a_row_cannot_be_read(
    graphjobs: Command, graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """And says where it is."""
    await _damage(graphjobs_storage, graphjobs_database_url)
    done = graphjobs("export", str(tmp_path), "--json", url=graphjobs_database_url)
    assert 1 == done.returncode
    assert f"graphjobs: 8 rows that could not be read are in {tmp_path}/unreadable.json" in done.stderr
    assert dict.fromkeys(COLLECTIONS, 2) == {each["table"]: each["unreadable"] for each in _records(done)}


async def test_the_command_refuses_what_is_there(
    graphjobs: Command, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """In one sentence."""
    (tmp_path / "graph_jobs.json").write_text("mine")
    done = graphjobs("export", str(tmp_path), url=graphjobs_database_url)
    assert (3, "") == (done.returncode, done.stdout)
    assert f"graphjobs: {tmp_path}/graph_jobs.json is there already" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_the_files_are_on_the_disk_before_they_have_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that stops leaves whole files, or parts that are told apart."""
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
    files = exports._Files(tmp_path)
    files.open()
    files.publish()
    assert ["sync"] * 4 + ["name"] * 4 + ["sync"] == done
