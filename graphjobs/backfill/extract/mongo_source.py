"""Reads collections of a running MongoDB in the order of their `_id`; nothing is written there.

Whatever goes wrong is told in our own words: pymongo's may repeat parts of the address, and that holds a password.
"""

import hashlib
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Final

from graphjobs.backfill.extract.records import (
    COLLECTIONS,
    Found,
    Part,
    Place,
    Position,
    codec_options,
    nests_deeper,
    shortened,
)
from graphjobs.core.json_values import DECODED_DEPTH_MAX
from graphjobs.errors import ConfigurationError, DatabaseUnavailable

SCHEMES: Final = ("mongodb://", "mongodb+srv://")

SERVER_TIMEOUT: Final = timedelta(seconds=10)
"""How long to look for a server, unless the address says so (`serverSelectionTimeoutMS`)."""

BATCH_MAX: Final = 256
"""The most documents the server sends at once; it sends no more than 16 MiB, whatever this says."""

_REFUSED: Final = frozenset({8000, 18, 13})
"""The server's codes of a refused password, and of a user who may not do it. Source: MongoDB's error_codes.yml."""


@asynccontextmanager
async def open_live(address: str) -> "AsyncIterator[LiveSource]":
    """Opens the collections of the database that an address names.

    Raises:
        ConfigurationError: the address cannot be read, names no database, is refused, or holds none of the collections.
        DatabaseUnavailable: no server answers within its time-out.
    """
    client, name = _client(address)
    try:
        with _translated(name):
            database = client.get_database(name.rpartition("/")[2], codec_options=codec_options())
            parts = await _parts(database, name)
        yield LiveSource(name, database, parts)
    finally:
        await client.close()


class LiveSource:
    """Collections of a running server; see `graphjobs.backfill.extract.sources.Source`.

    What is inserted while it is read comes along where its `_id` is still to come, and not otherwise: documents are
    read as they stand, not all at one moment.
    """

    def __init__(self, name: str, database: Any, parts: tuple[Part, ...]) -> None:
        self.name = name
        self.parts = parts
        self._database = database
        self._read: dict[Part, int] = {}

    async def read(self, part: Part, after: Position | None = None) -> AsyncGenerator[Found, None]:
        """Gives what a collection holds, by `_id`; see `Source`."""
        position = after or Position()
        key_of = _key_reader()
        self._read[part] = position.offset
        with _translated(part.name):
            async with self._cursor(part, position) as cursor:
                async for document in cursor:
                    raw: bytes = document.raw
                    key = key_of(raw, position.id)
                    if position is after and position.ordinal and key == position.id:
                        continue  # an index is entered at a key, not after it
                    position = Position(position.ordinal + 1, position.offset + len(raw), key)
                    self._read[part] = position.offset
                    yield Found(part.collection, Place(part.name, position.ordinal, None, position), "bson", raw)

    def bytes_read(self, part: Part) -> int:
        """Gives how many bytes of documents have been read; see `Source`."""
        return self._read.get(part, 0)

    def _cursor(self, part: Part, after: Position) -> Any:
        from bson.raw_bson import RawBSONDocument
        from pymongo.read_concern import ReadConcern

        collection = self._database.get_collection(
            part.collection,
            # Decoded one by one, so that one that cannot be does not take its neighbours along.
            codec_options=codec_options().with_options(document_class=RawBSONDocument),
            read_concern=ReadConcern("majority"),
        )
        cursor = collection.find({}, batch_size=BATCH_MAX).sort("_id", 1).hint([("_id", 1)])
        # Not {"_id": {"$gt": ...}}: that finds none but those of the same type, and an _id may be of any.
        return cursor.min([("_id", after.id)]) if after.ordinal else cursor


