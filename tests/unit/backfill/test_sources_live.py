"""What of reading a live MongoDB needs none: its address, what errors say, and how long it waits."""

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

# In two, for a traceback shows the lines of this file.
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
async def test_an_address_that_cannot_be_used_is_refused_without_its_password(address: str) -> None:
    """Not even a traceback tells it."""
    with pytest.raises(ConfigurationError) as caught:
        async with open_source(address):
            pass
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


async def test_a_name_tells_hosts_and_database_and_no_password() -> None:
    """Nor does what people may print."""
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


def test_the_id_of_a_document_that_nests_too_deep_is_that_of_the_one_before() -> None:
    """It is told later, when the document is read, and does not keep the reading from going on."""
    key_of = mongo_source._id_decoder()
    deep = b'{"in":' * 499 + b"1" + b"}" * 499
    most = bson.encode({"_id": 7, "deep": json.loads(deep)})
    over = bson.encode({"_id": 7, "deep": [json.loads(deep)]})
    assert (7, 6) == (key_of(most, 6), key_of(over, 6))


async def refusal_of(address: str) -> str:
    """Gives the traceback of an address where no MongoDB answers."""
    with pytest.raises(DatabaseUnavailable) as caught:
        async with open_source(address):
            pass
    return "".join(traceback.format_exception(caught.value))


# pymongo looks for a server every half second, and gives up just then: its monitor may be cancelled while it connects,
# and leaves that socket to the garbage collector, which is sent for while the warning is still ours.
pymongo_leaves_a_socket = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pymongo_leaves_a_socket
async def test_a_server_that_is_not_there_is_told_within_its_time_out() -> None:
    """Nobody listens there, and nobody waits for longer than was said."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        began = time.monotonic()
        told = await refusal_of(f"mongodb://u:{PASSWORD}@127.0.0.1:{port}/scheduler?serverSelectionTimeoutMS=300")
    assert time.monotonic() - began < 5
    assert f"127.0.0.1:{port}/scheduler" in told
    assert PASSWORD not in told
    gc.collect()


@pymongo_leaves_a_socket
async def test_a_server_that_hangs_up_is_told_within_its_time_out() -> None:
    """Something listens there, and it is no MongoDB."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        began = time.monotonic()
        await refusal_of(f"mongodb://127.0.0.1:{port}/scheduler?serverSelectionTimeoutMS=300")
    assert time.monotonic() - began < 5
    gc.collect()


async def test_our_own_time_out_holds_where_the_address_names_none() -> None:
    """Ten seconds, and not pymongo's thirty."""
    client, _ = mongo_source._create_client("mongodb://host/scheduler")
    assert 10 == client.options.server_selection_timeout
    await client.close()
    client, _ = mongo_source._create_client("mongodb://host/scheduler?serverSelectionTimeoutMS=300")
    assert 0.3 == client.options.server_selection_timeout
    await client.close()
