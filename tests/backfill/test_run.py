"""Backfills: documents have the outcome of the generator, changes of services stay, and runs are idempotent."""

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

import pytest
from bson import ObjectId

from graphjobs import GraphJobStatus, open_storage
from graphjobs.backfill import batches, runner
from graphjobs.backfill.extract.records import ReadOffset, SourcePart, SourceRecord
from graphjobs.backfill.extract.sources import Source, open_source
from graphjobs.backfill.parallel_mapping import open_parallel
from graphjobs.backfill.runner import BackfillReport, run_backfill
from graphjobs.errors import ConfigurationError, DatabaseUnavailable
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.backfill import dumps
from tests.backfill.documents import AT, ID, JOB_ID, LATER, build, event, overlay
from tests.backfill.documents import run as policy_run
from tests.backfill.dumps import Defect, GeneratedDocument
from tests.backfill.tables import (
    DOCUMENTS_READ,
    backfill_path,
    imported_of,
    pending_entries,
    rejected_of,
    rows_of,
    state,
    verify_path,
    write_dumps,
)
from tests.migrations.cli_tools import ask


@pytest.fixture(scope="module")
def generated() -> list[GeneratedDocument]:
    """Return documents of every kind, clean and dirty, including duplicates and orphans."""
    return dumps.generate(3_000, 11, dirty=8)


@pytest.mark.parametrize("form", ["bson", "jsonl.gz"])
async def test_each_document_has_the_outcome_of_the_generator(
    generated: list[GeneratedDocument], storage: Storage, url: str, tmp_path: Path, form: str
) -> None:
    """Valid documents are imported with their values. Others have one entry each, with the invalid field."""
    dumps.write_files(tmp_path, generated, form)
    report = await backfill_path(storage, tmp_path)
    imported = imported_of(generated)
    assert (len(generated), len(imported), len(generated) - len(imported)) == (
        report.counts.documents,
        report.counts.added,
        report.counts.quarantined,
    )
    rows = {UUID(row["id"]): row for row in rows_of(url, "graph_jobs")}
    jobs = [document for document in imported if document.collection == dumps.JOBS]
    assert len(jobs) == len(rows)
    for document in jobs:
        if document.id is not None:
            row = rows[document.id]
            assert (document.tenant, document.fields["status"]) == (row["tenant_id"], row["payload"]["status"])
            assert document.fields["createdAt"] == datetime.fromisoformat(row["created_at"])
    entries = pending_entries(url)
    rejected = rejected_of(generated)
    assert len(rejected) == len(entries) == sum(report.pending.values())
    fields = Counter(row["field"] for row in entries)
    assert fields["jobId"] == sum(Defect.ORPHAN in document.causes for document in rejected)
    assert fields["_id"] == sum(
        {Defect.DUPLICATE_ID, Defect.EQUIVALENT_ID} >= set(document.causes) for document in rejected
    )
    assert fields["tenantId"] == sum(Defect.NO_TENANT in document.causes for document in rejected)


async def test_a_second_run_changes_nothing(
    generated: list[GeneratedDocument], storage: Storage, url: str, tmp_path: Path
) -> None:
    """No row, version or entry of the quarantine; and the verification finds no difference."""
    dumps.write_files(tmp_path, generated)
    first = await backfill_path(storage, tmp_path)
    before = state(url)
    second = await backfill_path(storage, tmp_path)
    assert before == state(url)
    assert (0, 0, first.counts.added) == (second.counts.added, second.counts.overwritten, second.counts.unchanged)
    assert (first.counts.quarantined, first.pending) == (second.counts.quarantined, second.pending)
    comparison = await verify_path(storage, tmp_path)
    assert comparison.ok
    assert not comparison.differences
    assert all(source == here for _, source, here in comparison.groups)
    assert (len(generated), first.counts.quarantined) == (comparison.documents, comparison.pending)


