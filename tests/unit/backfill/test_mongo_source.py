"""Reading MongoDB without a server: the address, error texts and time-outs."""

import asyncio
import gc
import json
import socket
import time
import traceback

import bson
import pytest

from graphjobs import ConfigurationError, DatabaseUnavailable
from graphjobs.backfill.extract import mongo_source
from graphjobs.backfill.extract.mongo_source import MongoSource
from graphjobs.backfill.extract.sources import open_source

# In two parts, because a traceback shows the lines of this file.
PASSWORD = "hu" + "sh"

UNUSABLE = [
    "mongodb://",
    "mongodb:///scheduler",
    "mongodb://u:hush@host",
    "mongodb://u:hush@host/",
    "mongodb://u:hush@host:port/scheduler",
    "mongodb://u:hush@host:99999/scheduler",
    "mongodb://u:hu@sh@host/scheduler",
    "mongodb://u:hush/@host/scheduler",
    "mongodb://hush/hush@host/scheduler",
    "mongodb://u:27017/hush@host/scheduler",
    "mongodb://u:hush?@host/scheduler",
    "mongodb://u:hush%zz@host/scheduler",
    "mongodb://u:hush@host/sched uler",
    "mongodb://u:hush@host/scheduler?unknown=hush",
    "mongodb://u:hush@host/scheduler?tls=hush",
    "mongodb://u:hush@host/scheduler?authMechanism=hush",
    "mongodb://u:hush@host/scheduler?tlsCAFile=/nowhere",
    "mongodb+srv://u:hush@host:27017/scheduler",
]


@pytest.mark.parametrize("address", UNUSABLE)
async def test_an_invalid_address_raises_without_its_password(address: str) -> None:
    """The traceback does not contain it either."""
    with pytest.raises(ConfigurationError) as caught:
        async with open_source(address):
            pass
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


async def test_a_name_has_hosts_and_database_and_no_password() -> None:
    """The repr of the source has no password either."""
    for address, expected in (
        ("mongodb://u:hush@a,b:27018/scheduler?replicaSet=hush", "a,b:27018/scheduler"),
        ("mongodb://host/scheduler.graph_jobs", "host/scheduler"),
        ("mongodb://u%40:p%2Fhush@[::1]:1/scheduler", "[::1]:1/scheduler"),
    ):
        client, name = mongo_source._create_client(address)
        try:
            assert expected == name
            assert "hush" not in repr(MongoSource(name, client["scheduler"], ()))
        finally:
            await client.close()


def test_a_too_deep_document_keeps_the_previous_id() -> None:
    """The problem is reported when the document is decoded, and reading continues."""
    id_of = mongo_source._id_decoder()
    deep = b'{"in":' * 499 + b"1" + b"}" * 499
    deepest = bson.encode({"_id": 7, "deep": json.loads(deep)})
    over = bson.encode({"_id": 7, "deep": [json.loads(deep)]})
    assert (7, 6) == (id_of(deepest, 6), id_of(over, 6))


async def traceback_of(address: str) -> str:
    """Return the traceback for an address where no MongoDB answers."""
    with pytest.raises(DatabaseUnavailable) as caught:
        async with open_source(address):
            pass
    return "".join(traceback.format_exception(caught.value))


# pymongo searches for a server every half second and gives up at such a moment. Its monitor may be cancelled while it
# connects and leave the socket to the garbage collector, which the test runs while it still ignores the warning.
pymongo_leaves_a_socket = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pymongo_leaves_a_socket
async def test_an_absent_server_is_reported_within_the_time_out() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        began = time.monotonic()
        text = await traceback_of(f"mongodb://u:{PASSWORD}@127.0.0.1:{port}/scheduler?serverSelectionTimeoutMS=300")
    assert time.monotonic() - began < 5
    assert f"127.0.0.1:{port}/scheduler" in text
    assert PASSWORD not in text
    gc.collect()


@pymongo_leaves_a_socket
async def test_a_server_that_hangs_up_is_reported_within_the_time_out() -> None:
    """The process on the port is not MongoDB."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        began = time.monotonic()
        await traceback_of(f"mongodb://127.0.0.1:{port}/scheduler?serverSelectionTimeoutMS=300")
    assert time.monotonic() - began < 5
    gc.collect()


async def test_the_time_out_of_the_address_replaces_the_default() -> None:
    client, _ = mongo_source._create_client("mongodb://host/scheduler")
    assert 10 == client.options.server_selection_timeout
    await client.close()
    client, _ = mongo_source._create_client("mongodb://host/scheduler?serverSelectionTimeoutMS=300")
    assert 0.3 == client.options.server_selection_timeout
    await client.close()
