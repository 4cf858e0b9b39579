"""What cannot come waits whole, is told on every run, and comes once it is mended; the command does all of it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import bson
import pytest
from bson import DBRef, Decimal128, Int64, ObjectId
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS

from graphjobs.backfill.extract.decoding import parse_extended_json
from graphjobs.backfill.quarantine.files import write_quarantine
from graphjobs.errors import ConfigurationError
from graphjobs.storage import Storage
from tests.backfill import dumps
from tests.backfill.documents import AT, ID, JOB_ID, build, event
from tests.backfill.tables import backfilled, compared, rows_of, state, waiting
from tests.migrations.cli_tools import Done, ask, beside_python, environment, many_graphjobs, run

Command: TypeAlias = Callable[..., Done]


@pytest.fixture(scope="module")
def graphjobs() -> Iterator[Command]:
    """The command."""
    with many_graphjobs() as command:
        yield command


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write(folder: Path, **documents: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, each in documents.items():
        (folder / f"{name}.bson").write_bytes(b"".join(bson.encode(document) for document in each))
    return folder


_STRANGE = {
    "nul": "a\0b",
    "nan": float("nan"),
    "decimal": Decimal128("1.50"),
    "far": DatetimeMS(400_000_000_000_000),
    "long": Int64(5),
    "oid": ObjectId(b"twelve bytes"),
    "binary": Binary(b"\0\1", 128),
    "within": {"list": [1, 2.5, None, True, AT]},
}


async def test_a_document_waits_whole(graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path) -> None:
    """Each type of it, in the table and in the file, also where JSON has no form for it."""
    document = build(**_STRANGE)
    await backfilled(graphjobs_storage, _write(tmp_path / "dump", graph_jobs=[document]))
    files = (await write_quarantine(graphjobs_storage, tmp_path / "files")).files
    (line,) = files["graph_jobs"].read_text().splitlines()
    (row,) = waiting(graphjobs_database_url)
    in_file = parse_extended_json(line)
    assert row["id"] == in_file.pop("_quarantine")["id"]
    for read in (parse_extended_json(row["document"]), in_file):
        assert bson.encode(document) == bson.encode(read)


async def test_a_file_that_is_cut_off_waits_as_its_bytes(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """What came before has come; fed in again as it is, it goes on waiting."""
    folder = _write(tmp_path / "dump", graph_jobs=[build(), build(_id=JOB_ID)])
    dumps.truncate(folder / "graph_jobs.bson", len(bson.encode(build())) + 100)
    report = await backfilled(graphjobs_storage, folder)
    assert (1, 1) == (report.counts.added, report.counts.quarantined)
    (row,) = waiting(graphjobs_database_url)
    assert bson.encode(build(_id=JOB_ID))[:100] == bytes.fromhex(row["raw"].removeprefix("\\x"))
    files = tmp_path / "files"
    await write_quarantine(graphjobs_storage, files)
    again = await backfilled(graphjobs_storage, files)
    assert {"graph_jobs": 1} == again.waiting
    assert [{**row, "place": ""}] == [{**each, "place": ""} for each in waiting(graphjobs_database_url)]


def test_the_command_exits_1_until_what_waits_is_mended(
    graphjobs: Command, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """On later runs of other sources, too; mended in the file and fed in again, it comes, and its events with it."""
    url, files = graphjobs_database_url, tmp_path / "files"
    sleeping = build(status="sleeping")
    dump = _write(tmp_path / "dump", graph_jobs=[sleeping], graph_job_events=[event(jobId=ID), event(_id=8, jobId=ID)])
    other = _write(tmp_path / "other", graph_jobs=[build(_id=JOB_ID)])
    ways = ("--quarantine", str(files), "--json")
    first = graphjobs("backfill", str(dump), *ways, url=url)
    assert 1 == first.returncode
    assert "3 documents wait that cannot come: mend" in first.stderr.replace("\n", " ")
    assert 1 == graphjobs("backfill", str(other), *ways, url=url).returncode
    listed = graphjobs("quarantine", "list", "--json", url=url)
    assert (1, 3) == (listed.returncode, len(listed.stdout.splitlines()))
    assert {"status", "jobId"} == {json.loads(line)["field"] for line in listed.stdout.splitlines()}
    path = files / "graph_jobs.json"
    assert ["sleeping"] == [line["status"] for line in _lines(path)]
    assert 2 == len(_lines(files / "graph_job_events.json"))
    tried = graphjobs("backfill", str(files), "--dry-run", url=url)
    assert (1, "3 of 3 documents cannot come") == (tried.returncode, tried.stderr.strip()[-28:])
    path.write_text(path.read_text().replace('"sleeping"', '"queued"'))
    tried = graphjobs("backfill", str(files), "--dry-run", url=url)
    assert (0, "") == (tried.returncode, tried.stderr)
    mended = graphjobs("backfill", str(files), *ways, url=url)
    assert (0, "") == (mended.returncode, mended.stderr)
    parts = [json.loads(line) for line in mended.stdout.splitlines() if "added" in line]
    assert [(1, 1), (2, 2)] == [(part["added"], part["answered"]) for part in parts]
    assert [] == list(files.iterdir())
    assert 0 == graphjobs("quarantine", "list", url=url).returncode
    assert (2, 2) == tuple(len(rows_of(url, name)) for name in ("graph_jobs", "graph_job_events"))


def test_one_that_is_given_up_does_not_come(graphjobs: Command, graphjobs_database_url: str, tmp_path: Path) -> None:
    """And is told no more; a second time there is nothing to discard."""
    url = graphjobs_database_url
    dump = _write(tmp_path / "dump", graph_jobs=[build(status="sleeping")])
    graphjobs("backfill", str(dump), "--quarantine", str(tmp_path / "files"), url=url)
    written = graphjobs("quarantine", "write", str(tmp_path / "more"), url=url)
    assert (0, f"{tmp_path / 'more' / 'graph_jobs.json'}\n") == (written.returncode, written.stdout)
    (line,) = _lines(tmp_path / "more" / "graph_jobs.json")
    key = line["_quarantine"]["id"]
    gone = graphjobs("quarantine", "discard", key, url=url)
    assert (0, "1 discarded\n") == (gone.returncode, gone.stdout)
    again = graphjobs("quarantine", "discard", key, url=url)
    assert (1, "0 discarded\n") == (again.returncode, again.stdout)
    assert [] == rows_of(url, "graph_jobs")
    assert 2 == graphjobs("quarantine", "discard", "no-uuid", url=url).returncode


async def test_one_that_was_mended_in_mongodb_answers_its_entry(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """By its `_id`, whatever file it comes in."""
    await backfilled(
        graphjobs_storage, _write(tmp_path / "dump", graph_jobs=[build(_id=ObjectId(b"0" * 12), trigger=1)])
    )
    assert 1 == len(waiting(graphjobs_database_url))
    mended = _write(tmp_path / "mended", graph_jobs=[build(_id=ObjectId(b"0" * 12))])
    report = await backfilled(graphjobs_storage, mended)
    assert (1, {}) == (report.counts.answered, report.waiting)


async def test_one_that_is_mended_wrongly_waits_on_as_it_now_is(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """With the new reason; there is still one entry, also where the mending gave it another id."""
    await backfilled(graphjobs_storage, _write(tmp_path / "dump", graph_jobs=[build(status="sleeping")]))
    files = (await write_quarantine(graphjobs_storage, tmp_path / "files")).files
    path = files["graph_jobs"]
    path.write_text(path.read_text().replace("sleeping", "queued").replace('"manual"', '"nobody"').replace(ID, JOB_ID))
    report = await backfilled(graphjobs_storage, path.parent)
    (row,) = waiting(graphjobs_database_url)
    assert ("trigger", JOB_ID) == (row["field"], parse_extended_json(row["document"])["_id"])
    assert {"graph_jobs": 1} == report.waiting


_TAG = {"id": ID, "field": "status", "reason": "no", "place": "here", "sha256": "0"}


@pytest.mark.parametrize(
    "tag",
    ["text", 7, {}, {"id": 5}, {"id": ID, "raw": "x"}, {**_TAG, "id": "no uuid"}, {**_TAG, "raw": "abc"}, _TAG],
)
@pytest.mark.parametrize("alone", [True, False])
async def test_a_tag_that_is_none_harms_nothing(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path, tag: Any, alone: bool
) -> None:
    """What has it comes, or waits; nothing else is answered by it."""
    await backfilled(graphjobs_storage, _write(tmp_path / "old", graph_jobs=[build(status="sleeping")]))
    before = waiting(graphjobs_database_url)
    document = {"_quarantine": tag} if alone else build(_id=JOB_ID, _quarantine=tag)
    report = await backfilled(graphjobs_storage, _write(tmp_path / "new", graph_jobs=[document]))
    assert 1 == report.counts.added + report.counts.quarantined
    assert 0 == report.counts.answered
    assert before[0] in waiting(graphjobs_database_url)


@pytest.mark.parametrize("levels", [99, 300, 499, 900])
async def test_what_json_cannot_hold_waits_as_bytes(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path, levels: int
) -> None:
    """However much deeper than 100 levels it nests; and a key that Extended JSON would take for a type of its own."""
    deep: dict[str, Any] = {}
    for _ in range(levels):
        deep = {"in": deep}
    documents = [build(deep=deep), build(_id=JOB_ID, status="no", strange={"$numberLong": "5"})]
    await backfilled(graphjobs_storage, _write(tmp_path / "dump", graph_jobs=documents))
    entries = waiting(graphjobs_database_url)
    assert 2 == len(entries)
    raw = {bytes.fromhex(each["raw"].removeprefix("\\x")) for each in entries if each["raw"]}
    assert {bson.encode(document) for document in documents} == raw
    # More than 500 levels are not decoded; up to there it is a document, and the field at fault is known.
    assert {"" if levels > 498 else "deep", "status"} == {each["field"] for each in entries}
    files = (await write_quarantine(graphjobs_storage, tmp_path / "files")).files
    await backfilled(graphjobs_storage, files["graph_jobs"].parent)
    assert {each["id"] for each in entries} == {each["id"] for each in waiting(graphjobs_database_url)}


@pytest.mark.parametrize("wrap", [lambda inner: {"in": inner}, lambda inner: [inner], lambda inner: DBRef("a", inner)])
async def test_what_nests_by_100_levels_waits_as_text(
    graphjobs_storage: Storage,
    graphjobs_database_url: str,
    tmp_path: Path,
    wrap: Callable[[Any], Any],
) -> None:
    """As deep as MongoDB promises to store documents, and on every Python; each can be read again."""
    deep = AT
    for _ in range(99):
        deep = wrap(deep)
    document = build(deep=deep)
    await backfilled(graphjobs_storage, _write(tmp_path / "dump", graph_jobs=[document]))
    (entry,) = waiting(graphjobs_database_url)
    assert ("deep", None) == (entry["field"], entry["raw"])
    assert bson.encode(document) == bson.encode(parse_extended_json(entry["document"]))
    files = (await write_quarantine(graphjobs_storage, tmp_path / "files")).files
    await backfilled(graphjobs_storage, files["graph_jobs"].parent)
    assert [entry["id"]] == [each["id"] for each in waiting(graphjobs_database_url)]


@pytest.mark.parametrize("levels", [100, 499, 900])
@pytest.mark.parametrize("strange", ["1180591620717411303424", '"\\ud800"'])
async def test_what_neither_json_nor_bson_can_hold_waits_as_it_was_read(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path, strange: str, levels: int
) -> None:
    """Nested too deep to be written as JSON, with a number or a letter that BSON has no form for."""
    deep = '{"in":' * levels + strange + "}" * levels
    line = json.dumps(build(createdAt="2024-05-06T07:08:09Z")).removesuffix("}") + f', "deep": {deep}}}'
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "graph_jobs.json").write_text(line + "\n")
    await backfilled(graphjobs_storage, tmp_path / "dump")
    (entry,) = waiting(graphjobs_database_url)
    assert ("" if levels > 499 else "deep") == entry["field"]
    assert line.encode() == bytes.fromhex(entry["raw"].removeprefix("\\x"))


def test_what_was_mended_or_given_up_waits_no_more(
    graphjobs: Command, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Also when the dump it came from is read again, and when it is checked: the move ends with 0."""
    url, files = graphjobs_database_url, tmp_path / "files"
    documents = [build(status="sleeping"), build(_id=JOB_ID, trigger="nobody")]
    dump = ("backfill", str(_write(tmp_path / "dump", graph_jobs=documents)), "--quarantine", str(files))
    assert 1 == graphjobs(*dump, url=url).returncode
    (given_up,) = (each["id"] for each in waiting(url) if each["field"] == "trigger")
    assert 0 == graphjobs("quarantine", "discard", given_up, url=url).returncode
    path = files / "graph_jobs.json"
    path.write_text(path.read_text().replace("sleeping", "queued"))
    mended = graphjobs("backfill", str(files), "--quarantine", str(files), url=url)
    assert 1 == mended.returncode or not waiting(url)
    graphjobs("quarantine", "discard", *[each["id"] for each in waiting(url)], url=url)
    for arguments in (dump, (*dump, "--verify"), dump):
        done = graphjobs(*arguments, url=url)
        assert (0, "") == (done.returncode, done.stderr), done.stderr
    assert 1 == len(rows_of(url, "graph_jobs"))