@pytest.mark.parametrize("kind", [build, overlay])
async def test_changes_of_services_are_never_overwritten(storage: Storage, url: str, tmp_path: Path, kind: Any) -> None:
    """Of a job that was claimed and one that ended: an earlier copy changes neither, nor their events."""
    documents = [kind(_id=ID, updatedAt=AT), kind(_id=JOB_ID, updatedAt=AT, createdAt=LATER)]
    await backfill_path(storage, write_dumps(tmp_path, graph_jobs=documents))
    jobs = (await storage.graph_jobs.get_jobs("acme")).jobs
    for job in jobs:
        result = await storage.graph_jobs.update(job.start(at=datetime.now(UTC)), expected=GraphJobStatus.QUEUED)
        assert result
    started = await storage.graph_jobs.get_job("acme", UUID(ID))
    assert started is not None
    await storage.graph_jobs.update(started.fail(at=datetime.now(UTC), error="no"), expected=GraphJobStatus.RUNNING)
    before = state(url)
    report = await backfill_path(storage, tmp_path)
    assert before == state(url)
    assert (2, 0) == (report.counts.target_ahead, sum(report.pending.values()))
    comparison = await verify_path(storage, tmp_path)
    assert comparison.ok
    assert {"target ahead": 2} == {str(difference): number for difference, number in comparison.differences.items()}


async def test_a_newer_copy_overwrites_an_unchanged_row(storage: Storage, url: str, tmp_path: Path) -> None:
    """So a backfill can follow a scheduler that still runs. The older copy then changes nothing."""
    old = write_dumps(tmp_path / "old", graph_jobs=[build(updatedAt=AT)], policy_runs=[policy_run()])
    newer_job = build(updatedAt=LATER, status="completed", attempts=1, startedAt=AT, completedAt=LATER)
    newer_run = policy_run(updatedAt=LATER, status="submitted", attempts=1, lastAttemptAt=LATER, submittedAt=LATER)
    new = write_dumps(tmp_path / "new", graph_jobs=[newer_job], policy_runs=[newer_run])
    await backfill_path(storage, old)
    report = await backfill_path(storage, new)
    assert 2 == report.counts.overwritten
    (job,), (run,) = (rows_of(url, name) for name in ("graph_jobs", "policy_runs"))
    assert (2, "completed", LATER) == (
        job["status"],
        job["payload"]["status"],
        datetime.fromisoformat(job["updated_at"]),
    )
    assert (2, 1) == (run["status"], run["attempts"])
    before = state(url)
    again = await backfill_path(storage, old)
    assert (2, before) == (again.counts.target_ahead, state(url))


@pytest.mark.parametrize(
    ("here", "copy", "field"),
    [
        ({"status": "canceled", "completedAt": AT}, {"correlationId": "another"}, "status"),
        ({"status": "running", "attempts": 3, "startedAt": AT}, {"attempts": 1}, "status"),
        ({}, {"tenantId": "another"}, "_id"),
        ({}, {"createdAt": LATER}, "_id"),
        ({}, {"kind": "overlay"}, "_id"),
    ],
    ids=["ended in PostgreSQL", "more attempts in PostgreSQL", "another tenant", "another time", "another kind"],
)
async def test_a_document_that_contradicts_its_row_is_rejected(
    storage: Storage, url: str, tmp_path: Path, here: dict[str, Any], copy: dict[str, Any], field: str
) -> None:
    """Neither is known to be right, so both are kept."""
    await backfill_path(storage, write_dumps(tmp_path / "old", graph_jobs=[build(updatedAt=AT, **here)]))
    before = rows_of(url, "graph_jobs")
    other = overlay(updatedAt=LATER) if copy.get("kind") else build(**{"updatedAt": LATER, **copy})
    report = await backfill_path(storage, write_dumps(tmp_path / "new", graph_jobs=[other]))
    assert before == rows_of(url, "graph_jobs")
    (entry,) = pending_entries(url)
    assert (1, field) == (report.counts.quarantined, entry["field"])
    assert json.loads(entry["document"])["tenantId"] == copy.get("tenantId", "acme")
    assert "acme" not in entry["reason"]


async def test_two_runs_with_one_run_id_are_not_both_imported(storage: Storage, url: str, tmp_path: Path) -> None:
    twins = [policy_run(), policy_run(_id=JOB_ID)]
    await backfill_path(storage, write_dumps(tmp_path, policy_runs=twins))
    assert [ID] == [row["id"] for row in rows_of(url, "policy_runs")]
    (entry,) = pending_entries(url)
    assert ("runId", JOB_ID) == (entry["field"], json.loads(entry["document"])["_id"])


