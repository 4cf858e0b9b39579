"""Rejected documents are pending until they are imported or discarded, in any order of later sources."""

import random
from pathlib import Path
from typing import Any

import pytest

from graphjobs import open_storage
from graphjobs.backfill.extract.decoding import parse_extended_json
from graphjobs.backfill.quarantine.files import write_quarantine
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.backfill.documents import LATER, build
from tests.backfill.tables import backfill_path, pending_entries, rows_of, verify_path, write_dumps
from tests.migrations.cli_tools import ask


def _dump(folder: Path, *documents: dict[str, Any]) -> Path:
    return write_dumps(folder, graph_jobs=list(documents))


def _pending_statuses(url: str) -> list[str]:
    """Return the statuses of pending documents, which are the reasons of their rejection."""
    return sorted(str(parse_extended_json(row["document"])["status"]) for row in pending_entries(url))


async def _verified(storage: Storage, location: Path) -> tuple[int, int]:
    """Verify a source, and return how many of its documents are pending and how many were resolved before."""
    comparison = await verify_path(storage, location)
    assert comparison.ok, comparison.samples
    return comparison.pending, comparison.resolved_before


async def test_a_later_copy_that_is_rejected_supersedes_the_first(storage: Storage, url: str, tmp_path: Path) -> None:
    """Read in turns, one of the two stays pending, and the verification counts one pending document."""
    monday = _dump(tmp_path / "monday", build(status="sleeping"))
    tuesday = _dump(tmp_path / "tuesday", build(status="dozing"))
    await backfill_path(storage, monday)
    for source in (tuesday, monday, tuesday, monday):
        report = await backfill_path(storage, source)
        assert ({"graph_jobs": 1}, 0) == (report.pending, report.counts.resolved)
        assert (1, 0) == (report.counts.quarantined, report.counts.resolved_before)
        assert ["dozing"] == _pending_statuses(url)
        assert (1, 0) == await _verified(storage, source)


async def _edit(storage: Storage, folder: Path, old: str, new: str) -> None:
    """Edit a field of pending documents, to a valid value or not, and import the file."""
    path = (await write_quarantine(storage, folder)).files["graph_jobs"]
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))
    await backfill_path(storage, folder)


async def test_a_wrong_repair_stays_pending_whatever_is_read_again(storage: Storage, url: str, tmp_path: Path) -> None:
    """Until it is right. Its import also resolves all entries that it superseded."""
    dump, files = _dump(tmp_path / "dump", build(status="sleeping")), tmp_path / "files"
    await backfill_path(storage, dump)
    await _edit(storage, files, "sleeping", "dozing")
    assert ["dozing"] == _pending_statuses(url)
    report = await backfill_path(storage, dump)
    assert (1, 0) == (report.counts.quarantined, report.counts.resolved_before)
    assert ["dozing"] == _pending_statuses(url)
    await _edit(storage, files, "dozing", "sleeping")  # as it was
    assert ["sleeping"] == _pending_statuses(url)
    await _edit(storage, files, "sleeping", "dozing")
    assert ["dozing"] == _pending_statuses(url)
    assert [] == rows_of(url, "graph_jobs")
    await _edit(storage, files, "dozing", "snoring")
    await _edit(storage, files, "snoring", "queued")
    assert [] == _pending_statuses(url)
    report = await backfill_path(storage, dump)
    assert ({}, 1) == (report.pending, report.counts.resolved_before)
    assert (0, 1) == await _verified(storage, dump)
    assert 1 == len(rows_of(url, "graph_jobs"))


async def test_a_repair_that_equals_a_discarded_document_stays_pending(
    storage: Storage, url: str, tmp_path: Path
) -> None:
    """The discarded document was another one."""
    discarded = _dump(tmp_path / "discarded", build(status="dozing"))
    await backfill_path(storage, discarded)
    ask(url, "UPDATE scheduler.backfill_quarantine SET resolved_at = now()")
    await backfill_path(storage, _dump(tmp_path / "dump", build(status="sleeping")))
    await _edit(storage, tmp_path / "files", "sleeping", "dozing")
    assert ["sleeping"] == _pending_statuses(url)


