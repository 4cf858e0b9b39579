"""Dump files by the names that tools and people give them, and what must be converted first."""

import gzip
import json
import os
from pathlib import Path

import pytest
import typer

from graphjobs import ConfigurationError
from graphjobs.backfill.extract.records import COLLECTIONS, ReadOffset
from graphjobs.backfill.extract.sources import open_source, suggest_collections
from graphjobs.cli.backfill_source import find_source
from tests.backfill.source_helpers import decode_documents, read_documents, read_records

PASSWORD = "hu" + "sh"
ATLAS = "snapshot/6650/cluster0/2024-05-06T0000/1714953600/scheduler"


def line(number: int) -> str:
    """Return a document as a line."""
    return json.dumps({"_id": number}) + "\n"


@pytest.mark.parametrize(
    "name",
    [
        "scheduler.graph_jobs.json",
        "graph-jobs.json",
        "Graph-Jobs.JSON",
        "graphJobs.ndjson",
        "GraphJobs.jsonl",
        "graph jobs.json",
        "my-scheduler.graph-jobs.json.gz",
    ],
)
async def test_a_file_is_found_by_its_collection(tmp_path: Path, name: str) -> None:
    """In its folder and alone, beside files with metadata."""
    content = line(1).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    (tmp_path / "graph_jobs.metadata.json").write_text('{"indexes": []}')
    (tmp_path / "prelude.json").write_text("{}")
    assert [{"_id": 1}] == await read_documents(tmp_path) == await read_documents(tmp_path / name)


async def test_an_export_of_atlas_has_a_folder_of_parts_for_each_collection(tmp_path: Path) -> None:
    """The parts are read one after the other. A reader continues in the part where it ended."""
    database = tmp_path / ATLAS
    for collection in ("graph_jobs", "policy_runs"):
        (database / collection).mkdir(parents=True)
        for number in range(3):
            path = database / collection / f"atlas-shard-0.{number}.json.gz"
            path.write_bytes(gzip.compress((line(2 * number) + line(2 * number + 1)).encode(), mtime=0))
            os.utime(path, ns=(1, 1))
        (database / collection / "metadata.json").write_text('{"options": {}}')
        (database / collection / ".complete").write_text("")
    (database.parent / ".complete").write_text("")
    async with open_source(str(database)) as source:
        assert ["graph_jobs"] * 3 + ["policy_runs"] * 3 == [part.collection for part in source.parts]
        assert "graph_jobs/atlas-shard-0.0.json.gz" == source.parts[0].name
        assert 6 == len({part.fingerprint for part in source.parts})
        documents = []
        for part in source.parts[:3]:
            documents += decode_documents([record async for record in source.read(part)])
        assert [{"_id": number} for number in range(6)] == documents
        rest = [record async for record in source.read(source.parts[1], ReadOffset(1, 1))]
        assert [{"_id": 3}] == decode_documents(rest)
    assert [{"_id": 0}, {"_id": 1}] == await read_documents(database / "graph_jobs")
    with pytest.raises(ConfigurationError, match=r"holds no dump .*/scheduler holds some"):
        await read_records(tmp_path)


async def test_a_file_may_be_named_by_its_collection(tmp_path: Path) -> None:
    """It takes the place of a file of the folder, also where the folder is ambiguous."""
    for number, name in enumerate(["graph_jobs.json", "graph-jobs.json", "export (1).txt", "policy_runs.json"]):
        (tmp_path / name).write_text(line(number))
    given = {"graph_jobs": tmp_path / "export (1).txt"}
    for location, count in ((None, 1), (str(tmp_path), 2)):
        async with open_source(location, collections=given) as source:
            assert count == len(source.parts)
            assert [{"_id": 2}] == decode_documents([record async for record in source.read(source.parts[0])])
    with pytest.raises(ConfigurationError, match=r"two files .* graph-jobs\.json and graph_jobs\.json"):
        await read_records(tmp_path)
    for location, collections in (("mongodb://host/db", given), (None, {"jobs": given["graph_jobs"]})):
        with pytest.raises(ConfigurationError):
            async with open_source(location, collections=collections):
                pass


CONVERTED = {
    "scheduler.archive": (b"\x6d\xe2\x99\x81" + b"\0" * 60, "mongorestore --uri URI --archive=scheduler.archive"),
    "scheduler.archive.gz": (gzip.compress(b"\x6d\xe2\x99\x81" + b"\0" * 60), "--gzip --archive=scheduler.archive.gz"),
    "graph_jobs.bson": (b"\x6d\xe2\x99\x81" + b"\0" * 60, "mongodump --uri URI --out FOLDER"),
    "graph_jobs.bson.zst": (b"\x28\xb5\x2f\xfd" + b"\0" * 60, "zstd -d graph_jobs.bson.zst"),
    "graph_jobs.json": (b"\x28\xb5\x2f\xfd" + b"\0" * 60, "zstd -d graph_jobs.json"),
    "graph_jobs.json.bz2": (b"BZh9" + b"\0" * 60, "bunzip2 graph_jobs.json.bz2"),
    "graph jobs.zip": (b"PK\3\4" + b"\0" * 60, "unzip 'graph jobs.zip'"),
    "graph_jobs.csv": (b"_id,tenantId,status\n1,acme,queued\n", "mongoexport --uri URI --collection graph_jobs"),
    "policy_runs.json": (b"_id,tenantId,status\n1,acme,queued\n", "mongoexport --uri URI --collection policy_runs"),
    "graph_job_events.json": (
        b'{ "_id" : ObjectId("507f1f77bcf86cd799439011"), "createdAt" : ISODate("2024-05-06T07:08:09Z") }\n',
        "mongoexport --uri URI --collection graph_job_events --out graph_job_events.json",
    ),
    "scheduler.graph_jobs.json": (
        b"[\n  {\n    _id: ObjectId('507f1f77bcf86cd799439011'),\n    status: 'queued'\n  }\n]\n",
        "mongoexport --uri URI --collection graph_jobs --out graph_jobs.json",
    ),
    "graph_jobs.jsonl": (
        b'"_id","tags[0].key",meta data,$id\n1,2,3,4\n',
        "mongoexport --uri URI --collection graph_jobs",
    ),
    "policy_runs.ndjson": (b"_id\r\n1\r\n", "is CSV"),
    "graph_jobs.json.gz": (gzip.compress(gzip.compress(b"{}")), "gunzip graph_jobs.json.gz"),
    "policy_run_events.json": ('{"_id": 1}'.encode("utf-16-le"), "iconv -f UTF-16"),
    "policy_run_events.jsonl": ('[{"_id": 1}]'.encode("utf-16-be"), "iconv -f UTF-16"),
    "scheduler.agz": (gzip.compress(b"\x6d\xe2\x99\x81"), "--gzip --archive=scheduler.agz"),
    "policy-runs.json": (b'{"attempts": NumberInt(3)}', "output of the mongo shell"),
}