async def test_a_fast_clock_creates_no_version_in_the_future(storage: Storage, url: str, tmp_path: Path) -> None:
    """A running job with one would never be rescued. A second run does not change the row either."""
    ahead = datetime(2999, 1, 1, tzinfo=UTC)
    document = build(status="running", attempts=1, startedAt=AT, updatedAt=ahead)
    await backfill_path(storage, write_dumps(tmp_path, graph_jobs=[document]))
    before = state(url)
    assert datetime.fromisoformat(before["graph_jobs"][0]["updated_at"]) <= datetime.now(UTC) + timedelta(minutes=1)
    report = await backfill_path(storage, tmp_path)
    assert (1, before) == (report.counts.unchanged, state(url))


async def test_events_are_imported_in_order_and_once(storage: Storage, url: str, tmp_path: Path) -> None:
    """Also equal events in one batch. Later events have higher numbers."""
    log = [
        event(_id=ObjectId(bytes([number]) * 12), jobId=ID, payload={"step": number}, createdAt=AT)
        for number in range(5)
    ]
    folder = write_dumps(tmp_path, graph_jobs=[build(_id=ID)], graph_job_events=[*log, log[2]])
    report = await backfill_path(storage, folder)
    assert (6, 1) == (report.counts.added, report.counts.unchanged)
    events = await storage.graph_jobs.events("acme", UUID(ID))
    assert list(range(5)) == [number.payload["step"] for number in events]


async def test_events_keep_their_numbers(storage: Storage, url: str, tmp_path: Path) -> None:
    """Numbers of an export; later events have higher ones. An event with the number of another one is rejected."""
    log = [event(_id=number, jobId=ID, payload={"step": number}) for number in (70, 900)]
    await backfill_path(storage, write_dumps(tmp_path, graph_jobs=[build(_id=ID)], graph_job_events=log))
    job = await storage.graph_jobs.get_job("acme", UUID(ID))
    assert job is not None
    await storage.graph_jobs.update(job.start(at=LATER), expected=GraphJobStatus.QUEUED)
    assert [70, 900, 901] == [row["id"] for row in rows_of(url, "graph_job_events")]
    again = [*log, event(_id=901, jobId=ID, payload={"step": 901})]
    report = await backfill_path(storage, write_dumps(tmp_path / "two", graph_job_events=again))
    assert (2, 1) == (report.counts.unchanged, report.counts.quarantined)
    assert 3 == len(rows_of(url, "graph_job_events"))


async def test_of_two_documents_with_one_id_the_invalid_one_stays_pending(
    storage: Storage, url: str, tmp_path: Path
) -> None:
    """The second is imported, and does not resolve the first, also when both are read again."""
    folder = write_dumps(tmp_path, graph_jobs=[build(status="sleeping"), build()])
    for _ in range(2):
        report = await backfill_path(storage, folder)
        assert 1 == len(rows_of(url, "graph_jobs"))
        assert {"graph_jobs": 1} == report.pending
        assert 0 == report.counts.resolved


async def test_two_events_with_one_number_are_not_both_imported(storage: Storage, url: str, tmp_path: Path) -> None:
    """Also within a batch: the second is rejected, in the first run and in the next."""
    twins = [event(_id=ObjectId(), id=7, jobId=ID, payload={"n": number}) for number in (1, 2)]
    folder = write_dumps(tmp_path, graph_jobs=[build()], graph_job_events=twins)
    report = await backfill_path(storage, folder)
    assert (2, 1) == (report.counts.added, report.counts.quarantined)
    before = state(url)
    await backfill_path(storage, folder)
    assert before == state(url)


