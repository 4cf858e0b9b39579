"""Reads collections of a MongoDB server in the order of their `_id`. Nothing is written there.

Error texts do not include those of pymongo, which may repeat parts of the address and so the password.
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
"""Time limit of the search for a server; `serverSelectionTimeoutMS` of the address replaces it."""

BATCH_MAX: Final = 256
"""Documents of a server batch at most. The server also limits a batch to 16 MiB."""

_AUTH_CODES: Final = frozenset({8000, 18, 13})
"""Server codes of a wrong password and of a missing permission. Source: MongoDB's error_codes.yml."""


@asynccontextmanager
async def open_mongo(address: str) -> AsyncIterator["MongoSource"]:
    """Open the collections of the database that an address names.

    Raises:
        ConfigurationError: the address is invalid or names no database, the server rejects the user, or the database
            has none of the collections.
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
    """Collections of a server; see `graphjobs.backfill.extract.sources.Source`.

    The read is not a snapshot. A document inserted meanwhile is included only if its `_id` is after the current one.
    """

    def __init__(self, name: str, database: Any, parts: tuple[SourcePart, ...]) -> None:
        self.name = name
        self.parts = parts
        self._database = database
        self._bytes_read: dict[SourcePart, int] = {}

    async def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        """Yield the documents of a collection by `_id`; see `Source`."""
        position = after or ReadOffset()
        id_of = _id_decoder()
        self._bytes_read[part] = position.offset
        with _translate_errors(part.name):
            async with self._cursor(part, position) as cursor:
                async for document in cursor:
                    raw: bytes = document.raw
                    key = id_of(raw, position.id)
                    if position is after and position.ordinal and key == position.id:
                        continue  # min() starts at the key, not after it
                    position = ReadOffset(position.ordinal + 1, position.offset + len(raw), key)
                    self._bytes_read[part] = position.offset
                    yield SourceRecord(
                        part.collection, SourceLocation(part.name, position.ordinal, None, position), "bson", raw
                    )

    def bytes_read(self, part: SourcePart) -> int:
        """Return how many bytes of documents were read; see `Source`."""
        return self._bytes_read.get(part, 0)

    def _cursor(self, part: SourcePart, after: ReadOffset) -> Any:
        from bson.raw_bson import RawBSONDocument
        from pymongo.read_concern import ReadConcern

        collection = self._database.get_collection(
            part.collection,
            # Decoded one by one, so that an invalid document does not affect others.
            codec_options=codec_options().with_options(document_class=RawBSONDocument),
            read_concern=ReadConcern("majority"),
        )
        # Not {"_id": {"$gt": ...}}: that finds only an _id of the same type. Some servers of the protocol ignore min(),
        # and without it MongoDB reads from the beginning.
        rest = {"$expr": {"$gte": ["$_id", {"$literal": after.id}]}} if after.ordinal else {}
        cursor = collection.find(rest, batch_size=BATCH_MAX).sort("_id", 1).hint([("_id", 1)])
        return cursor.min([("_id", after.id)]) if after.ordinal else cursor


def _id_decoder() -> Callable[[bytes, Any], Any]:
    import bson
    from bson.errors import BSONError

    options: Any = codec_options()
    lenient = options.with_options(unicode_decode_error_handler="replace")

    def id_of(raw: bytes, previous: Any) -> Any:
        """Return the `_id` of a document, or the previous one if the document is unreadable."""
        if nests_deeper("bson", raw, DECODED_DEPTH_MAX):
            return previous
        try:
            return bson.decode(raw, lenient).get("_id", previous)
        except (BSONError, ValueError, TypeError, LookupError, ArithmeticError):
            return previous

    return id_of


def _create_client(address: str) -> tuple[Any, str]:
    """Return a client that is not connected yet, and the name of the database for messages, without the password."""
    import pymongo
    from pymongo.errors import PyMongoError

    options: dict[str, Any] = {"appname": "graphjobs-backfill"}
    if "serverselectiontimeoutms" not in address.lower():
        options["serverSelectionTimeoutMS"] = SERVER_TIMEOUT // timedelta(milliseconds=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pymongo only warns of an unknown option
            client: Any = pymongo.AsyncMongoClient(address, **options)
            database = client.get_default_database(default="-").name
    except (PyMongoError, ValueError, TypeError, LookupError, OSError, UserWarning):
        raise ConfigurationError(
            "the mongodb address is invalid: it must be mongodb://user:password@host:port/database?options, with user "
            "and password percent-encoded, and options that MongoDB knows"
        ) from None
    hosts, _, path = address.partition("://")[2].partition("?")[0].partition("/")
    if "@" in path:
        raise ConfigurationError("the mongodb address is invalid: user and password must be percent-encoded")
    if not path:
        raise ConfigurationError(
            "the mongodb address must name the database to read, for example mongodb://host/database"
        )
    return client, safe_excerpt(f"{hosts.rpartition('@')[2]}/{database}")


async def _list_parts(database: Any, name: str) -> tuple[SourcePart, ...]:
    listed = await database.list_collections(filter={"name": {"$in": list(COLLECTIONS)}})
    infos = {collection["name"]: collection.get("info", {}) async for collection in listed}
    if not infos:
        raise ConfigurationError(f"{name} holds none of the collections {', '.join(COLLECTIONS)}")
    parts = []
    for collection in COLLECTIONS:
        if collection in infos:
            # The UUID changes when a collection is dropped and created again.
            uuid = bytes(infos[collection].get("uuid", b"")).hex()
            part_name = f"{name}.{collection}"
            fingerprint = f"sha256:{hashlib.sha256(f'{part_name} {uuid}'.encode()).hexdigest()}"
            parts.append(SourcePart(collection, part_name, fingerprint, await _data_size(database, collection)))
    return tuple(parts)


async def _data_size(database: Any, collection: str) -> int | None:
    """Return the bytes of a collection's documents, or None if the user may not read the statistics."""
    from pymongo.errors import OperationFailure

    try:
        cursor = await database[collection].aggregate([{"$collStats": {"storageStats": {}}}])
        return sum([int(stats["storageStats"]["size"]) async for stats in cursor])
    except (OperationFailure, LookupError):
        return None


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    from pymongo import errors

    try:
        yield
    except (errors.ConnectionFailure, errors.CursorNotFound, errors.ExecutionTimeout, errors.WaitQueueTimeoutError):
        problem: Exception = DatabaseUnavailable(f"{name}: MongoDB does not answer")
    except errors.OperationFailure as error:
        code_name = safe_excerpt(str((error.details or {}).get("codeName", "no name")))
        text = f"MongoDB rejected the read: code {error.code}, {code_name}"
        if error.code in _AUTH_CODES:
            text = "MongoDB rejected the user or the password, or the user may not read this database"
        problem = ConfigurationError(f"{name}: {text}")
    except errors.PyMongoError as error:
        problem = ConfigurationError(f"{name}: the read failed ({type(error).__name__})")
    else:
        return
    raise problem from None
