"""Duplicates and references between documents: a dry run finds them anywhere in a source, in constant memory."""

import tempfile
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from bson import ObjectId
from bson.binary import Binary, UuidRepresentation

from graphjobs.backfill import duplicate_index as index_module
from graphjobs.backfill.dry_run import DryRunReport, dry_run
from graphjobs.backfill.duplicate_index import DocumentKey, DuplicateIndex, DuplicateKind
from graphjobs.backfill.extract.records import EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.extract.sources import open_source
from graphjobs.backfill.transform.legacy_ids import derive_uuid
from graphjobs.errors import ConfigurationError
from tests.backfill.documents import ABSENT, ID, JOB_ID, LATER, build, event, overlay, run
from tests.backfill.tables import write_dumps

OLD_ID: Final = ObjectId("507f1f77bcf86cd799439011")
SAME_ID: Final = "_id: another document has the same id"
SAME_UUID: Final = "_id: the id becomes the UUID of another document"
SAME_NAME: Final = "runId: another run of the tenant has the same, under another id"
NO_JOB: Final = "jobId: the source has no valid job of the tenant with this id"
NO_RUN: Final = "jobId: the source has no valid policy run of the tenant with this id"


async def dry_run_of(folder: Path, **collections: list[dict[str, Any]]) -> DryRunReport:
    """Return the report of a dry run of these documents."""
    async with open_source(str(write_dumps(folder, **collections))) as source:
        return await dry_run(source)


def reasons(report: DryRunReport) -> list[str]:
    """Return the number and the reason of each group of rejections, without the location of the first."""
    return [f"{group.number} {group.first.partition(': ')[2]}" for group in report.rejections.values()]


def queued(number: int, **edits: Any) -> dict[str, Any]:
    """Return one of many unrelated jobs."""
    return build(_id=str(UUID(int=number + 1)), **edits)


def numbers(report: DryRunReport) -> tuple[int, int, int]:
    """Return the numbers of imported, repeated and rejected documents."""
    assert report.documents == report.counts.total() + report.repeated + report.rejected
    return report.counts.total(), report.repeated, report.rejected


@pytest.mark.parametrize("between", [0, 62, 63, 64, 1_000])
@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (build(), build(createdAt=LATER), SAME_ID),
        (build(), overlay(), SAME_ID),
        (build(), build(tenantId="other"), SAME_ID),
        (build(_id=OLD_ID), build(_id=OLD_ID, createdAt=LATER), SAME_ID),
        (build(_id="job-1"), overlay(_id="job-1"), SAME_ID),
        (build(_id=OLD_ID), build(_id=str(OLD_ID), createdAt=LATER), SAME_UUID),
        (build(), build(_id=ID.upper(), createdAt=LATER), SAME_UUID),
        (build(_id=Binary.from_uuid(UUID(ID))), build(tenantId="other"), SAME_UUID),
        (
            build(_id=Binary.from_uuid(UUID(ID), UuidRepresentation.CSHARP_LEGACY)),
            build(_id=Binary.from_uuid(UUID(ID)), createdAt=LATER),
            SAME_UUID,
        ),
        (build(_id=ABSENT, id=ID), build(_id=ABSENT, id=ID.upper(), createdAt=LATER), SAME_UUID),
        (build(_id="one", id=ID), build(_id="two", id=ID, createdAt=LATER), SAME_UUID),
        (build(_id=OLD_ID), build(_id=str(derive_uuid("acme", str(OLD_ID))), createdAt=LATER), SAME_UUID),
    ],
)
async def test_two_jobs_under_one_id(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], why: str, between: int
) -> None:
    """The first is imported and the second rejected, however many are between them."""
    report = await dry_run_of(tmp_path, graph_jobs=[one, *map(queued, range(between)), other])
    assert (between + 1, 0, 1) == numbers(report)
    assert [f"1 {why}"] == reasons(report)
    assert report.rejections[JOBS, "_id"].first.startswith(f"graph_jobs.bson, entry {between + 2:,}: ")
    assert 0 == sum(group[0] == "other" for group in report.counts)


async def test_two_runs_under_one_id(tmp_path: Path) -> None:
    runs = [run(), run(runId="run-2"), run(tenantId="other"), run(_id=ID.upper(), createdAt=LATER)]
    report = await dry_run_of(tmp_path, graph_jobs=[build()], policy_runs=runs)
    assert (2, 0, 3) == numbers(report)
    assert [f"3 {SAME_ID}"] == reasons(report)