@pytest.mark.parametrize("together", [True, False], ids=["in one dump", "in two"])
@pytest.mark.parametrize("second", ["queued", "snoring"], ids=["valid", "invalid"])
async def test_documents_of_two_tenants_with_one_id_are_separate(
    storage: Storage, url: str, tmp_path: Path, together: bool, second: str
) -> None:
    """Databases of several tenants may have the same text: neither resolves or supersedes the other."""
    one, other = build(_id="job-1", tenantId="a", status="sleeping"), build(_id="job-1", tenantId="b", status=second)
    dumps_of = [[one, other]] if together else [[one], [other]]
    for number, documents in enumerate(dumps_of):
        report = await backfill_path(storage, write_dumps(tmp_path / str(number), graph_jobs=documents))
    assert 0 == report.counts.resolved
    pending = [json.loads(entry["document"])["tenantId"] for entry in pending_entries(url)]
    imported = [row["tenant_id"] for row in rows_of(url, "graph_jobs")]
    assert ["a", "b"] == sorted(pending + imported)


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
    ids=["canceled", "completed", "started"],
)
async def test_copies_without_a_version_are_compared_by_progress(
    storage: Storage, url: str, tmp_path: Path, here: dict[str, Any], there: dict[str, Any]
) -> None:
    """A job that was canceled in MongoDB must not run again. The older copy then changes nothing."""
    old, new = write_dumps(tmp_path / "old", graph_jobs=[here]), write_dumps(tmp_path / "new", graph_jobs=[there])
    await backfill_path(storage, old)
    assert not (await verify_path(storage, new)).ok
    report = await backfill_path(storage, new)
    assert 1 == report.counts.overwritten
    (row,) = rows_of(url, "graph_jobs")
    assert there["status"] == row["payload"]["status"]
    before = rows_of(url, "graph_jobs")
    await backfill_path(storage, old)
    assert before == rows_of(url, "graph_jobs")


@pytest.mark.parametrize("ahead", [True, False], ids=["the same copy of a fast clock", "a newer copy"])
async def test_a_change_of_a_service_is_kept_for_any_version_of_a_copy(
    storage: Storage, url: str, tmp_path: Path, ahead: bool
) -> None:
    """A run keeps its cancellation request: a newer copy is rejected, and the same one changes nothing."""
    future = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    submitted = policy_run(status="submitted", attempts=1, submittedAt=AT, lastAttemptAt=AT)
    first = {**submitted, "updatedAt": future if ahead else LATER}
    await backfill_path(storage, write_dumps(tmp_path / "old", policy_runs=[first]))
    (value,) = (await storage.policy_runs.list("acme")).runs
    await storage.policy_runs.replace(
        value.request_cancellation(at=datetime.now(UTC), reason="stop"), expected_lease_owner=None
    )
    before = rows_of(url, "policy_runs")
    assert before[0]["cancellation_requested_at"]
    again = first if ahead else {**first, "updatedAt": future}
    await backfill_path(storage, write_dumps(tmp_path / "new", policy_runs=[again]))
    assert before == rows_of(url, "policy_runs")
    assert 1 == len(pending_entries(url))


async def test_a_replaced_file_is_not_resumed(storage: Storage, tmp_path: Path) -> None:
    """The checkpoint is not valid for the new file."""
    folder = write_dumps(tmp_path, graph_jobs=[build(_id=f"job-{number:05}") for number in range(10)])
    async with open_source(str(folder)) as source:
        write_dumps(tmp_path, graph_jobs=[build(_id=f"other-{number:05}") for number in range(20)])
        with pytest.raises(ConfigurationError, match="has changed while it was read"):
            await run_backfill(storage, source)
    assert 20 == (await backfill_path(storage, folder)).counts.added


@pytest.mark.parametrize("open_location", [open_source, open_parallel])
@pytest.mark.parametrize("factor", [0.5, 1.5])
async def test_a_file_that_is_overwritten_while_it_is_read_is_not_finished(
    storage: Storage, tmp_path: Path, open_location: Any, factor: float
) -> None:
    """It may end between two documents, for instance when an export starts again. The next run starts again, too."""
    documents = [build(_id=f"job-{number:05}", note="x" * 500) for number in range(6_000)]
    folder = write_dumps(tmp_path, graph_jobs=documents)
    path = folder / "graph_jobs.bson"
    content = path.read_bytes()
    async with open_location(str(folder)) as source:

        def on_progress(report: BackfillReport, _part: SourcePart) -> None:
            if report.counts.documents and path.stat().st_size == len(content):
                (os.truncate if factor < 1 else _lengthen)(path, int(len(content) * factor))

        with pytest.raises(ConfigurationError, match="has changed while it was read: begin again"):
            await run_backfill(storage, source, on_progress=on_progress)
    path.write_bytes(content)
    report = await backfill_path(storage, folder)
    assert len(documents) == report.counts.added + report.counts.unchanged