def _key_reader() -> Callable[[bytes, Any], Any]:
    import bson
    from bson.errors import BSONError

    options: Any = codec_options()
    forgiving = options.with_options(unicode_decode_error_handler="replace")

    def key_of(raw: bytes, otherwise: Any) -> Any:
        """Gives the `_id`; of a document that cannot be read at all, that of the one before."""
        if nests_deeper("bson", raw, DECODED_DEPTH_MAX):
            return otherwise
        try:
            return bson.decode(raw, forgiving).get("_id", otherwise)
        except (BSONError, ValueError, TypeError, LookupError, ArithmeticError):
            return otherwise

    return key_of


def _client(address: str) -> tuple[Any, str]:
    """Gives a client, which has not connected yet, and the name of what it reads, which holds no password."""
    import pymongo
    from pymongo.errors import PyMongoError

    given: dict[str, Any] = (
        {} if "serverselectiontimeoutms" in address.lower() else {"serverSelectionTimeoutMS": _milliseconds()}
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pymongo ignores an option it does not know, and warns
            client: Any = pymongo.AsyncMongoClient(address, appname="graphjobs-backfill", **given)
            database = client.get_default_database(default="-").name
    except (PyMongoError, ValueError, TypeError, LookupError, OSError, UserWarning):
        raise ConfigurationError(
            "the mongodb address cannot be used: it should be mongodb://user:password@host:port/database?options, user "
            "and password percent-encoded, and options those that MongoDB knows"
        ) from None
    hosts, _, path = address.partition("://")[2].partition("?")[0].partition("/")
    if "@" in path:
        raise ConfigurationError("the mongodb address cannot be used: user and password should be percent-encoded")
    if not path:
        raise ConfigurationError("the mongodb address should name the database to read, as mongodb://host/database")
    return client, shortened(f"{hosts.rpartition('@')[2]}/{database}")


def _milliseconds() -> int:
    return int(SERVER_TIMEOUT / timedelta(milliseconds=1))


async def _parts(database: Any, name: str) -> tuple[Part, ...]:
    listed = await database.list_collections(filter={"name": {"$in": list(COLLECTIONS)}})
    known = {each["name"]: each async for each in listed}
    if not known:
        raise ConfigurationError(f"{name} holds none of the collections {', '.join(COLLECTIONS)}")
    parts = []
    for collection in COLLECTIONS:
        if collection in known:
            # A collection that is dropped and made anew is another one.
            made = bytes(known[collection].get("info", {}).get("uuid", b"")).hex()
            part = f"{name}.{collection}"
            digest = hashlib.sha256(f"{part} {made}".encode()).hexdigest()
            parts.append(Part(collection, part, f"sha256:{digest}", await _size_of(database, collection)))
    return tuple(parts)


async def _size_of(database: Any, collection: str) -> int | None:
    """Gives the bytes of a collection's documents, None where the user may not ask."""
    from pymongo.errors import OperationFailure

    try:
        cursor = await database[collection].aggregate([{"$collStats": {"storageStats": {}}}])
        return sum([int(each["storageStats"]["size"]) async for each in cursor])
    except (OperationFailure, LookupError):
        return None


@contextmanager
def _translated(name: str) -> Iterator[None]:
    from pymongo import errors

    try:
        yield
    except (errors.ConnectionFailure, errors.CursorNotFound, errors.ExecutionTimeout, errors.WaitQueueTimeoutError):
        problem: Exception = DatabaseUnavailable(f"{name}: MongoDB does not answer, or no longer")
    except errors.OperationFailure as error:
        told = "the user or the password is refused, or may not read it" if error.code in _REFUSED else _code_of(error)
        problem = ConfigurationError(f"{name}: {told}")
    except errors.PyMongoError as error:
        problem = ConfigurationError(f"{name}: it cannot be read ({type(error).__name__})")
    else:
        return
    raise problem from None


def _code_of(error: Any) -> str:
    word = (error.details or {}).get("codeName", "no name")
    return f"MongoDB refuses to read it: code {error.code}, {shortened(str(word))}"
