"""What documents have to do with one another: a dry run sees it wherever in a source they stand, and in flat memory."""

import tempfile
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from bson import ObjectId
from bson.binary import Binary, UuidRepresentation

from graphjobs.backfill import duplicate_index as seen_module
from graphjobs.backfill.dry_run import Survey, survey
from graphjobs.backfill.duplicate_index import Known, Met, Seen
from graphjobs.backfill.extract.records import EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.extract.sources import open_source
from graphjobs.backfill.transform.legacy_ids import derive_uuid
from graphjobs.errors import ConfigurationError
from tests.backfill import dumps
from tests.backfill.documents import ABSENT, ID, JOB_ID, LATER, build, event, overlay, run

OLD_ID: Final = ObjectId("507f1f77bcf86cd799439011")
SAME_ID: Final = "_id: another document has the same id"
SAME_UUID: Final = "_id: its id becomes that of another document"
SAME_NAME: Final = "runId: another run of the tenant has the same, under another id"
NO_JOB: Final = "jobId: no job of the tenant with this id comes from the source"
NO_RUN: Final = "jobId: no policy run of the tenant with this id comes from the source"


def write(folder: Path, collections: dict[str, list[dict[str, Any]]]) -> None:
    """Writes dumps."""
    folder.mkdir(exist_ok=True)
    for collection, documents in collections.items():
        (folder / f"{collection}.bson").write_bytes(dumps.encode_file(documents, "bson"))


async def surveyed(folder: Path, **collections: list[dict[str, Any]]) -> Survey:
    """What a dry run tells of these documents."""
    write(folder, collections)
    async with open_source(str(folder)) as source:
        return await survey(source)


def told(whole: Survey) -> list[str]:
    """Why some cannot come, without where the first of them stands, and how many."""
    return [f"{each.number} {each.first.partition(': ')[2]}" for each in whole.refusals.values()]


def queued(number: int, **edits: Any) -> dict[str, Any]:
    """One of many jobs that have nothing to do with one another."""
    return build(_id=str(UUID(int=number + 1)), **edits)


def numbers(whole: Survey) -> tuple[int, int, int]:
    """How many come, come again, and cannot come."""
    assert whole.documents == whole.counts.total() + whole.repeated + whole.refused
    return whole.counts.total(), whole.repeated, whole.refused


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
    """The first comes, and the second cannot; however many stand between them."""
    whole = await surveyed(tmp_path, graph_jobs=[one, *map(queued, range(between)), other])
    assert (between + 1, 0, 1) == numbers(whole)
    assert [f"1 {why}"] == told(whole)
    assert whole.refusals[JOBS, "_id"].first.startswith(f"graph_jobs.bson, entry {between + 2:,}: ")
    assert 0 == sum(group[0] == "other" for group in whole.counts)


async def test_two_runs_under_one_id(tmp_path: Path) -> None:
    """As jobs; and a job and a run may have the same."""
    runs = [run(), run(runId="run-2"), run(tenantId="other"), run(_id=ID.upper(), createdAt=LATER)]
    whole = await surveyed(tmp_path, graph_jobs=[build()], policy_runs=runs)
    assert (2, 0, 3) == numbers(whole)
    assert [f"3 {SAME_ID}"] == told(whole)


async def test_the_same_old_id_of_two_tenants_is_two_ids(tmp_path: Path) -> None:
    """Each tenant's becomes another UUID."""
    whole = await surveyed(tmp_path, graph_jobs=[build(_id="job-1"), build(_id="job-1", tenantId="other")])
    assert (2, 0, 0) == numbers(whole)


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
async def test_a_copy_comes_once(
    tmp_path: Path, collection: str, one: dict[str, Any], copy: dict[str, Any], between: int
) -> None:
    """The very same one, and one as it stood at another time: neither is a loss, and no change is counted of it."""
    alone = await surveyed(tmp_path / "alone", **{collection: [one]})
    others = [queued(each) for each in range(between)] if collection == JOBS else []
    whole = await surveyed(tmp_path, **{collection: [one, *others, copy, one]})
    assert (1 + len(others), 2, 0) == numbers(whole)
    assert alone.counts <= whole.counts
    assert alone.changed == whole.changed
    assert alone.changes == whole.changes


