"""The move: each document comes as the generator says, what moved on here stays, and a second run changes nothing."""

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import bson
import pytest
from bson import ObjectId

from graphjobs import GraphJobStatus, open_storage
from graphjobs.backfill import batches, runner
from graphjobs.backfill.extract.records import ReadOffset, SourcePart, SourceRecord
from graphjobs.backfill.extract.sources import Source, open_source
from graphjobs.backfill.parallel_mapping import open_apart
from graphjobs.backfill.runner import Report, run_backfill
from graphjobs.errors import ConfigurationError, DatabaseUnavailable
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.backfill import dumps
from tests.backfill.documents import AT, ID, JOB_ID, LATER, build, event, overlay
from tests.backfill.documents import run as policy_run
from tests.backfill.dumps import Defect, GeneratedDocument, Outcome
from tests.backfill.tables import backfilled, compared, rows_of, state, waiting
from tests.migrations.cli_tools import ask


@pytest.fixture(scope="module")
def made() -> list[GeneratedDocument]:
    """Documents of every kind, clean and dirty, twins and orphans among them."""
    return dumps.generate(3_000, 11, dirty=8)


def _written(folder: Path, collection: str = dumps.JOBS, **more: list[dict[str, Any]]) -> Path:
    """Writes documents to files of BSON: `graph_jobs=[...]`."""
    folder.mkdir(exist_ok=True)
    for name, documents in more.items():
        (folder / f"{name}.bson").write_bytes(b"".join(bson.encode(each) for each in documents))
    return folder


@pytest.mark.parametrize("form", ["bson", "jsonl.gz"])
async def test_each_document_comes_or_waits_as_the_generator_says(
    made: list[GeneratedDocument], graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path, form: str
) -> None:
    """Each that can comes with what it held; each that cannot waits whole, once, with its field."""
    dumps.write_files(tmp_path, made, form)
    report = await backfilled(graphjobs_storage, tmp_path)
    come = [each for each in made if each.outcome is not Outcome.REJECTED]
    assert (len(made), len(come), len(made) - len(come)) == (
        report.counts.documents,
        report.counts.added,
        report.counts.quarantined,
    )
    rows = {UUID(row["id"]): row for row in rows_of(graphjobs_database_url, "graph_jobs")}
    jobs = [each for each in come if each.collection == dumps.JOBS]
    assert len(jobs) == len(rows)
    for each in jobs:
        if each.id is not None:
            row = rows[each.id]
            assert (each.tenant, each.fields["status"]) == (row["tenant_id"], row["payload"]["status"])
            assert each.fields["createdAt"] == datetime.fromisoformat(row["created_at"])
    entries = waiting(graphjobs_database_url)
    refused = [each for each in made if each.outcome is Outcome.REJECTED]
    assert len(refused) == len(entries) == sum(report.waiting.values())
    fields = Counter(row["field"] for row in entries)
    assert fields["jobId"] == sum(Defect.ORPHAN in each.causes for each in refused)
    assert fields["_id"] == sum({Defect.DUPLICATE_ID, Defect.EQUIVALENT_ID} >= set(each.causes) for each in refused)
    assert fields["tenantId"] == sum(Defect.NO_TENANT in each.causes for each in refused)