async def test_a_twin_that_is_read_alone_does_not_supersede_the_other(
    storage: Storage, url: str, tmp_path: Path
) -> None:
    """It was in the quarantine before, so it is not newer."""
    one = _dump(tmp_path / "one", build(status="sleeping"))
    both = _dump(tmp_path / "both", build(status="sleeping"), build(status="dozing"))
    for source in (one, both, one, both):
        await backfill_path(storage, source)
    assert ["dozing", "sleeping"] == _pending_statuses(url)


async def test_distant_twins_are_both_pending(storage: Storage, url: str, tmp_path: Path) -> None:
    """Also when their source is read again: neither resolves the other."""
    between = [build(_id=f"other {number}") for number in range(1_100)]
    dump = _dump(tmp_path / "dump", build(status="sleeping"), *between, build(status="dozing"))
    for _ in range(3):
        report = await backfill_path(storage, dump)
        assert (2, 0) == (report.counts.quarantined, report.counts.resolved)
        assert ["dozing", "sleeping"] == _pending_statuses(url)


@pytest.mark.parametrize("distance", [0, 1_100])
async def test_a_valid_document_does_not_resolve_its_twin_in_the_same_source(
    storage: Storage, url: str, tmp_path: Path, distance: int
) -> None:
    """Also if it changed since, and if its twin is read after it, in the same batch or a later one."""
    between = [build(_id=f"other {number}") for number in range(distance)]
    newer = {"status": "running", "startedAt": LATER, "updatedAt": LATER, "attempts": 1}
    for number, more in enumerate(({}, newer, newer)):
        dump = _dump(tmp_path / str(number), build(**more), *between, build(status="sleeping"))
        await backfill_path(storage, dump)
        assert ["sleeping"] == _pending_statuses(url)
    assert 1 in {row["status"] for row in rows_of(url, "graph_jobs")}


async def test_two_exchanged_lines_are_both_pending(storage: Storage, url: str, tmp_path: Path) -> None:
    """Each then supersedes the other, and their entries must not form a cycle."""
    dump = _dump(tmp_path / "dump", build(status="sleeping"), build(_id="another", status="dozing"))
    await backfill_path(storage, dump)
    path = (await write_quarantine(storage, tmp_path / "files")).files["graph_jobs"]
    first, second = (line.partition("}, ") for line in path.read_text().splitlines())
    lines = [first[0] + first[1] + second[2], second[0] + second[1] + first[2]]
    path.write_text("\n".join(lines) + "\n")
    await backfill_path(storage, path.parent)
    assert ["dozing", "sleeping"] == _pending_statuses(url)


@pytest.mark.parametrize("seed", range(6))
async def test_no_document_is_lost_in_any_order_of_sources(
    graphjobs_settings: Settings, url: str, tmp_path: Path, seed: int
) -> None:
    """Each document of any source is imported, or a copy of it is pending."""
    choose = random.Random(seed)  # noqa: S311  # no secret
    invalid = ["sleeping", "dozing", "snoring", "yawning"]
    names = [f"job {number}" for number in range(4)]
    sources = []
    for number in range(4):
        documents = [
            build(_id=name, status=choose.choice(invalid)) for name in choose.choices(names, k=choose.choice([2, 5]))
        ]
        sources.append(_dump(tmp_path / str(number), *documents))
    expected: set[str] = set()
    files = tmp_path / "files"
    async with open_storage(graphjobs_settings) as storage:
        for _ in range(12):
            act = choose.randrange(6)
            if act < 4:
                source = sources[act]
                await backfill_path(storage, source)
                expected |= {str(parse_extended_json(row["document"])["_id"]) for row in pending_entries(url)}
            elif pending_entries(url):
                await _edit(storage, files, choose.choice(invalid), choose.choice([*invalid, "queued"]))
            imported = {row["payload"]["metadata"]["legacyId"] for row in rows_of(url, "graph_jobs")}
            pending = {str(parse_extended_json(row["document"])["_id"]) for row in pending_entries(url)}
            assert expected == imported | pending