@pytest.mark.parametrize("between", [0, 100])
async def test_two_runs_of_one_name(tmp_path: Path, between: int) -> None:
    """A tenant has one of each name; another tenant's may have the same."""
    others = [run(_id=str(UUID(int=each + 1)), runId=f"other-{each}") for each in range(between)]
    runs = [run(), *others, run(_id=JOB_ID), run(_id=str(UUID(int=0)), tenantId="other")]
    whole = await surveyed(tmp_path, policy_runs=runs)
    assert (between + 2, 0, 1) == numbers(whole)
    assert [f"1 {SAME_NAME}"] == told(whole)
    assert {(RUNS, "runId")} == whole.refusals.keys()


async def test_what_cannot_come_leaves_its_id_and_name_to_others(tmp_path: Path) -> None:
    """Whether it is refused for itself, for its id, or for its name."""
    jobs = [build(status="sleeping"), build(createdAt=LATER)]
    runs = [
        run(_id=JOB_ID, runId="run-7", mode="none"),
        run(_id=JOB_ID, runId="run-1"),
        run(_id=JOB_ID, runId="run-2"),  # refused for its id, so that the name is free
        run(_id=ID, runId="run-1"),  # refused for its name, so that the id is free
        run(_id=ID, runId="run-2"),
    ]
    whole = await surveyed(tmp_path, graph_jobs=jobs, policy_runs=runs)
    assert (3, 0, 4) == numbers(whole)
    assert {(JOBS, "status"): 1, (RUNS, "mode"): 1, (RUNS, "_id"): 1, (RUNS, "runId"): 1} == {
        group: refusals.number for group, refusals in whole.refusals.items()
    }


async def test_the_first_of_a_field_is_the_first_in_the_source(tmp_path: Path) -> None:
    """Also where one is wrong by itself and the other by what stands before it."""
    whole = await surveyed(tmp_path, graph_jobs=[build(), overlay(), build(_id=7)])
    assert 2 == whole.refusals[JOBS, "_id"].number
    assert f"graph_jobs.bson, entry 2: {SAME_ID}" == whole.refusals[JOBS, "_id"].first


@pytest.mark.parametrize(
    ("owners", "events", "owner", "why"),
    [(JOBS, EVENTS, build(_id=JOB_ID), NO_JOB), (RUNS, RUN_EVENTS, run(_id=JOB_ID), NO_RUN)],
)
async def test_an_event_without_its_job(
    tmp_path: Path, owners: str, events: str, owner: dict[str, Any], why: str
) -> None:
    """It cannot come; tenant and id are looked at together, and a job that cannot come is none."""
    log = [
        event(_id=each, jobId=job, tenantId=tenant, status="completed")
        for each, (job, tenant) in enumerate(
            [(JOB_ID, "acme"), (JOB_ID.upper(), "acme"), (ID, "acme"), (JOB_ID, "b")], 1
        )
    ]
    whole = await surveyed(tmp_path / "there", **{owners: [owner], events: log})
    assert (3, 0, 2) == numbers(whole)
    assert [f"2 {why}"] == told(whole)
    assert {(events, "jobId")} == whole.refusals.keys()
    whole = await surveyed(tmp_path / "refused", **{owners: [{**owner, "status": "sleeping"}], events: log})
    assert 4 == whole.refusals[events, "jobId"].number
    assert () == whole.judged_alone


async def test_an_event_finds_its_job_by_any_form_of_its_id(tmp_path: Path) -> None:
    """Jobs and events are mapped alike."""
    jobs = [build(_id=OLD_ID), *map(queued, range(300)), overlay(_id=Binary.from_uuid(UUID(ID)))]
    log = [event(_id=1, jobId=str(OLD_ID)), event(_id=2, jobId=ID), event(_id=3, jobId=OLD_ID)]
    whole = await surveyed(tmp_path, graph_jobs=jobs, graph_job_events=log)
    assert (305, 0, 0) == numbers(whole)