async def test_a_second_run_changes_nothing(
    made: list[GeneratedDocument], graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Not a row, not a version, not an entry of the quarantine; and the comparison finds all where it should be."""
    dumps.write_files(tmp_path, made)
    first = await backfilled(graphjobs_storage, tmp_path)
    before = state(graphjobs_database_url)
    second = await backfilled(graphjobs_storage, tmp_path)
    assert before == state(graphjobs_database_url)
    assert (0, 0, first.counts.added) == (second.counts.added, second.counts.renewed, second.counts.unchanged)
    assert (first.counts.quarantined, first.waiting) == (second.counts.quarantined, second.waiting)
    comparison = await compared(graphjobs_storage, tmp_path)
    assert comparison.holds
    assert not comparison.differences
    assert all(source == here for _, source, here in comparison.groups)
    assert (len(made), first.counts.quarantined) == (comparison.documents, comparison.waiting)


@pytest.mark.parametrize("kind", [build, overlay])
async def test_what_moved_on_here_is_never_overwritten(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path, kind: Any
) -> None:
    """A job that was claimed, and one that has ended: the copy of before changes neither, nor their logs."""
    documents = [kind(_id=ID, updatedAt=AT), kind(_id=JOB_ID, updatedAt=AT, createdAt=LATER)]
    await backfilled(graphjobs_storage, _written(tmp_path, graph_jobs=documents))
    jobs = (await graphjobs_storage.graph_jobs.get_jobs("acme")).jobs
    for job in jobs:
        result = await graphjobs_storage.graph_jobs.update(
            job.start(at=datetime.now(UTC)), expected=GraphJobStatus.QUEUED
        )
        assert result
    started = await graphjobs_storage.graph_jobs.get_job("acme", UUID(ID))
    assert started is not None
    await graphjobs_storage.graph_jobs.update(
        started.fail(at=datetime.now(UTC), error="no"), expected=GraphJobStatus.RUNNING
    )
    before = state(graphjobs_database_url)
    report = await backfilled(graphjobs_storage, tmp_path)
    assert before == state(graphjobs_database_url)
    assert (2, 0) == (report.counts.moved_on, sum(report.waiting.values()))
    comparison = await compared(graphjobs_storage, tmp_path)
    assert comparison.holds
    assert {"moved on here": 2} == {str(each): number for each, number in comparison.differences.items()}


async def test_a_copy_that_went_on_in_mongodb_takes_the_place_of_one_that_did_not_move(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """So a backfill can catch up with a scheduler that still runs; the older copy then changes nothing."""
    old = _written(tmp_path / "old", graph_jobs=[build(updatedAt=AT)], policy_runs=[policy_run()])
    went_on = build(updatedAt=LATER, status="completed", attempts=1, startedAt=AT, completedAt=LATER)
    ran = policy_run(updatedAt=LATER, status="submitted", attempts=1, lastAttemptAt=LATER, submittedAt=LATER)
    new = _written(tmp_path / "new", graph_jobs=[went_on], policy_runs=[ran])
    await backfilled(graphjobs_storage, old)
    report = await backfilled(graphjobs_storage, new)
    assert 2 == report.counts.renewed
    (job,), (of_policy,) = (rows_of(graphjobs_database_url, name) for name in ("graph_jobs", "policy_runs"))
    assert (2, "completed", LATER) == (
        job["status"],
        job["payload"]["status"],
        datetime.fromisoformat(job["updated_at"]),
    )
    assert (2, 1) == (of_policy["status"], of_policy["attempts"])
    before = state(graphjobs_database_url)
    again = await backfilled(graphjobs_storage, old)
    assert (2, before) == (again.counts.moved_on, state(graphjobs_database_url))


@pytest.mark.parametrize(
    ("here", "copy", "field"),
    [
        ({"status": "canceled", "completedAt": AT}, {"correlationId": "another"}, "status"),
        ({"status": "running", "attempts": 3, "startedAt": AT}, {"attempts": 1}, "status"),
        ({}, {"tenantId": "another"}, "_id"),
        ({}, {"createdAt": LATER}, "_id"),
        ({}, {"kind": "overlay"}, "_id"),
    ],
    ids=["ended here", "tried oftener here", "another tenant's", "another moment", "another kind"],
)
async def test_what_contradicts_the_row_waits(
    graphjobs_storage: Storage,
    graphjobs_database_url: str,
    tmp_path: Path,
    here: dict[str, Any],
    copy: dict[str, Any],
    field: str,
) -> None:
    """Nobody knows which of the two holds, so neither is lost."""
    await backfilled(graphjobs_storage, _written(tmp_path / "old", graph_jobs=[build(updatedAt=AT, **here)]))
    before = rows_of(graphjobs_database_url, "graph_jobs")
    other = overlay(updatedAt=LATER) if copy.get("kind") else build(**{"updatedAt": LATER, **copy})
    report = await backfilled(graphjobs_storage, _written(tmp_path / "new", graph_jobs=[other]))
    assert before == rows_of(graphjobs_database_url, "graph_jobs")
    (entry,) = waiting(graphjobs_database_url)
    assert (1, field) == (report.counts.quarantined, entry["field"])
    assert json.loads(entry["document"])["tenantId"] == copy.get("tenantId", "acme")
    assert "acme" not in entry["reason"]


async def test_two_runs_of_one_name_do_not_both_come(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """The name is the asker's own, and unique."""
    twins = [policy_run(), policy_run(_id=JOB_ID)]
    await backfilled(graphjobs_storage, _written(tmp_path, policy_runs=twins))
    assert [ID] == [row["id"] for row in rows_of(graphjobs_database_url, "policy_runs")]
    (entry,) = waiting(graphjobs_database_url)
    assert ("runId", JOB_ID) == (entry["field"], json.loads(entry["document"])["_id"])


async def test_a_clock_that_is_ahead_makes_no_version_of_the_future(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """A running job with one would never be rescued; nor is it touched when it comes again."""
    ahead = datetime(2999, 1, 1, tzinfo=UTC)
    document = build(status="running", attempts=1, startedAt=AT, updatedAt=ahead)
    await backfilled(graphjobs_storage, _written(tmp_path, graph_jobs=[document]))
    before = state(graphjobs_database_url)
    assert datetime.fromisoformat(before["graph_jobs"][0]["updated_at"]) <= datetime.now(UTC) + timedelta(minutes=1)
    report = await backfilled(graphjobs_storage, tmp_path)
    assert (1, before) == (report.counts.unchanged, state(graphjobs_database_url))


async def test_events_come_in_their_order_and_each_once(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Also the very same one twice in a batch; and what the log is given later is numbered after them."""
    log = [
        event(_id=ObjectId(bytes([number]) * 12), jobId=ID, payload={"step": number}, createdAt=AT)
        for number in range(5)
    ]
    folder = _written(tmp_path, graph_jobs=[build(_id=ID)], graph_job_events=[*log, log[2]])
    report = await backfilled(graphjobs_storage, folder)
    assert (6, 1) == (report.counts.added, report.counts.unchanged)
    events = await graphjobs_storage.graph_jobs.events("acme", UUID(ID))
    assert list(range(5)) == [each.payload["step"] for each in events]


async def test_events_keep_their_numbers_and_later_ones_come_after(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Numbers of an export; one that is taken by another event waits."""
    log = [event(_id=number, jobId=ID, payload={"step": number}) for number in (70, 900)]
    await backfilled(graphjobs_storage, _written(tmp_path, graph_jobs=[build(_id=ID)], graph_job_events=log))
    job = await graphjobs_storage.graph_jobs.get_job("acme", UUID(ID))
    assert job is not None
    await graphjobs_storage.graph_jobs.update(job.start(at=LATER), expected=GraphJobStatus.QUEUED)
    assert [70, 900, 901] == [row["id"] for row in rows_of(graphjobs_database_url, "graph_job_events")]
    again = [*log, event(_id=901, jobId=ID, payload={"step": 901})]
    report = await backfilled(graphjobs_storage, _written(tmp_path / "two", graph_job_events=again))
    assert (2, 1) == (report.counts.unchanged, report.counts.quarantined)
    assert 3 == len(rows_of(graphjobs_database_url, "graph_job_events"))


async def test_two_of_one_id_where_the_first_cannot_come_are_both_kept(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """The second comes, and is no answer to the first, neither now nor when it is read again."""
    folder = _written(tmp_path, graph_jobs=[build(status="sleeping"), build()])
    for _ in range(2):
        report = await backfilled(graphjobs_storage, folder)
        assert 1 == len(rows_of(graphjobs_database_url, "graph_jobs"))
        assert {"graph_jobs": 1} == report.waiting
        assert 0 == report.counts.answered


async def test_two_events_of_one_number_do_not_both_come(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Also within a batch: the second one waits, in the first run and in the next."""
    twins = [event(_id=ObjectId(), id=7, jobId=ID, payload={"n": number}) for number in (1, 2)]
    folder = _written(tmp_path, graph_jobs=[build()], graph_job_events=twins)
    report = await backfilled(graphjobs_storage, folder)
    assert (2, 1) == (report.counts.added, report.counts.quarantined)
    before = state(graphjobs_database_url)
    await backfilled(graphjobs_storage, folder)
    assert before == state(graphjobs_database_url)


@pytest.mark.parametrize("together", [True, False], ids=["in one dump", "in two"])
@pytest.mark.parametrize("second", ["queued", "snoring"], ids=["that comes", "that cannot come"])
async def test_documents_of_two_tenants_under_one_id_are_two(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path, together: bool, second: str
) -> None:
    """Databases of several tenants may give the same text: none answers the other, and none takes its place."""
    one, other = build(_id="job-1", tenantId="a", status="sleeping"), build(_id="job-1", tenantId="b", status=second)
    dumps_of = [[one, other]] if together else [[one], [other]]
    for number, documents in enumerate(dumps_of):
        report = await backfilled(graphjobs_storage, _written(tmp_path / str(number), graph_jobs=documents))
    assert 0 == report.counts.answered
    kept = [json.loads(entry["document"])["tenantId"] for entry in waiting(graphjobs_database_url)]
    come = [row["tenant_id"] for row in rows_of(graphjobs_database_url, "graph_jobs")]
    assert ["a", "b"] == sorted(kept + come)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (build(), build(status="canceled")),
        (
            overlay(status="running", attempts=1, startedAt=LATER),
            overlay(status="completed", attempts=1, startedAt=LATER),
        ),
        (build(), build(status="running", attempts=1)),
    ],
    ids=["canceled", "completed", "begun"],
)
async def test_a_copy_without_a_version_tells_by_how_far_it_came(
    graphjobs_storage: Storage,
    graphjobs_database_url: str,
    tmp_path: Path,
    here: dict[str, Any],
    there: dict[str, Any],
) -> None:
    """Else a job that was canceled in MongoDB would run here; and the older copy changes nothing afterwards."""
    old, new = _written(tmp_path / "old", graph_jobs=[here]), _written(tmp_path / "new", graph_jobs=[there])
    await backfilled(graphjobs_storage, old)
    assert not (await compared(graphjobs_storage, new)).holds
    report = await backfilled(graphjobs_storage, new)
    assert 1 == report.counts.renewed
    (row,) = rows_of(graphjobs_database_url, "graph_jobs")
    assert there["status"] == row["payload"]["status"]
    before = rows_of(graphjobs_database_url, "graph_jobs")
    await backfilled(graphjobs_storage, old)
    assert before == rows_of(graphjobs_database_url, "graph_jobs")


@pytest.mark.parametrize("ahead", [True, False], ids=["the same copy, of a clock that is ahead", "a newer copy"])
async def test_what_moved_here_is_not_undone_by_a_copy_of_any_version(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path, ahead: bool
) -> None:
    """A run whose end was asked for here keeps that; a newer copy waits, and the same one changes nothing."""
    future = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    submitted = policy_run(status="submitted", attempts=1, submittedAt=AT, lastAttemptAt=AT)
    first = {**submitted, "updatedAt": future if ahead else LATER}
    await backfilled(graphjobs_storage, _written(tmp_path / "old", policy_runs=[first]))
    (value,) = (await graphjobs_storage.policy_runs.list("acme")).runs
    await graphjobs_storage.policy_runs.replace(
        value.request_cancellation(at=datetime.now(UTC), reason="stop"), expected_lease_owner=None
    )
    before = rows_of(graphjobs_database_url, "policy_runs")
    assert before[0]["cancellation_requested_at"]
    again = first if ahead else {**first, "updatedAt": future}
    await backfilled(graphjobs_storage, _written(tmp_path / "new", policy_runs=[again]))
    assert before == rows_of(graphjobs_database_url, "policy_runs")
    assert 1 == len(waiting(graphjobs_database_url))


async def test_a_file_that_is_replaced_is_not_read_on(graphjobs_storage: Storage, tmp_path: Path) -> None:
    """Its position would point anywhere in the other one."""
    folder = _written(tmp_path, graph_jobs=[build(_id=f"job-{number:05}") for number in range(10)])
    async with open_source(str(folder)) as source:
        _written(tmp_path, graph_jobs=[build(_id=f"other-{number:05}") for number in range(20)])
        with pytest.raises(ConfigurationError, match="has changed while it was read"):
            await run_backfill(graphjobs_storage, source)
    assert 20 == (await backfilled(graphjobs_storage, folder)).counts.added


@pytest.mark.parametrize("opened", [open_source, open_apart])
@pytest.mark.parametrize("to", [0.5, 1.5])
async def test_a_file_that_is_written_over_while_it_is_read_is_not_told_to_be_read(
    graphjobs_storage: Storage, tmp_path: Path, opened: Any, to: float
) -> None:
    """It may end between two documents, as where an export was begun anew; the next run begins anew, too."""
    documents = [build(_id=f"job-{number:05}", note="x" * 500) for number in range(6_000)]
    folder = _written(tmp_path, graph_jobs=documents)
    path = folder / "graph_jobs.bson"
    content = path.read_bytes()
    async with opened(str(folder)) as source:

        def told(report: Report, _part: SourcePart) -> None:
            if report.counts.documents and path.stat().st_size == len(content):
                (os.truncate if to < 1 else _lengthen)(path, int(len(content) * to))

        with pytest.raises(ConfigurationError, match="has changed while it was read: begin again"):
            await run_backfill(graphjobs_storage, source, told=told)
    path.write_bytes(content)
    report = await backfilled(graphjobs_storage, folder)
    assert len(documents) == report.counts.added + report.counts.unchanged


def _lengthen(path: Path, size: int) -> None:
    content = path.read_bytes()
    with path.open("ab") as file:
        file.write(content[: size - len(content)])


async def test_a_check_of_two_that_meet_finds_all_equal(graphjobs_storage: Storage, tmp_path: Path) -> None:
    """The one that came is there, and the one that waits is no copy of it, whichever is read first."""
    folder = _written(tmp_path / "old", graph_jobs=[build()])
    await backfilled(graphjobs_storage, folder)
    twins = _written(tmp_path / "new", graph_jobs=[build(tenantId="other"), build()])
    await backfilled(graphjobs_storage, twins)
    comparison = await compared(graphjobs_storage, twins)
    assert (True, 1, {}) == (comparison.holds, comparison.waiting, dict(comparison.differences))
    assert [] == [each for each in comparison.groups if each[1] != each[2]]


async def test_a_check_names_codes_that_are_none(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """A row that was written by hand ends no check."""
    folder = _written(tmp_path, graph_jobs=[build()])
    await backfilled(graphjobs_storage, folder)
    ask(graphjobs_database_url, "UPDATE scheduler.graph_jobs SET status = 99, type = 7")
    comparison = await compared(graphjobs_storage, folder)
    assert not comparison.holds
    assert ("type 7", "status 99") in {(group.kind, group.status) for group, _, _ in comparison.groups}


class _Troubled:
    """A source that fails now and then, as a server does."""

    def __init__(self, source: Source, every: int) -> None:
        self.name, self.parts = source.name, source.parts
        self._source, self._every, self._given = source, every, 0

    async def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        async with contextlib.aclosing(self._source.read(part, after)) as entries:
            async for found in entries:
                self._given += 1
                if self._given % self._every == 0:
                    raise DatabaseUnavailable("MongoDB does not answer")
                yield found

    def bytes_read(self, part: SourcePart) -> int:
        return self._source.bytes_read(part)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches, and short waits."""
    monkeypatch.setattr(batches, "DOCUMENTS_MAX", 50)
    monkeypatch.setattr(runner, "_WAIT_SECONDS", 0.01)


@pytest.mark.usefixtures("small")
async def test_trouble_with_the_source_is_tried_again(
    made: list[GeneratedDocument], graphjobs_storage: Storage, tmp_path: Path
) -> None:
    """From the checkpoint on, as long as there is progress in between; and in the end all is there."""
    dumps.write_files(tmp_path, made)
    async with open_source(str(tmp_path)) as source:
        report = await run_backfill(graphjobs_storage, _Troubled(source, 333))
    assert len(made) == report.counts.documents
    assert (await compared(graphjobs_storage, tmp_path)).holds


@pytest.mark.usefixtures("small")
async def test_trouble_that_stays_ends_it_in_one_sentence(graphjobs_storage: Storage, tmp_path: Path) -> None:
    """It says that what was written stays, and what to do."""
    with pytest.raises(DatabaseUnavailable, match="run it again to go on"):
        async with open_source(str(_written(tmp_path, graph_jobs=[build()]))) as source:
            await run_backfill(graphjobs_storage, _Troubled(source, 1))


@pytest.mark.usefixtures("small")
async def test_lost_connections_lose_nothing(
    made: list[GeneratedDocument], graphjobs_settings: Settings, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Whatever they lose, a COMMIT's answer too, the checkpoint tells what was written."""
    dumps.write_files(tmp_path, made)
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'graphjobs'"
    )
    async with open_storage(graphjobs_settings) as storage:
        moving = asyncio.create_task(backfilled(storage, tmp_path))
        killed, in_a_row, read = 0, 0, 0
        random = Random(5)  # noqa: S311  # moments
        while not moving.done() and killed < 12:
            await asyncio.sleep(random.uniform(0.01, 0.12))
            now = int(await asyncio.to_thread(ask, graphjobs_database_url, _READ))
            read, in_a_row = max(read, now), 0 if now > read else in_a_row
            # It gives up after six times without a batch in between, however slow the machine is.
            if in_a_row < 3 and int(await asyncio.to_thread(ask, graphjobs_database_url, kill)):
                killed, in_a_row = killed + 1, in_a_row + 1
        report = await asyncio.wait_for(moving, 60)
        assert killed >= 3
        assert len(made) == report.counts.documents
        assert sum(each.outcome is Outcome.REJECTED for each in made) == sum(report.waiting.values())
        comparison = await compared(storage, tmp_path)
    assert not comparison.differences


@pytest.mark.usefixtures("small")
async def test_cancelled_at_any_moment_it_goes_on(
    made: list[GeneratedDocument], graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Nothing of a batch is left half done, no connection is out, and the next run begins where it was."""
    dumps.write_files(tmp_path, made)
    random = Random(3)  # noqa: S311  # moments
    cancelled, read = 0, 0
    while True:
        moving = asyncio.create_task(backfilled(graphjobs_storage, tmp_path))
        done, _ = await asyncio.wait({moving}, timeout=random.uniform(0.02, 0.35) + cancelled * 0.01)
        if done:
            break
        moving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await moving
        cancelled += 1
        now = int(ask(graphjobs_database_url, _READ))
        assert now >= read
        read = now
    assert cancelled >= 3
    assert len(made) == moving.result().counts.documents
    assert not (await compared(graphjobs_storage, tmp_path)).differences


_READ = "SELECT coalesce(sum((counts::json->>'documents')::int), 0) FROM scheduler.backfill_checkpoints"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("forms", [("bson", "bson"), ("bson", "jsonl")], ids=["of one source", "of two sources"])
async def test_two_at_once_both_end_well(
    made: list[GeneratedDocument],
    graphjobs_storage: Storage,
    graphjobs_database_url: str,
    tmp_path: Path,
    forms: tuple[str, str],
) -> None:
    """They take turns: nothing comes twice, events without ids neither."""
    for each in set(forms):
        dumps.write_files(tmp_path / each, made, each)
    first, second = await asyncio.wait_for(
        asyncio.gather(*(backfilled(graphjobs_storage, tmp_path / each) for each in forms)), 60
    )
    events = [each for each in made if each.collection == dumps.EVENTS and each.outcome is not Outcome.REJECTED]
    assert len(events) == len(rows_of(graphjobs_database_url, "graph_job_events"))
    assert len(made) == first.counts.documents == second.counts.documents
    assert not (await compared(graphjobs_storage, tmp_path / "bson")).differences
    refused = sum(each.outcome is Outcome.REJECTED for each in made)
    number = len(waiting(graphjobs_database_url))
    # Of two that meet, another one may wait for each source, and the same one in two forms is known by its content.
    assert refused == number or (forms[0] != forms[1] and refused < number < refused + 50)


@pytest.mark.usefixtures("small")
async def test_services_write_meanwhile(
    made: list[GeneratedDocument], graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """What they claim and end of what has come is not undone, and their logs are whole; nothing else is missing."""
    dumps.write_files(tmp_path, made)
    stop = asyncio.Event()
    ended: list[UUID] = []

    async def service() -> None:
        while not stop.is_set():
            claimed = await graphjobs_storage.graph_job_queue.claim(f"tenant-{len(ended) % 5}", "build", limit=3)
            for job in claimed.jobs:
                assert await graphjobs_storage.graph_jobs.update(
                    job.fail(at=datetime.now(UTC), error="by the service"), expected=GraphJobStatus.RUNNING
                )
                ended.append(job.id)
            await asyncio.sleep(0.005)

    working = asyncio.create_task(service())
    reports: list[Report] = [await asyncio.wait_for(backfilled(graphjobs_storage, tmp_path), 60) for _ in range(2)]
    stop.set()
    await working
    assert len(ended) > 10
    rows = {row["id"]: row for row in rows_of(graphjobs_database_url, "graph_jobs")}
    assert all("by the service" == rows[str(each)]["payload"].get("error") for each in ended)
    assert sum(each.outcome is Outcome.REJECTED for each in made) == sum(reports[-1].waiting.values())
    comparison = await compared(graphjobs_storage, tmp_path)
    assert comparison.holds
    assert {str(each.id) for each in comparison.named if each.difference == "moved on here"} == {
        str(each) for each in ended
    }
