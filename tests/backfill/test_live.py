"""A MongoDB server yields the same documents as a dump, in an order that allows a resume."""

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from bson import Int64, ObjectId
from bson.binary import Binary
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient
from testcontainers.community.mongodb import MongoDbContainer

from graphjobs import ConfigurationError
from graphjobs.backfill.extract.sources import open_source
from tests.backfill import dumps
from tests.backfill.source_helpers import comparable, decode_document, read_documents, read_records

# One of each type that BSON orders differently: a plain comparison finds only values of its own type.
MIXED: list[Any] = [
    None,
    -1,
    2.5,
    Int64(2**60),
    "a",
    "b",
    {"a": 1},
    Binary(UUID(int=7).bytes, 3),
    Binary(UUID(int=7).bytes, 4),
    ObjectId("0" * 24),
    ObjectId("f" * 24),
    True,
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server, without a database."""
    with MongoDbContainer("mongo:8") as container:
        yield container.get_connection_url().rstrip("/")


@pytest_asyncio.fixture
async def address(server: str) -> AsyncIterator[str]:
    """The address of an empty database."""
    name = f"scheduler_{secrets.token_hex(4)}"
    yield f"{server}/{name}?authSource=admin"
    async with AsyncMongoClient[dict[str, Any]](server) as client:
        await client.drop_database(name)


async def insert(address: str, collection: str, documents: list[Any]) -> None:
    """Insert documents into a collection."""
    async with AsyncMongoClient[dict[str, Any]](address) as client:
        await client.get_default_database()[collection].insert_many(documents, ordered=True)


async def test_a_server_yields_all_documents_in_the_order_of_their_ids(address: str) -> None:
    documents = [generated.document for generated in dumps.DumpGenerator(3, dirty=0).jobs(2_000)]
    await insert(address, "graph_jobs", documents)
    decoded = await read_documents(address)
    assert len(documents) == len(decoded)
    assert all(document in decoded[index : index + 1] for index, document in enumerate(decoded))
    assert {repr(document["_id"]) for document in documents} == {repr(document["_id"]) for document in decoded}
    async with open_source(address) as source:
        (part,) = source.parts
        assert [] != [record async for record in source.read(part)]
        assert part.size_bytes == source.bytes_read(part)


async def test_reading_continues_after_every_id_of_every_type(address: str) -> None:
    """It also continues after an id that was deleted meanwhile."""
    await insert(address, "graph_jobs", [{"_id": key, "n": n} for n, key in enumerate(MIXED)])
    whole = await read_records(address)
    assert len(MIXED) == len(whole)
    for number, record in enumerate(whole, start=1):
        position = type(record.location.next).from_json(record.location.next.to_json())
        assert comparable(whole[number:]) == comparable(await read_records(address, after=position))
    async with AsyncMongoClient[dict[str, Any]](address) as client:
        deleted = decode_document(whole[4])
        assert deleted is not None
        await client.get_default_database().graph_jobs.delete_one({"_id": deleted["_id"]})
    rest = await read_records(address, after=whole[4].location.next)
    assert [decode_document(record) for record in whole[5:]] == [decode_document(record) for record in rest]


async def test_an_undecodable_document_affects_no_other(address: str) -> None:
    import bson

    bad = bson.encode({"_id": 2, "text": "ok"}).replace(b"ok", b"\xff\xfe")
    await insert(address, "graph_jobs", [{"_id": 1}, RawBSONDocument(bad), {"_id": 3}])
    records = await read_records(address)
    assert [{"_id": 1}, None, {"_id": 3}] == [decode_document(record) for record in records]
    assert bad == records[1].raw


async def test_a_recreated_collection_has_another_fingerprint(address: str) -> None:
    """A position in the old collection is invalid in the new one."""

    async def fingerprint() -> str:
        async with open_source(address) as source:
            return source.parts[0].fingerprint

    await insert(address, "graph_jobs", [{"_id": 1}])
    first = await fingerprint()
    assert first == await fingerprint()
    async with AsyncMongoClient[dict[str, Any]](address) as client:
        await client.get_default_database().graph_jobs.drop()
    await insert(address, "graph_jobs", [{"_id": 1}])
    assert first != await fingerprint()


async def test_a_wrong_password_and_an_empty_database_raise(address: str) -> None:
    with pytest.raises(ConfigurationError, match="holds none of the collections"):
        await read_records(address)
    scheme, _, rest = address.partition("://")
    wrong = f"{scheme}://unknown:hush@{rest.rpartition('@')[2]}"
    with pytest.raises(ConfigurationError, match="rejected the user") as caught:
        await read_records(wrong)
    assert "hush" not in str(caught.value)