@pytest.mark.parametrize(
    ("collections", "alone"),
    [
        ((EVENTS,), (EVENTS,)),
        ((RUNS, EVENTS), (EVENTS,)),
        ((JOBS, RUN_EVENTS), (RUN_EVENTS,)),
        ((EVENTS, RUN_EVENTS), (EVENTS, RUN_EVENTS)),
        ((JOBS,), ()),
        ((JOBS, RUNS, EVENTS, RUN_EVENTS), ()),
    ],
)
async def test_events_are_judged_alone_where_the_source_has_no_jobs(
    tmp_path: Path, collections: tuple[str, ...], alone: tuple[str, ...]
) -> None:
    """Their jobs may be in the database already, and the survey says that it has not looked."""
    one_of_each = {
        JOBS: build(_id=JOB_ID),
        RUNS: run(_id=JOB_ID),
        EVENTS: event(status="completed"),
        RUN_EVENTS: event(status="completed"),
    }
    whole = await surveyed(tmp_path, **{each: [one_of_each[each]] for each in collections})
    assert alone == whole.judged_alone
    assert (len(collections), 0, 0) == numbers(whole)
    kinds = {JOBS: "build", RUNS: "policy run", EVENTS: "event", RUN_EVENTS: "policy run event"}
    assert {kinds[each] for each in collections} == {kind for _, kind, _ in whole.counts}


def known(number: int) -> Known:
    """One of many, which are as far from one another as ids are."""
    return Known(UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128), "acme", ("build", number), number)


def names_in(folder: Path) -> list[str]:
    """What a folder holds."""
    return sorted(each.name for each in folder.iterdir())


def note(seen: Seen, count: int) -> None:
    """Notes many."""
    for first in range(0, count, 500):
        assert [Met.NOTHING] * 500 == seen.meet(JOBS, [known(each) for each in range(first, first + 500)])


def test_what_was_seen_is_found_again_among_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the memory it takes: they are in a file, which is gone afterwards."""
    monkeypatch.setattr(seen_module, "_OPEN", f"{seen_module._OPEN} PRAGMA cache_size = 10;")
    with Seen() as seen:
        folder = Path(seen._file.execute("PRAGMA database_list").fetchone()[2]).parent
        note(seen, 20_000)
        assert sum(each.stat().st_size for each in folder.iterdir()) > 20_000 * 40
        assert [Met.COPY, Met.COPY, Met.NOTHING] == seen.meet(JOBS, [known(0), known(19_999), known(20_000)])
        assert [True, False] == seen.holds(JOBS, [(known(7).id, "acme"), (known(20_001).id, "acme")])
        assert [False] == seen.holds(RUNS, [(known(7).id, "acme")])
        assert [] == seen.meet(JOBS, [])
        assert [] == seen.holds(JOBS, [])
    assert not folder.exists()


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And nothing is left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(seen_module, "_OPEN", f"PRAGMA max_page_count = 9; {seen_module._OPEN}")
    with Seen() as seen:
        assert 1 == len(names_in(tmp_path))
        with pytest.raises(ConfigurationError, match=r"^the temporary folder is full or .*TMPDIR name another folder$"):
            note(seen, 10_000)
    assert [] == names_in(tmp_path)


@pytest.mark.parametrize("fault", ["no folder", "no file"])
async def test_a_temporary_folder_that_cannot_be_written_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    """Before anything is read, and nothing is left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none" if fault == "no folder" else tmp_path))
    if fault == "no file":
        monkeypatch.setattr(seen_module, "_OPEN", "ATTACH '/nowhere/at/all' AS other")
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        await surveyed(tmp_path, graph_jobs=[build()])
    assert ["graph_jobs.bson"] == names_in(tmp_path)