async def test_the_same_legacy_id_of_two_tenants_becomes_two_ids(tmp_path: Path) -> None:
    """The UUID depends on the tenant."""
    report = await dry_run_of(tmp_path, graph_jobs=[build(_id="job-1"), build(_id="job-1", tenantId="other")])
    assert (2, 0, 0) == numbers(report)


@pytest.mark.parametrize("between", [0, 100])
@pytest.mark.parametrize(
    ("collection", "one", "copy"),
    [
        (JOBS, build(), build()),
        (JOBS, build(_id=OLD_ID), build(_id=str(OLD_ID))),
        (JOBS, build(), build(status="running", attempts=1, startedAt=LATER)),
        (JOBS, overlay(), overlay(status="canceled", completedAt=LATER)),
        (RUNS, run(), run()),
        (RUNS, run(), run(status="canceled", canceledAt=LATER, updatedAt=LATER)),
    ],
)
async def test_a_copy_is_imported_once(
    tmp_path: Path, collection: str, one: dict[str, Any], copy: dict[str, Any], between: int
) -> None:
    alone = await dry_run_of(tmp_path / "alone", **{collection: [one]})
    others = [queued(number) for number in range(between)] if collection == JOBS else []
    report = await dry_run_of(tmp_path, **{collection: [one, *others, copy, one]})
    assert (1 + len(others), 2, 0) == numbers(report)
    assert alone.counts <= report.counts
    assert alone.changed == report.changed
    assert alone.changes == report.changes


@pytest.mark.parametrize("between", [0, 100])
async def test_two_runs_with_one_run_id(tmp_path: Path, between: int) -> None:
    """The run id is unique within the tenant. Another tenant may have the same."""
    others = [run(_id=str(UUID(int=number + 1)), runId=f"other-{number}") for number in range(between)]
    runs = [run(), *others, run(_id=JOB_ID), run(_id=str(UUID(int=0)), tenantId="other")]
    report = await dry_run_of(tmp_path, policy_runs=runs)
    assert (between + 2, 0, 1) == numbers(report)
    assert [f"1 {SAME_NAME}"] == reasons(report)
    assert {(RUNS, "runId")} == report.rejections.keys()


async def test_a_rejected_document_leaves_its_id_and_run_id_to_others(tmp_path: Path) -> None:
    """Whether it is rejected for its own fields, its id or its run id."""
    jobs = [build(status="sleeping"), build(createdAt=LATER)]
    runs = [
        run(_id=JOB_ID, runId="run-7", mode="none"),
        run(_id=JOB_ID, runId="run-1"),
        run(_id=JOB_ID, runId="run-2"),  # rejected for its id, so that the run id is free
        run(_id=ID, runId="run-1"),  # rejected for its run id, so that the id is free
        run(_id=ID, runId="run-2"),
    ]
    report = await dry_run_of(tmp_path, graph_jobs=jobs, policy_runs=runs)
    assert (3, 0, 4) == numbers(report)
    assert {(JOBS, "status"): 1, (RUNS, "mode"): 1, (RUNS, "_id"): 1, (RUNS, "runId"): 1} == {
        field: group.number for field, group in report.rejections.items()
    }


async def test_the_first_rejection_of_a_field_is_the_first_in_the_source(tmp_path: Path) -> None:
    """Also if one document is invalid in itself and the other is a duplicate."""
    report = await dry_run_of(tmp_path, graph_jobs=[build(), overlay(), build(_id=7)])
    assert 2 == report.rejections[JOBS, "_id"].number
    assert f"graph_jobs.bson, entry 2: {SAME_ID}" == report.rejections[JOBS, "_id"].first


@pytest.mark.parametrize(
    ("owners", "events", "owner", "why"),
    [(JOBS, EVENTS, build(_id=JOB_ID), NO_JOB), (RUNS, RUN_EVENTS, run(_id=JOB_ID), NO_RUN)],
)
async def test_an_event_without_its_job_is_rejected(
    tmp_path: Path, owners: str, events: str, owner: dict[str, Any], why: str
) -> None:
    log = [
        event(_id=number, jobId=job, tenantId=tenant, status="completed")
        for number, (job, tenant) in enumerate(
            [(JOB_ID, "acme"), (JOB_ID.upper(), "acme"), (ID, "acme"), (JOB_ID, "b")], 1
        )
    ]
    report = await dry_run_of(tmp_path / "valid", **{owners: [owner], events: log})
    assert (3, 0, 2) == numbers(report)
    assert [f"2 {why}"] == reasons(report)
    assert {(events, "jobId")} == report.rejections.keys()
    report = await dry_run_of(tmp_path / "rejected", **{owners: [{**owner, "status": "sleeping"}], events: log})
    assert 4 == report.rejections[events, "jobId"].number
    assert () == report.unverified_events