def _lengthen(path: Path, size: int) -> None:
    content = path.read_bytes()
    with path.open("ab") as file:
        file.write(content[: size - len(content)])


async def test_verification_of_duplicates_finds_no_difference(storage: Storage, tmp_path: Path) -> None:
    """The imported document equals its row, and the rejected one is not a copy of it, in either order."""
    folder = write_dumps(tmp_path / "old", graph_jobs=[build()])
    await backfill_path(storage, folder)
    twins = write_dumps(tmp_path / "new", graph_jobs=[build(tenantId="other"), build()])
    await backfill_path(storage, twins)
    comparison = await verify_path(storage, twins)
    assert (True, 1, {}) == (comparison.ok, comparison.pending, dict(comparison.differences))
    assert [] == [group for group, source, target in comparison.groups if source != target]


async def test_verification_reports_invalid_codes(storage: Storage, url: str, tmp_path: Path) -> None:
    """A row that was written by hand does not end the verification."""
    folder = write_dumps(tmp_path, graph_jobs=[build()])
    await backfill_path(storage, folder)
    ask(url, "UPDATE scheduler.graph_jobs SET status = 99, type = 7")
    comparison = await verify_path(storage, folder)
    assert not comparison.ok
    assert ("type 7", "status 99") in {(group.kind, group.status) for group, _, _ in comparison.groups}