def test_what_is_being_mended_is_not_written_over(
    graphjobs: Command, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """A run in between puts it aside, under a name that no backfill reads."""
    url, files = graphjobs_database_url, tmp_path / "files"
    dump = ("backfill", str(_write(tmp_path / "dump", graph_jobs=[build(status="sleeping")])))
    graphjobs(*dump, "--quarantine", str(files), url=url)
    path = files / "graph_jobs.json"
    written = path.read_text()
    graphjobs(*dump, "--quarantine", str(files), url=url)
    assert [path] == list(files.iterdir())
    path.write_text(written.replace("sleeping", "queued"))
    done = graphjobs(*dump, "--quarantine", str(files), url=url)
    assert written == path.read_text()
    aside = files / "graph_jobs.json.edited"
    assert written.replace("sleeping", "queued") == aside.read_text()
    assert f"feed it in with graphjobs backfill {aside}" in done.stderr
    path.write_text(written.replace("sleeping", "running"))  # mended anew, and otherwise
    graphjobs(*dump, "--quarantine", str(files), url=url)
    assert written.replace("sleeping", "queued") == aside.read_text()
    assert written.replace("sleeping", "running") == (files / "graph_jobs.json.edited.2").read_text()
    fed = graphjobs("backfill", str(aside), "--quarantine", str(files), url=url)
    assert (0, "") == (fed.returncode, fed.stderr)
    assert 1 == len(rows_of(url, "graph_jobs"))


def test_a_file_that_was_read_alone_is_not_kept(
    graphjobs: Command, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """As a folder that was: what was mended in it has been fed in."""
    url, files = graphjobs_database_url, tmp_path / "files"
    dump = _write(tmp_path / "dump", graph_jobs=[build(status="sleeping"), build(_id=JOB_ID, status="dozing")])
    graphjobs("backfill", str(dump), "--quarantine", str(files), url=url)
    path = files / "graph_jobs.json"
    path.write_text(path.read_text().replace("sleeping", "queued"))
    assert 1 == graphjobs("backfill", str(path), "--quarantine", str(files), url=url).returncode
    assert ["dozing"] == [line["status"] for line in _lines(path)]
    assert [path] == list(files.iterdir())


@pytest.mark.parametrize(
    ("to", "code", "sentence"),
    [
        ("| head -c 1", 1, "1 document waits that cannot come"),
        (">&-", 1, "1 document waits that cannot come"),
        (">/dev/full", 3, "writing to standard output failed: No space left on device"),
    ],
)
def test_where_nobody_reads_on_the_files_are_there(
    graphjobs_database_url: str, tmp_path: Path, to: str, code: int, sentence: str
) -> None:
    """And what is told of them on standard error, with the exit code of what was done."""
    dump, files = _write(tmp_path / "dump", graph_jobs=[build(status="sleeping")]), tmp_path / "files"
    program = beside_python("graphjobs")
    line = f"set -o pipefail; {program} backfill {dump} --quarantine {files} {to}"
    done = run(["bash", "-c", line], env=environment(GRAPHJOBS_DATABASE_URL=graphjobs_database_url))
    assert code == done.returncode, done.stderr
    assert sentence in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert 1 == len(_lines(files / "graph_jobs.json"))


def test_a_collection_that_is_misspelt_is_told(graphjobs: Command, tmp_path: Path) -> None:
    """Beside others it would be passed over; what is of other collections is none of ours."""
    dump = _write(tmp_path / "dump", policy_runs=[], graphjobs=[build()], users=[build()])
    done = graphjobs("backfill", str(dump), "--dry-run")
    assert (0, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert "graphjobs.bson is not read: is it of graph_jobs? then give it that name" in done.stderr


def test_a_folder_that_cannot_be_written_is_told_before_the_move(
    graphjobs: Command, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """And not after hours."""
    (tmp_path / "file").touch()
    dump = _write(tmp_path / "dump", graph_jobs=[build(status="sleeping")])
    done = graphjobs("backfill", str(dump), "--quarantine", str(tmp_path / "file"), url=graphjobs_database_url)
    assert (3, "") == (done.returncode, done.stdout)
    assert "cannot be written" in done.stderr
    assert [] == waiting(graphjobs_database_url)


async def test_files_of_others_are_not_written_over(
    graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Neither what a dump holds, nor what cannot be written; what waits stays in the database."""
    dump = dumps.write_files(tmp_path / "dump", dumps.generate(200, 1, dirty=30), "json")
    content = dump[dumps.JOBS].read_bytes()
    await backfilled(graphjobs_storage, tmp_path / "dump")
    with pytest.raises(ConfigurationError, match="is there already, and its first line is none of a quarantine's"):
        await write_quarantine(graphjobs_storage, tmp_path / "dump")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="name another folder"):
        await write_quarantine(graphjobs_storage, tmp_path / "file")
    assert content == dump[dumps.JOBS].read_bytes()
    assert waiting(graphjobs_database_url)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("DELETE FROM scheduler.graph_job_events", "missing here"),
        ("UPDATE scheduler.graph_jobs SET correlation_id = 'x', updated_at = '2020-01-01'", "behind the source"),
        ("UPDATE scheduler.graph_jobs SET tenant_id = 'x'", "another one here"),
        ("UPDATE scheduler.graph_jobs SET payload = payload || '{\"x\": 1}', updated_at = now()", "moved on here"),
        (
            "INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload) "
            "VALUES (gen_random_uuid(), 'x', 0, 0, '{}')",
            "only here",
        ),
    ],
)
def test_the_check_names_what_differs(
    graphjobs: Command, graphjobs_database_url: str, tmp_path: Path, change: str, difference: str
) -> None:
    """And exits 1 where that is a fault of the move."""
    url = graphjobs_database_url
    dump = _write(tmp_path, graph_jobs=[build(updatedAt=AT)], graph_job_events=[event(jobId=ID)])
    assert 0 == graphjobs("backfill", str(dump), url=url).returncode
    sound = graphjobs("backfill", str(dump), "--verify", "--json", url=url)
    assert (0, "") == (sound.returncode, sound.stderr)
    whole, *groups = (json.loads(line) for line in sound.stdout.splitlines())
    assert (True, {}, 2) == (whole["holds"], whole["differences"], len(groups))
    assert all(each["equal"] and each["source"]["digest"] != "0" * 16 for each in groups)
    ask(url, change)
    before = state(url)
    told = graphjobs("backfill", str(dump), "--verify", "--json", url=url)
    expected = difference in ("moved on here", "only here")
    assert (0 if expected else 1) == told.returncode, told.stderr
    named = [json.loads(line) for line in told.stdout.splitlines() if "differs" in json.loads(line)]
    assert difference in {each["differs"] for each in named}
    if difference in ("behind the source", "moved on here", "another one here"):
        assert ID in {each["id"] for each in named}
    assert before == state(url)
    assert difference in graphjobs("backfill", str(dump), "--verify", url=url).stdout


async def test_before_the_move_all_is_missing(graphjobs_storage: Storage, tmp_path: Path) -> None:
    """Also what cannot come, for it waits nowhere."""
    made = dumps.generate(300, 4, dirty=20)
    dumps.write_files(tmp_path, made)
    comparison = await compared(graphjobs_storage, tmp_path)
    assert not comparison.holds
    assert {"missing here"} == {str(each) for each in comparison.differences}
    assert 0 == comparison.waiting