@pytest.mark.parametrize("name", CONVERTED)
async def test_an_unreadable_file_is_refused_with_a_command(tmp_path: Path, name: str) -> None:
    """In a folder and alone."""
    content, command = CONVERTED[name]
    (tmp_path / name).write_bytes(content)
    for location in (tmp_path, tmp_path / name):
        with pytest.raises(ConfigurationError) as caught:
            await read_records(location)
        assert command in str(caught.value)


@pytest.mark.parametrize("name", ["dump", "2025-11-25.gz"])
async def test_an_archive_of_any_name_is_refused_with_a_command(tmp_path: Path, name: str) -> None:
    """Mongodump takes any name for `--archive`."""
    (tmp_path / name).write_bytes(CONVERTED["graph_jobs.bson"][0])
    with pytest.raises(ConfigurationError, match=f"archive of mongodump.* --archive={name}`"):
        await read_records(tmp_path / name)


@pytest.mark.parametrize("name", ["graph_jobs (1).json", "Scheduler.Graph-Jobs_2025.bson.gz", "graph_job.json"])
async def test_a_file_with_a_similar_name_is_reported(tmp_path: Path, name: str) -> None:
    """As browsers and people rename files. It is not left out without a word, also where the folder has others."""
    (tmp_path / name).touch()
    with pytest.raises(ConfigurationError, match=r"holds no dump.* name it by --collection graph_jobs=FILE"):
        await read_records(tmp_path)
    (tmp_path / "policy_runs.json").touch()
    assert {name: "graph_jobs"} == suggest_collections(str(tmp_path))


async def test_text_that_looks_like_the_shell_is_read(tmp_path: Path) -> None:
    """Within a string it is text."""
    document = {"note": ': ISODate("x"), {_id: ObjectId(1)}', "csv": "a,b\n"}
    (tmp_path / "graph_jobs.json").write_text(json.dumps(document))
    assert [document] == await read_documents(tmp_path)


@pytest.mark.parametrize(
    "location",
    [
        "mongodb:/u:hush@host/db",
        "MONGODB://u:hush@host/db",
        " mongodb://u:hush@host/db",
        "mongo:u:hush@h",
        "u:hush@h/db",
    ],
)
async def test_an_address_with_a_mistake_is_not_repeated(location: str) -> None:
    """It may hold a password."""
    with pytest.raises(ConfigurationError) as caught:
        await read_records(location)
    assert PASSWORD not in str(caught.value)


def test_the_address_may_be_in_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments take precedence. No error repeats it."""
    address = f"mongodb://u:{PASSWORD}@host/scheduler"
    file = tmp_path / "address"
    file.write_text(f"{address}\n")
    with pytest.raises(typer.BadParameter, match="GRAPHJOBS_MONGODB_URL"):
        find_source([], [])
    monkeypatch.setenv("GRAPHJOBS_MONGODB_URL_FILE", str(file))
    assert (address, None) == (find_source([], []).location, find_source([], []).folder)
    monkeypatch.setenv("GRAPHJOBS_MONGODB_URL", address)
    with pytest.raises(ConfigurationError, match="both set"):
        find_source([], [])
    monkeypatch.delenv("GRAPHJOBS_MONGODB_URL_FILE")
    assert address == find_source([], []).location
    assert Path("dump") == find_source(["dump"], []).folder
    assert {"graph_jobs": Path("a=b")} == find_source([], ["graph_jobs=a=b"]).collections
    monkeypatch.setenv("GRAPHJOBS_MONGODB_URL", address[1:])
    with pytest.raises(ConfigurationError, match="GRAPHJOBS_MONGODB_URL is invalid") as caught:
        find_source([], [])
    assert PASSWORD not in str(caught.value)
    for sources, files in ((["dump", address], []), ([], [address]), ([], ["graph_jobs=a"] * 2)):
        with pytest.raises(typer.BadParameter) as refused:
            find_source(sources, files)
        assert PASSWORD not in str(refused.value)


def test_every_collection_has_a_name_without_a_hint() -> None:
    """The names of the documentation are found."""
    for collection in COLLECTIONS:
        assert {collection: Path("x")} == find_source([], [f"{collection}=x"]).collections