class _FailingSource:
    """A source that fails now and then, as a server does."""

    def __init__(self, source: Source, every: int) -> None:
        self.name, self.parts = source.name, source.parts
        self._source, self._every, self._records = source, every, 0

    async def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        async with contextlib.aclosing(self._source.read(part, after)) as records:
            async for record in records:
                self._records += 1
                if self._records % self._every == 0:
                    raise DatabaseUnavailable("MongoDB does not answer")
                yield record

    def bytes_read(self, part: SourcePart) -> int:
        return self._source.bytes_read(part)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set small batches and short waits."""
    monkeypatch.setattr(batches, "DOCUMENTS_MAX", 50)
    monkeypatch.setattr(runner, "_WAIT_SECONDS", 0.01)


@pytest.mark.usefixtures("small")
async def test_an_unavailable_source_is_retried(
    generated: list[GeneratedDocument], storage: Storage, tmp_path: Path
) -> None:
    """From the checkpoint on, while there is progress in between; in the end all is imported."""
    dumps.write_files(tmp_path, generated)
    async with open_source(str(tmp_path)) as source:
        report = await run_backfill(storage, _FailingSource(source, 333))
    assert len(generated) == report.counts.documents
    assert (await verify_path(storage, tmp_path)).ok


@pytest.mark.usefixtures("small")
async def test_a_source_that_stays_unavailable_is_one_sentence(storage: Storage, tmp_path: Path) -> None:
    """It says that written batches stay, and how to resume."""
    with pytest.raises(DatabaseUnavailable, match="run it again to resume"):
        async with open_source(str(write_dumps(tmp_path, graph_jobs=[build()]))) as source:
            await run_backfill(storage, _FailingSource(source, 1))


@pytest.mark.usefixtures("small")
async def test_lost_connections_lose_no_document(
    generated: list[GeneratedDocument], graphjobs_settings: Settings, url: str, tmp_path: Path
) -> None:
    """Also the answer to a COMMIT: the checkpoint says which batches were written."""
    dumps.write_files(tmp_path, generated)
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'graphjobs'"
    )
    async with open_storage(graphjobs_settings) as storage:
        backfill = asyncio.create_task(backfill_path(storage, tmp_path))
        killed, in_a_row, read = 0, 0, 0
        random = Random(5)  # noqa: S311  # moments
        while not backfill.done() and killed < 12:
            await asyncio.sleep(random.uniform(0.01, 0.12))
            now = int(await asyncio.to_thread(ask, url, DOCUMENTS_READ))
            read, in_a_row = max(read, now), 0 if now > read else in_a_row
            # A backfill fails after six errors without a batch in between, however slow the machine is.
            if in_a_row < 3 and int(await asyncio.to_thread(ask, url, kill)):
                killed, in_a_row = killed + 1, in_a_row + 1
        report = await asyncio.wait_for(backfill, 60)
        assert killed >= 3
        assert len(generated) == report.counts.documents
        assert len(rejected_of(generated)) == sum(report.pending.values())
        comparison = await verify_path(storage, tmp_path)
    assert not comparison.differences


@pytest.mark.usefixtures("small")
async def test_a_backfill_cancelled_at_any_moment_resumes(
    generated: list[GeneratedDocument], storage: Storage, url: str, tmp_path: Path
) -> None:
    """No batch is half written, no connection stays checked out, and the next run resumes."""
    dumps.write_files(tmp_path, generated)
    random = Random(3)  # noqa: S311  # moments
    cancelled, read = 0, 0
    while True:
        backfill = asyncio.create_task(backfill_path(storage, tmp_path))
        done, _ = await asyncio.wait({backfill}, timeout=random.uniform(0.02, 0.35) + cancelled * 0.01)
        if done:
            break
        backfill.cancel()
        with pytest.raises(asyncio.CancelledError):
            await backfill
        cancelled += 1
        now = int(ask(url, DOCUMENTS_READ))
        assert now >= read
        read = now
    assert cancelled >= 3
    assert len(generated) == backfill.result().counts.documents
    assert not (await verify_path(storage, tmp_path)).differences


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("forms", [("bson", "bson"), ("bson", "jsonl")], ids=["one source", "two sources"])
async def test_two_concurrent_backfills_both_succeed(
    generated: list[GeneratedDocument], storage: Storage, url: str, tmp_path: Path, forms: tuple[str, str]
) -> None:
    """They take turns, and no event is imported twice, also without an id."""
    for form in set(forms):
        dumps.write_files(tmp_path / form, generated, form)
    first, second = await asyncio.wait_for(
        asyncio.gather(*(backfill_path(storage, tmp_path / form) for form in forms)), 60
    )
    events = [document for document in imported_of(generated) if document.collection == dumps.EVENTS]
    assert len(events) == len(rows_of(url, "graph_job_events"))
    assert len(generated) == first.counts.documents == second.counts.documents
    assert not (await verify_path(storage, tmp_path / "bson")).differences
    rejected = len(rejected_of(generated))
    number = len(pending_entries(url))
    # Of two duplicates, either may be rejected; and one document has an entry for each file format.
    assert rejected == number or (forms[0] != forms[1] and rejected < number < rejected + 50)


@pytest.mark.usefixtures("small")
async def test_services_may_write_meanwhile(
    generated: list[GeneratedDocument], storage: Storage, url: str, tmp_path: Path
) -> None:
    """A backfill does not undo their changes, and keeps their events; no other document is missing."""
    dumps.write_files(tmp_path, generated)
    stop = asyncio.Event()
    ended: list[UUID] = []

    async def service() -> None:
        while not stop.is_set():
            claimed = await storage.graph_job_queue.claim(f"tenant-{len(ended) % 5}", "build", limit=3)
            for job in claimed.jobs:
                assert await storage.graph_jobs.update(
                    job.fail(at=datetime.now(UTC), error="by the service"), expected=GraphJobStatus.RUNNING
                )
                ended.append(job.id)
            await asyncio.sleep(0.005)

    working = asyncio.create_task(service())
    reports: list[BackfillReport] = [await asyncio.wait_for(backfill_path(storage, tmp_path), 60) for _ in range(2)]
    stop.set()
    await working
    assert len(ended) > 10
    rows = {row["id"]: row for row in rows_of(url, "graph_jobs")}
    assert all("by the service" == rows[str(job_id)]["payload"].get("error") for job_id in ended)
    assert len(rejected_of(generated)) == sum(reports[-1].pending.values())
    comparison = await verify_path(storage, tmp_path)
    assert comparison.ok
    assert {str(sample.id) for sample in comparison.samples if sample.difference == "target ahead"} == {
        str(job_id) for job_id in ended
    }
