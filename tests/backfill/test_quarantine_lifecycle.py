"""What cannot come waits until it came or was given up, whatever is read again, and in whatever order."""

import random
from pathlib import Path
from typing import Any

import bson
import pytest

from graphjobs import open_storage
from graphjobs.backfill.extract.decoding import parse_extended_json
from graphjobs.backfill.quarantine.files import write_quarantine
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.backfill.documents import LATER, build
from tests.backfill.tables import backfilled, compared, rows_of, waiting
from tests.migrations.cli_tools import ask


def _dump(folder: Path, *documents: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "graph_jobs.bson").write_bytes(b"".join(map(bson.encode, documents)))
    return folder


def _words(url: str) -> list[str]:
    """The statuses of what waits, which are what is wrong with it."""
    return sorted(str(parse_extended_json(row["document"])["status"]) for row in waiting(url))


async def _holds(storage: Storage, place: Path) -> tuple[int, int]:
    """How many documents of a source wait, and how many were settled, where all the others are here."""
    comparison = await compared(storage, place)
    assert comparison.holds, comparison.named
    return comparison.waiting, comparison.settled


async def test_a_later_copy_that_cannot_come_either_takes_the_place_of_the_first(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Read in turns, one of the two goes on waiting; and the check says that the document does."""
    monday = _dump(tmp_path / "monday", build(status="sleeping"))
    tuesday = _dump(tmp_path / "tuesday", build(status="dozing"))
    await backfilled(graphjobs_storage, monday)
    for source in (tuesday, monday, tuesday, monday):
        report = await backfilled(graphjobs_storage, source)
        assert ({"graph_jobs": 1}, 0) == (report.waiting, report.counts.answered)
        assert (1, 0) == (report.counts.quarantined, report.counts.settled)
        assert ["dozing"] == _words(graphjobs_database_url)
        assert (1, 0) == await _holds(graphjobs_storage, source)


async def _mend(storage: Storage, folder: Path, old: str, new: str) -> None:
    """Mends what waits, rightly or not, and feeds it in."""
    path = (await write_quarantine(storage, folder)).files["graph_jobs"]
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))
    await backfilled(storage, folder)


async def test_what_was_mended_and_is_still_wrong_waits_whatever_is_read_again(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Until it is right; then all that it was before is settled, too."""
    dump, files = _dump(tmp_path / "dump", build(status="sleeping")), tmp_path / "files"
    await backfilled(graphjobs_storage, dump)
    await _mend(graphjobs_storage, files, "sleeping", "dozing")
    assert ["dozing"] == _words(graphjobs_database_url)
    report = await backfilled(graphjobs_storage, dump)
    assert (1, 0) == (report.counts.quarantined, report.counts.settled)
    assert ["dozing"] == _words(graphjobs_database_url)
    await _mend(graphjobs_storage, files, "dozing", "sleeping")  # as it was
    assert ["sleeping"] == _words(graphjobs_database_url)
    await _mend(graphjobs_storage, files, "sleeping", "dozing")
    assert ["dozing"] == _words(graphjobs_database_url)
    assert [] == rows_of(graphjobs_database_url, "graph_jobs")
    await _mend(graphjobs_storage, files, "dozing", "snoring")
    await _mend(graphjobs_storage, files, "snoring", "queued")
    assert [] == _words(graphjobs_database_url)
    report = await backfilled(graphjobs_storage, dump)
    assert ({}, 1) == (report.waiting, report.counts.settled)
    assert (0, 1) == await _holds(graphjobs_storage, dump)
    assert 1 == len(rows_of(graphjobs_database_url, "graph_jobs"))


async def test_what_is_mended_into_what_was_given_up_waits_on(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """It was another document that was given up."""
    gone = _dump(tmp_path / "gone", build(status="dozing"))
    await backfilled(graphjobs_storage, gone)
    ask(graphjobs_database_url, "UPDATE scheduler.backfill_quarantine SET settled_at = now()")
    await backfilled(graphjobs_storage, _dump(tmp_path / "dump", build(status="sleeping")))
    await _mend(graphjobs_storage, tmp_path / "files", "sleeping", "dozing")
    assert ["sleeping"] == _words(graphjobs_database_url)


async def test_one_of_two_that_is_read_alone_is_no_answer_to_the_other(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """It was there before, and tells nothing new."""
    one = _dump(tmp_path / "one", build(status="sleeping"))
    both = _dump(tmp_path / "both", build(status="sleeping"), build(status="dozing"))
    for source in (one, both, one, both):
        await backfilled(graphjobs_storage, source)
    assert ["dozing", "sleeping"] == _words(graphjobs_database_url)


async def test_two_of_one_id_far_apart_both_wait(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Also when their source is read again: neither is an answer to the other."""
    between = [build(_id=f"other {each}") for each in range(1_100)]
    dump = _dump(tmp_path / "dump", build(status="sleeping"), *between, build(status="dozing"))
    for _ in range(3):
        report = await backfilled(graphjobs_storage, dump)
        assert (2, 0) == (report.counts.quarantined, report.counts.answered)
        assert ["dozing", "sleeping"] == _words(graphjobs_database_url)


@pytest.mark.parametrize("apart", [0, 1_100])
async def test_a_good_one_is_no_answer_to_its_twin_in_the_same_source(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path, apart: int
) -> None:
    """Not where it has gone on since, either, and its twin is found after it, in the same batch or a later one."""
    between = [build(_id=f"other {each}") for each in range(apart)]
    gone_on = {"status": "running", "startedAt": LATER, "updatedAt": LATER, "attempts": 1}
    for number, more in enumerate(({}, gone_on, gone_on)):
        dump = _dump(tmp_path / str(number), build(**more), *between, build(status="sleeping"))
        await backfilled(graphjobs_storage, dump)
        assert ["sleeping"] == _words(graphjobs_database_url)
    assert 1 in {row["status"] for row in rows_of(graphjobs_database_url, "graph_jobs")}


async def test_two_whose_lines_were_exchanged_both_wait(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Each then answers the other, and takes its place; that may not go round."""
    dump = _dump(tmp_path / "dump", build(status="sleeping"), build(_id="another", status="dozing"))
    await backfilled(graphjobs_storage, dump)
    path = (await write_quarantine(graphjobs_storage, tmp_path / "files")).files["graph_jobs"]
    first, second = (line.partition("}, ") for line in path.read_text().splitlines())
    lines = [first[0] + first[1] + second[2], second[0] + second[1] + first[2]]
    path.write_text("\n".join(lines) + "\n")
    await backfilled(graphjobs_storage, path.parent)
    assert ["dozing", "sleeping"] == _words(graphjobs_database_url)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_read_in_whatever_order_nothing_is_lost(
    graphjobs_settings: Settings, graphjobs_database_url: str, tmp_path: Path, seed: int
) -> None:
    """Of each document that any source held, it is here, or some copy of it waits."""
    choose = random.Random(seed)  # noqa: S311  # no secret
    wrong = ["sleeping", "dozing", "snoring", "yawning"]
    names = [f"job {each}" for each in range(4)]
    sources = []
    for number in range(4):
        held = [build(_id=name, status=choose.choice(wrong)) for name in choose.choices(names, k=choose.choice([2, 5]))]
        sources.append(_dump(tmp_path / str(number), *held))
    found: set[str] = set()
    files = tmp_path / "files"
    async with open_storage(graphjobs_settings) as storage:
        for _ in range(12):
            act = choose.randrange(6)
            if act < 4:
                source = sources[act]
                await backfilled(storage, source)
                found |= {str(parse_extended_json(row["document"])["_id"]) for row in waiting(graphjobs_database_url)}
            elif waiting(graphjobs_database_url):
                await _mend(storage, files, choose.choice(wrong), choose.choice([*wrong, "queued"]))
            here = {row["payload"]["metadata"]["legacyId"] for row in rows_of(graphjobs_database_url, "graph_jobs")}
            waits = {str(parse_extended_json(row["document"])["_id"]) for row in waiting(graphjobs_database_url)}
            assert found == here | waits
