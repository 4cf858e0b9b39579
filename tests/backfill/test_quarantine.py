"""Rejected documents: complete in the quarantine, reported by each run, and imported after a repair."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from tests.backfill.tables import Command, backfill_path, pending_entries, rows_of, state, verify_path, write_dumps
from tests.migrations.cli_tools import ask, beside_python, environment, run


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


_UNUSUAL_VALUES = {
    "nul": "a\0b",
    "nan": float("nan"),
    "decimal": Decimal128("1.50"),
    "far": DatetimeMS(400_000_000_000_000),
    "long": Int64(5),
    "oid": ObjectId(b"twelve bytes"),
    "binary": Binary(b"\0\1", 128),
    "within": {"list": [1, 2.5, None, True, AT]},
}


async def test_an_entry_has_the_complete_document(storage: Storage, url: str, tmp_path: Path) -> None:
    document = build(**_UNUSUAL_VALUES)
    await backfill_path(storage, write_dumps(tmp_path / "dump", graph_jobs=[document]))
    files = (await write_quarantine(storage, tmp_path / "files")).files
    (line,) = files["graph_jobs"].read_text().splitlines()
    (row,) = pending_entries(url)
    in_file = parse_extended_json(line)
    assert row["id"] == in_file.pop("_quarantine")["id"]
    for decoded in (parse_extended_json(row["document"]), in_file):
        assert bson.encode(document) == bson.encode(decoded)


async def test_the_end_of_a_truncated_file_is_kept_as_bytes(storage: Storage, url: str, tmp_path: Path) -> None:
    """The documents before it are imported. Imported again unchanged, the entry stays pending."""
    folder = write_dumps(tmp_path / "dump", graph_jobs=[build(), build(_id=JOB_ID)])
    dumps.truncate(folder / "graph_jobs.bson", len(bson.encode(build())) + 100)
    report = await backfill_path(storage, folder)
    assert (1, 1) == (report.counts.added, report.counts.quarantined)
    (row,) = pending_entries(url)
    assert bson.encode(build(_id=JOB_ID))[:100] == bytes.fromhex(row["raw"].removeprefix("\\x"))
    files = tmp_path / "files"
    await write_quarantine(storage, files)
    again = await backfill_path(storage, files)
    assert {"graph_jobs": 1} == again.pending
    assert [{**row, "location": ""}] == [{**entry, "location": ""} for entry in pending_entries(url)]


def test_the_command_exits_1_until_pending_documents_are_repaired(graphjobs: Command, url: str, tmp_path: Path) -> None:
    """Also on later runs of other sources. Repaired in its file, a document is imported, and its events with it."""
    files = tmp_path / "files"
    sleeping = build(status="sleeping")
    dump = write_dumps(
        tmp_path / "dump", graph_jobs=[sleeping], graph_job_events=[event(jobId=ID), event(_id=8, jobId=ID)]
    )
    other = write_dumps(tmp_path / "other", graph_jobs=[build(_id=JOB_ID)])
    options = ("--quarantine", str(files), "--json")
    first = graphjobs("backfill", str(dump), *options, url=url)
    assert 1 == first.returncode
    assert "3 documents are pending in quarantine: repair" in first.stderr.replace("\n", " ")
    assert 1 == graphjobs("backfill", str(other), *options, url=url).returncode
    listed = graphjobs("quarantine", "list", "--json", url=url)
    assert (1, 3) == (listed.returncode, len(listed.stdout.splitlines()))
    assert {"status", "jobId"} == {json.loads(line)["field"] for line in listed.stdout.splitlines()}
    path = files / "graph_jobs.json"
    assert ["sleeping"] == [line["status"] for line in _lines(path)]
    assert 2 == len(_lines(files / "graph_job_events.json"))
    checked = graphjobs("backfill", str(files), "--dry-run", url=url)
    assert (1, "graphjobs: 3 of 3 documents would be rejected\n") == (checked.returncode, checked.stderr)
    path.write_text(path.read_text().replace('"sleeping"', '"queued"'))
    checked = graphjobs("backfill", str(files), "--dry-run", url=url)
    assert (0, "") == (checked.returncode, checked.stderr)
    repaired = graphjobs("backfill", str(files), *options, url=url)
    assert (0, "") == (repaired.returncode, repaired.stderr)
    parts = [json.loads(line) for line in repaired.stdout.splitlines() if "added" in line]
    assert [(1, 1), (2, 2)] == [(part["added"], part["resolved"]) for part in parts]
    assert [] == list(files.iterdir())
    assert 0 == graphjobs("quarantine", "list", url=url).returncode
    assert (2, 2) == tuple(len(rows_of(url, name)) for name in ("graph_jobs", "graph_job_events"))


def test_a_discarded_document_is_not_imported(graphjobs: Command, url: str, tmp_path: Path) -> None:
    """It is no longer reported, and a second discard finds nothing."""
    dump = write_dumps(tmp_path / "dump", graph_jobs=[build(status="sleeping")])
    graphjobs("backfill", str(dump), "--quarantine", str(tmp_path / "files"), url=url)
    written = graphjobs("quarantine", "write", str(tmp_path / "more"), url=url)
    assert (0, f"{tmp_path / 'more' / 'graph_jobs.json'}\n") == (written.returncode, written.stdout)
    (line,) = _lines(tmp_path / "more" / "graph_jobs.json")
    key = line["_quarantine"]["id"]
    discarded = graphjobs("quarantine", "discard", key, url=url)
    assert (0, "1 discarded\n") == (discarded.returncode, discarded.stdout)
    again = graphjobs("quarantine", "discard", key, url=url)
    assert (1, "0 discarded\n") == (again.returncode, again.stdout)
    assert [] == rows_of(url, "graph_jobs")
    assert 2 == graphjobs("quarantine", "discard", "no-uuid", url=url).returncode


async def test_a_document_repaired_in_mongodb_resolves_its_entry(storage: Storage, url: str, tmp_path: Path) -> None:
    """By its `_id`, in any file."""
    await backfill_path(storage, write_dumps(tmp_path / "dump", graph_jobs=[build(_id=ObjectId(b"0" * 12), trigger=1)]))
    assert 1 == len(pending_entries(url))
    repaired = write_dumps(tmp_path / "repaired", graph_jobs=[build(_id=ObjectId(b"0" * 12))])
    report = await backfill_path(storage, repaired)
    assert (1, {}) == (report.counts.resolved, report.pending)


async def test_a_wrong_repair_supersedes_the_entry(storage: Storage, url: str, tmp_path: Path) -> None:
    """With the new reason. There is still one entry, also if the repair changed the id."""
    await backfill_path(storage, write_dumps(tmp_path / "dump", graph_jobs=[build(status="sleeping")]))
    files = (await write_quarantine(storage, tmp_path / "files")).files
    path = files["graph_jobs"]
    path.write_text(path.read_text().replace("sleeping", "queued").replace('"manual"', '"unknown"').replace(ID, JOB_ID))
    report = await backfill_path(storage, path.parent)
    (row,) = pending_entries(url)
    assert ("trigger", JOB_ID) == (row["field"], parse_extended_json(row["document"])["_id"])
    assert {"graph_jobs": 1} == report.pending


_TAG = {"id": ID, "field": "status", "reason": "no", "location": "here", "sha256": "0"}


@pytest.mark.parametrize(
    "tag",
    ["text", 7, {}, {"id": 5}, {"id": ID, "raw": "x"}, {**_TAG, "id": "no uuid"}, {**_TAG, "raw": "abc"}, _TAG],
)
@pytest.mark.parametrize("alone", [True, False])
async def test_an_invalid_tag_resolves_no_entry(
    storage: Storage, url: str, tmp_path: Path, tag: Any, alone: bool
) -> None:
    """Its document is imported or rejected, and other entries stay pending."""
    await backfill_path(storage, write_dumps(tmp_path / "old", graph_jobs=[build(status="sleeping")]))
    before = pending_entries(url)
    document = {"_quarantine": tag} if alone else build(_id=JOB_ID, _quarantine=tag)
    report = await backfill_path(storage, write_dumps(tmp_path / "new", graph_jobs=[document]))
    assert 1 == report.counts.added + report.counts.quarantined
    assert 0 == report.counts.resolved
    assert before[0] in pending_entries(url)


@pytest.mark.parametrize("levels", [99, 300, 499, 900])
async def test_a_document_without_a_json_form_is_kept_as_bytes(
    storage: Storage, url: str, tmp_path: Path, levels: int
) -> None:
    """Nested deeper than 100 levels, or with a key that Extended JSON would read as a type."""
    deep: dict[str, Any] = {}
    for _ in range(levels):
        deep = {"in": deep}
    documents = [build(deep=deep), build(_id=JOB_ID, status="no", other={"$numberLong": "5"})]
    await backfill_path(storage, write_dumps(tmp_path / "dump", graph_jobs=documents))
    entries = pending_entries(url)
    assert 2 == len(entries)
    raw = {bytes.fromhex(entry["raw"].removeprefix("\\x")) for entry in entries if entry["raw"]}
    assert {bson.encode(document) for document in documents} == raw
    # More than 500 levels are not decoded; up to there it is a document, and the field at fault is known.
    assert {"" if levels > 498 else "deep", "status"} == {entry["field"] for entry in entries}
    files = (await write_quarantine(storage, tmp_path / "files")).files
    await backfill_path(storage, files["graph_jobs"].parent)
    assert {entry["id"] for entry in entries} == {entry["id"] for entry in pending_entries(url)}


@pytest.mark.parametrize("nest", [lambda inner: {"in": inner}, lambda inner: [inner], lambda inner: DBRef("a", inner)])
async def test_a_document_of_100_levels_is_kept_as_text(
    storage: Storage, url: str, tmp_path: Path, nest: Callable[[Any], Any]
) -> None:
    """MongoDB guarantees this depth. The text can be read again, on every Python."""
    deep = AT
    for _ in range(99):
        deep = nest(deep)
    document = build(deep=deep)
    await backfill_path(storage, write_dumps(tmp_path / "dump", graph_jobs=[document]))
    (entry,) = pending_entries(url)
    assert ("deep", None) == (entry["field"], entry["raw"])
    assert bson.encode(document) == bson.encode(parse_extended_json(entry["document"]))
    files = (await write_quarantine(storage, tmp_path / "files")).files
    await backfill_path(storage, files["graph_jobs"].parent)
    assert [entry["id"]] == [entry["id"] for entry in pending_entries(url)]


@pytest.mark.parametrize("levels", [100, 499, 900])
@pytest.mark.parametrize("value", ["1180591620717411303424", '"\\ud800"'])
async def test_a_document_without_json_or_bson_form_is_kept_as_read(
    storage: Storage, url: str, tmp_path: Path, value: str, levels: int
) -> None:
    """Nested too deep for JSON, with a number or character that BSON has no form for."""
    deep = '{"in":' * levels + value + "}" * levels
    line = json.dumps(build(createdAt="2024-05-06T07:08:09Z")).removesuffix("}") + f', "deep": {deep}}}'
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "graph_jobs.json").write_text(line + "\n")
    await backfill_path(storage, tmp_path / "dump")
    (entry,) = pending_entries(url)
    assert ("" if levels > 499 else "deep") == entry["field"]
    assert line.encode() == bytes.fromhex(entry["raw"].removeprefix("\\x"))


def test_repaired_and_discarded_documents_are_no_longer_pending(graphjobs: Command, url: str, tmp_path: Path) -> None:
    """Also when their dump is read or verified again: the command exits 0."""
    files = tmp_path / "files"
    documents = [build(status="sleeping"), build(_id=JOB_ID, trigger="unknown")]
    dump = ("backfill", str(write_dumps(tmp_path / "dump", graph_jobs=documents)), "--quarantine", str(files))
    assert 1 == graphjobs(*dump, url=url).returncode
    (entry_id,) = (entry["id"] for entry in pending_entries(url) if entry["field"] == "trigger")
    assert 0 == graphjobs("quarantine", "discard", entry_id, url=url).returncode
    path = files / "graph_jobs.json"
    path.write_text(path.read_text().replace("sleeping", "queued"))
    repaired = graphjobs("backfill", str(files), "--quarantine", str(files), url=url)
    assert 1 == repaired.returncode or not pending_entries(url)
    graphjobs("quarantine", "discard", *[entry["id"] for entry in pending_entries(url)], url=url)
    for arguments in (dump, (*dump, "--verify"), dump):
        done = graphjobs(*arguments, url=url)
        assert (0, "") == (done.returncode, done.stderr), done.stderr
    assert 1 == len(rows_of(url, "graph_jobs"))


def test_edits_that_were_not_imported_are_kept(graphjobs: Command, url: str, tmp_path: Path) -> None:
    """Another run renames the edited file to a name that no backfill reads."""
    files = tmp_path / "files"
    dump = ("backfill", str(write_dumps(tmp_path / "dump", graph_jobs=[build(status="sleeping")])))
    graphjobs(*dump, "--quarantine", str(files), url=url)
    path = files / "graph_jobs.json"
    written = path.read_text()
    graphjobs(*dump, "--quarantine", str(files), url=url)
    assert [path] == list(files.iterdir())
    path.write_text(written.replace("sleeping", "queued"))
    done = graphjobs(*dump, "--quarantine", str(files), url=url)
    assert written == path.read_text()
    backup = files / "graph_jobs.json.edited"
    assert written.replace("sleeping", "queued") == backup.read_text()
    assert f"import them with graphjobs backfill {backup}" in done.stderr
    path.write_text(written.replace("sleeping", "running"))  # another repair
    graphjobs(*dump, "--quarantine", str(files), url=url)
    assert written.replace("sleeping", "queued") == backup.read_text()
    assert written.replace("sleeping", "running") == (files / "graph_jobs.json.edited.2").read_text()
    imported = graphjobs("backfill", str(backup), "--quarantine", str(files), url=url)
    assert (0, "") == (imported.returncode, imported.stderr)
    assert 1 == len(rows_of(url, "graph_jobs"))


def test_an_imported_file_needs_no_backup(graphjobs: Command, url: str, tmp_path: Path) -> None:
    """As with its folder: its edits were imported."""
    files = tmp_path / "files"
    dump = write_dumps(tmp_path / "dump", graph_jobs=[build(status="sleeping"), build(_id=JOB_ID, status="dozing")])
    graphjobs("backfill", str(dump), "--quarantine", str(files), url=url)
    path = files / "graph_jobs.json"
    path.write_text(path.read_text().replace("sleeping", "queued"))
    assert 1 == graphjobs("backfill", str(path), "--quarantine", str(files), url=url).returncode
    assert ["dozing"] == [line["status"] for line in _lines(path)]
    assert [path] == list(files.iterdir())


@pytest.mark.parametrize(
    ("redirection", "code", "sentence"),
    [
        ("| head -c 1", 1, "1 document is pending in quarantine"),
        (">&-", 1, "1 document is pending in quarantine"),
        (">/dev/full", 3, "writing to standard output failed: No space left on device"),
    ],
)
def test_the_files_are_written_even_if_the_output_fails(
    url: str, tmp_path: Path, redirection: str, code: int, sentence: str
) -> None:
    dump, files = write_dumps(tmp_path / "dump", graph_jobs=[build(status="sleeping")]), tmp_path / "files"
    program = beside_python("graphjobs")
    line = f"set -o pipefail; {program} backfill {dump} --quarantine {files} {redirection}"
    done = run(["bash", "-c", line], env=environment(GRAPHJOBS_DATABASE_URL=url))
    assert code == done.returncode, done.stderr
    assert sentence in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert 1 == len(_lines(files / "graph_jobs.json"))


def test_a_misspelt_collection_is_reported(graphjobs: Command, tmp_path: Path) -> None:
    dump = write_dumps(tmp_path / "dump", policy_runs=[], graphjobs=[build()], users=[build()])
    done = graphjobs("backfill", str(dump), "--dry-run")
    assert (0, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert "graphjobs.bson is not read; if it contains graph_jobs, rename it" in done.stderr


def test_a_folder_that_is_not_writable_is_reported_first(graphjobs: Command, url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    dump = write_dumps(tmp_path / "dump", graph_jobs=[build(status="sleeping")])
    done = graphjobs("backfill", str(dump), "--quarantine", str(tmp_path / "file"), url=url)
    assert (3, "") == (done.returncode, done.stdout)
    assert "is not writable" in done.stderr
    assert [] == pending_entries(url)


async def test_other_files_are_not_overwritten(storage: Storage, url: str, tmp_path: Path) -> None:
    """Neither a dump, nor a file in place of the folder. The pending documents stay in the database."""
    dump = dumps.write_files(tmp_path / "dump", dumps.generate(200, 1, dirty=30), "json")
    content = dump[dumps.JOBS].read_bytes()
    await backfill_path(storage, tmp_path / "dump")
    with pytest.raises(ConfigurationError, match="exists and is not a quarantine file"):
        await write_quarantine(storage, tmp_path / "dump")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="name another folder"):
        await write_quarantine(storage, tmp_path / "file")
    assert content == dump[dumps.JOBS].read_bytes()
    assert pending_entries(url)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("DELETE FROM scheduler.graph_job_events", "missing"),
        ("UPDATE scheduler.graph_jobs SET correlation_id = 'x', updated_at = '2020-01-01'", "source ahead"),
        ("UPDATE scheduler.graph_jobs SET tenant_id = 'x'", "different row"),
        ("UPDATE scheduler.graph_jobs SET payload = payload || '{\"x\": 1}', updated_at = now()", "target ahead"),
        (
            "INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload) "
            "VALUES (gen_random_uuid(), 'x', 0, 0, '{}')",
            "only in target",
        ),
    ],
)
def test_verification_reports_differences(
    graphjobs: Command, url: str, tmp_path: Path, change: str, difference: str
) -> None:
    dump = write_dumps(tmp_path, graph_jobs=[build(updatedAt=AT)], graph_job_events=[event(jobId=ID)])
    assert 0 == graphjobs("backfill", str(dump), url=url).returncode
    before_change = graphjobs("backfill", str(dump), "--verify", "--json", url=url)
    assert (0, "") == (before_change.returncode, before_change.stderr)
    totals, *groups = (json.loads(line) for line in before_change.stdout.splitlines())
    assert (True, {}, 2) == (totals["ok"], totals["differences"], len(groups))
    assert all(group["equal"] and group["source"]["digest"] != "0" * 16 for group in groups)
    ask(url, change)
    before = state(url)
    verified = graphjobs("backfill", str(dump), "--verify", "--json", url=url)
    expected = difference in ("target ahead", "only in target")
    assert (0 if expected else 1) == verified.returncode, verified.stderr
    samples = [json.loads(line) for line in verified.stdout.splitlines() if "difference" in json.loads(line)]
    assert difference in {sample["difference"] for sample in samples}
    if difference in ("source ahead", "target ahead", "different row"):
        assert ID in {sample["id"] for sample in samples}
    assert before == state(url)
    assert difference in graphjobs("backfill", str(dump), "--verify", url=url).stdout


async def test_all_documents_are_missing_before_the_backfill(storage: Storage, tmp_path: Path) -> None:
    """Including those that would be rejected: they have no entry."""
    generated = dumps.generate(300, 4, dirty=20)
    dumps.write_files(tmp_path, generated)
    comparison = await verify_path(storage, tmp_path)
    assert not comparison.ok
    assert {"missing"} == {str(difference) for difference in comparison.differences}
    assert 0 == comparison.pending