async def test_an_event_finds_its_job_by_any_form_of_its_id(tmp_path: Path) -> None:
    """The ids of jobs and events are mapped in the same way."""
    jobs = [build(_id=OLD_ID), *map(queued, range(300)), overlay(_id=Binary.from_uuid(UUID(ID)))]
    log = [event(_id=1, jobId=str(OLD_ID)), event(_id=2, jobId=ID), event(_id=3, jobId=OLD_ID)]
    report = await dry_run_of(tmp_path, graph_jobs=jobs, graph_job_events=log)
    assert (305, 0, 0) == numbers(report)


@pytest.mark.parametrize(
    ("collections", "unverified"),
    [
        ((EVENTS,), (EVENTS,)),
        ((RUNS, EVENTS), (EVENTS,)),
        ((JOBS, RUN_EVENTS), (RUN_EVENTS,)),
        ((EVENTS, RUN_EVENTS), (EVENTS, RUN_EVENTS)),
        ((JOBS,), ()),
        ((JOBS, RUNS, EVENTS, RUN_EVENTS), ()),
    ],
)
async def test_events_are_unverified_if_the_source_has_no_jobs(
    tmp_path: Path, collections: tuple[str, ...], unverified: tuple[str, ...]
) -> None:
    """The jobs may be in the database already, and the report names the unverified collections."""
    samples = {
        JOBS: build(_id=JOB_ID),
        RUNS: run(_id=JOB_ID),
        EVENTS: event(status="completed"),
        RUN_EVENTS: event(status="completed"),
    }
    report = await dry_run_of(tmp_path, **{name: [samples[name]] for name in collections})
    assert unverified == report.unverified_events
    assert (len(collections), 0, 0) == numbers(report)
    kinds = {JOBS: "build", RUNS: "policy run", EVENTS: "event", RUN_EVENTS: "policy run event"}
    assert {kinds[name] for name in collections} == {kind for _, kind, _ in report.counts}


def make_key(number: int) -> DocumentKey:
    """Return one of many keys, which are as far from each other as real ids."""
    return DocumentKey(
        UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128), "acme", ("build", number), number
    )


def names_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


def add_keys(index: DuplicateIndex, count: int) -> None:
    """Add many keys."""
    for first in range(0, count, 500):
        assert [DuplicateKind.UNIQUE] * 500 == index.check_and_add(
            JOBS, [make_key(number) for number in range(first, first + 500)]
        )


def test_a_key_is_found_among_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """More keys than fit in the cache are in a file, which is deleted at the end."""
    monkeypatch.setattr(index_module, "_OPEN", f"{index_module._OPEN} PRAGMA cache_size = 10;")
    with DuplicateIndex() as index:
        folder = Path(index._file.execute("PRAGMA database_list").fetchone()[2]).parent
        add_keys(index, 20_000)
        assert sum(path.stat().st_size for path in folder.iterdir()) > 20_000 * 40
        assert [DuplicateKind.COPY, DuplicateKind.COPY, DuplicateKind.UNIQUE] == index.check_and_add(
            JOBS, [make_key(0), make_key(19_999), make_key(20_000)]
        )
        assert [True, False] == index.contains(JOBS, [(make_key(7).id, "acme"), (make_key(20_001).id, "acme")])
        assert [False] == index.contains(RUNS, [(make_key(7).id, "acme")])
        assert [] == index.check_and_add(JOBS, [])
        assert [] == index.contains(JOBS, [])
    assert not folder.exists()


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(index_module, "_OPEN", f"PRAGMA max_page_count = 9; {index_module._OPEN}")
    with DuplicateIndex() as index:
        assert 1 == len(names_in(tmp_path))
        with pytest.raises(
            ConfigurationError, match=r"^the temporary folder, which .*, is full or .*TMPDIR to another folder$"
        ):
            add_keys(index, 10_000)
    assert [] == names_in(tmp_path)


@pytest.mark.parametrize("fault", ["no folder", "no file"])
async def test_a_temporary_folder_that_is_not_writable_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none" if fault == "no folder" else tmp_path))
    if fault == "no file":
        monkeypatch.setattr(index_module, "_OPEN", "ATTACH '/nowhere/at/all' AS other")
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        await dry_run_of(tmp_path, graph_jobs=[build()])
    assert ["graph_jobs.bson"] == names_in(tmp_path)
