"""Reads collections of a running MongoDB in the order of their `_id`; nothing is written there.

Whatever goes wrong is told in our own words: pymongo's may repeat parts of the address, and that holds a password.
"""

import hashlib
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Final

from graphjobs.backfill.extract.decoding import codec_options, nests_deeper, safe_excerpt
from graphjobs.backfill.extract.records import COLLECTIONS, ReadOffset, SourceLocation, SourcePart, SourceRecord
from graphjobs.core.json_values import DECODED_DEPTH_MAX
from graphjobs.errors import ConfigurationError, DatabaseUnavailable

SCHEMES: Final = ("mongodb://", "mongodb+srv://")

SERVER_TIMEOUT: Final = timedelta(seconds=10)
"""How long to look for a server, unless the address says so (`serverSelectionTimeoutMS`)."""

BATCH_MAX: Final = 256
"""The most documents the server sends at once; it sends no more than 16 MiB, whatever this says."""

_AUTH_CODES: Final = frozenset({8000, 18, 13})
"""The server's codes of a refused password, and of a user who may not do it. Source: MongoDB's error_codes.yml."""


@asynccontextmanager
async def open_mongo(address: str) -> AsyncIterator["MongoSource"]:
    """Opens the collections of the database that an address names.

    Raises:
        ConfigurationError: the address cannot be read, names no database, is refused, or holds none of the collections.
        DatabaseUnavailable: no server answers within its time-out.
    """
    client, name = _create_client(address)
    try:
        with _translate_errors(name):
            database = client.get_database(name.rpartition("/")[2], codec_options=codec_options())
            parts = await _list_parts(database, name)
        yield MongoSource(name, database, parts)
    finally:
        await client.close()


class MongoSource:
    """Collections of a running server; see `graphjobs.backfill.extract.sources.Source`.

    What is inserted while it is read comes along where its `_id` is still to come, and not otherwise: documents are
    read as they stand, not all at one moment.
    """

    def __init__(self, name: str, database: Any, parts: tuple[SourcePart, ...]) -> None:
        self.name = name
        self.parts = parts
        self._database = database
        self._bytes_read: dict[SourcePart, int] = {}

    async def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        """Gives what a collection holds, by `_id`; see `Source`."""
        position = after or ReadOffset()
        key_of = _id_decoder()
        self._bytes_read[part] = position.offset
        with _translate_errors(part.name):
            async with self._cursor(part, position) as cursor:
                async for document in cursor:
                    raw: bytes = document.raw
                    key = key_of(raw, position.id)
                    if position is after and position.ordinal and key == position.id:
                        continue  # an index is entered at a key, not after it
                    position = ReadOffset(position.ordinal + 1, position.offset + len(raw), key)
                    self._bytes_read[part] = position.offset
                    yield SourceRecord(
                        part.collection, SourceLocation(part.name, position.ordinal, None, position), "bson", raw
                    )

    def bytes_read(self, part: SourcePart) -> int:
        """Gives how many bytes of documents have been read; see `Source`."""
        return self._bytes_read.get(part, 0)

    def _cursor(self, part: SourcePart, after: ReadOffset) -> Any:
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


def _id_decoder() -> Callable[[bytes, Any], Any]:
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


def _create_client(address: str) -> tuple[Any, str]:
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
    return client, safe_excerpt(f"{hosts.rpartition('@')[2]}/{database}")


def _milliseconds() -> int:
    return int(SERVER_TIMEOUT / timedelta(milliseconds=1))


async def _list_parts(database: Any, name: str) -> tuple[SourcePart, ...]:
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
            parts.append(SourcePart(collection, part, f"sha256:{digest}", await _data_size(database, collection)))
    return tuple(parts)


async def _data_size(database: Any, collection: str) -> int | None:
    """Gives the bytes of a collection's documents, None where the user may not ask."""
    from pymongo.errors import OperationFailure

    try:
        cursor = await database[collection].aggregate([{"$collStats": {"storageStats": {}}}])
        return sum([int(each["storageStats"]["size"]) async for each in cursor])
    except (OperationFailure, LookupError):
        return None


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    from pymongo import errors

    try:
        yield
    except (errors.ConnectionFailure, errors.CursorNotFound, errors.ExecutionTimeout, errors.WaitQueueTimeoutError):
        problem: Exception = DatabaseUnavailable(f"{name}: MongoDB does not answer, or no longer")
    except errors.OperationFailure as error:
        told = (
            "the user or the password is refused, or may not read it"
            if error.code in _AUTH_CODES
            else _describe_code(error)
        )
        problem = ConfigurationError(f"{name}: {told}")
    except errors.PyMongoError as error:
        problem = ConfigurationError(f"{name}: it cannot be read ({type(error).__name__})")
    else:
        return
    raise problem from None


def _describe_code(error: Any) -> str:
    word = (error.details or {}).get("codeName", "no name")
    return f"MongoDB refuses to read it: code {error.code}, {safe_excerpt(str(word))}"
