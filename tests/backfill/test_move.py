"""The whole move from a server of the MongoDB protocol: dry run, run, resume, verification.

`test_live.py` has what only MongoDB itself can show, for instance ids of mixed types and documents that are no BSON.
"""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from bson import ObjectId
from bson.binary import Binary
from pymongo import AsyncMongoClient

from graphjobs.backfill import checkpoints
from graphjobs.errors import ConfigurationError
from graphjobs.storage import Storage
from tests.backfill import dumps
from tests.backfill.documents import LATER, build, event, run
from tests.backfill.mongo import mongo_server
from tests.backfill.source_helpers import comparable, decode_documents, read_records
from tests.backfill.tables import (
    DOCUMENTS_READ,
    TABLES,
    Command,
    backfill_path,
    pending_entries,
    records,
    rows_of,
    verify_path,
)
from tests.migrations.cli_tools import ask

_CHUNK = 100


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server, without a database: MongoDB where Docker runs, else one of its protocol in memory."""
    with mongo_server() as address:
        yield address


@pytest_asyncio.fixture
async def address(server: str) -> AsyncIterator[str]:
    """The address of an empty database."""
    # The server in memory answers one request at a time, so a heartbeat may have to wait.
    options = "authSource=admin&authMechanism=SCRAM-SHA-256&connectTimeoutMS=60000"
    address = f"{server}/scheduler_{secrets.token_hex(4)}?{options}"
    yield address
    async with AsyncMongoClient[dict[str, Any]](address) as client:
        await client.drop_database(client.get_default_database())


async def insert(address: str, collection: str, documents: list[Any]) -> None:
    """Insert documents into a collection."""
    async with AsyncMongoClient[dict[str, Any]](address) as client:
        for first in range(0, len(documents), _CHUNK):
            await client.get_default_database()[collection].insert_many(documents[first : first + _CHUNK])


async def test_reading_continues_after_every_id(address: str) -> None:
    """Of several types."""
    ids = [1, 2.5, 7, "a", "b", ObjectId("0" * 24), ObjectId("f" * 24)]
    await insert(address, "graph_jobs", [{"_id": key} for key in ids])
    whole = await read_records(address)
    assert ids == [document["_id"] for document in decode_documents(whole)]
    for number, record in enumerate(whole, start=1):
        assert comparable(whole[number:]) == comparable(await read_records(address, after=record.location.next))


def _storable(generated: list[dumps.GeneratedDocument]) -> dict[str, list[dict[str, Any]]]:
    """Return documents by collection that a server takes: each `_id` once, and no time after the year 9999."""
    collections: dict[str, dict[str, dict[str, Any]]] = {}
    for item in generated:
        if "_id" in item.document and dumps.Defect.FAR_DATE not in item.causes:
            collections.setdefault(item.collection, {}).setdefault(repr(item.document["_id"]), item.document)
    return {collection: list(documents.values()) for collection, documents in collections.items()}


async def test_a_whole_move(graphjobs: Command, address: str, url: str, tmp_path: Path) -> None:
    """With the address in the environment. A second run changes nothing, and no output has the password."""
    generator = dumps.DumpGenerator(5, dirty=5)
    documents = _storable([*generator.jobs(600), *generator.runs(150), *generator.events(300)])
    for collection, items in documents.items():
        await insert(address, collection, items)
    environ = {"GRAPHJOBS_MONGODB_URL": address}
    options = ("--quarantine", str(tmp_path / "files"), "--json")
    checked = graphjobs("backfill", "--dry-run", "--json", url=url, **environ)
    assert 1 == checked.returncode, checked.stderr
    report = records(checked)[0]
    done = graphjobs("backfill", *options, url=url, **environ)
    parts = [line for line in records(done) if "added" in line]
    assert report["documents"] == sum(part["documents"] for part in parts) == sum(map(len, documents.values()))
    assert report["rejected"] == sum(part["quarantined"] for part in parts) > 0
    assert (1, 1) == (checked.returncode, done.returncode)
    verified = graphjobs("backfill", "--verify", "--json", url=url, **environ)
    assert records(verified)[0]["ok"], verified.stderr
    before = [rows_of(url, table) for table in TABLES]
    again = graphjobs("backfill", *options, url=url, **environ)
    assert 0 == sum(part["added"] + part["overwritten"] for part in records(again) if "added" in part)
    assert before == [rows_of(url, table) for table in TABLES]
    assert [] == [run for run in (checked, done, verified, again) if address in run.stdout + run.stderr]


async def test_an_interrupted_move_resumes(
    storage: Storage, address: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each document is read once, and a document that changed meanwhile is overwritten by the next run."""
    await insert(address, "graph_jobs", [build(_id=f"job-{number:04}") for number in range(1_200)])
    await insert(address, "policy_runs", [run(_id=Binary(bytes(range(16)), 3), status=0)])
    await insert(address, "graph_job_events", [event(jobId="job-0001")])
    advance = checkpoints.advance
    batches = 0

    async def interrupted(*args: Any, **options: Any) -> None:
        nonlocal batches
        await advance(*args, **options)
        batches += 1
        if batches == 2:
            raise RuntimeError("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "advance", interrupted)
        with pytest.raises(RuntimeError, match="interrupted"):
            await backfill_path(storage, address)
    assert 1_000 == len(rows_of(url, "graph_jobs")) == int(ask(url, DOCUMENTS_READ))
    report = await backfill_path(storage, address)
    assert [True, True, True] == [part.resumed for part in report.parts]
    assert (1_202, 1_202) == (report.counts.documents, report.counts.added)
    assert [] == pending_entries(url)
    assert (await verify_path(storage, address)).ok
    async with AsyncMongoClient[dict[str, Any]](address) as client:
        change = {"$set": {"correlationId": "later", "updatedAt": LATER}}
        await client.get_default_database().graph_jobs.update_one({"_id": "job-0123"}, change)
    again = await backfill_path(storage, address)
    assert (1, 1_201) == (again.counts.overwritten, again.counts.unchanged)


async def test_an_empty_database_is_an_error_without_its_password(address: str) -> None:
    """A retry changes nothing."""
    with pytest.raises(ConfigurationError, match="holds none of the collections") as caught:
        await read_records(address)
    assert address.partition("@")[0] not in str(caught.value)
