"""On-disk index of the keys already read, which detects duplicates in constant memory."""

import hashlib
import sqlite3
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from enum import Enum, auto
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, Self, TypeAlias
from uuid import UUID

from graphjobs.backfill.extract.records import JOBS, RUNS
from graphjobs.errors import ConfigurationError

_CACHE_KIB: Final = 16_384
_KEY_BYTES: Final = 16

_COLLECTION_PREFIXES: Final = {JOBS: b"j", RUNS: b"r"}
_RUN_ID_PREFIX: Final = b"n"

# One transaction without an end: no process reads the file later, so SQLite writes pages only when memory is short.
_OPEN: Final = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA cache_size = -{_CACHE_KIB};
CREATE TABLE keys (
    key BLOB PRIMARY KEY, tenant INTEGER NOT NULL, identity INTEGER NOT NULL, legacy_id INTEGER NOT NULL
) WITHOUT ROWID;
BEGIN;
"""
_FIND: Final = "SELECT key, tenant, identity, legacy_id FROM keys WHERE key IN "
_INSERT: Final = "INSERT INTO keys VALUES "
_VALUES: Final = "(?, ?, ?, ?)"

_Hashes: TypeAlias = tuple[int, int, int]
"""64-bit hashes of tenant, identity and legacy id. They are compared only under the same key."""


class DuplicateKind(Enum):
    """The relation of a document to the documents before it."""

    UNIQUE = auto()
    COPY = auto()
    """Another copy of the same document of the tenant, equal or from another time."""
    SAME_ID = auto()
    """Another document with the same `_id`."""
    SAME_UUID = auto()
    """Another document: its `_id` differs, but becomes the same UUID."""
    SAME_RUN_ID = auto()
    """Another run of the tenant with the same run id, under another id."""


class DocumentKey(NamedTuple):
    """The values that identify a document.

    Attributes:
        id: the UUID that it is imported under.
        tenant_id: its tenant.
        identity: further values that all copies of one document share.
        legacy_id: its `_id` in MongoDB.
        run_id: the run id, unique within the tenant; None for anything but a run.
    """

    id: UUID
    tenant_id: str
    identity: Hashable
    legacy_id: Hashable
    run_id: str | None = None


class DuplicateIndex:
    """Index of document keys in a temporary file, which exists only inside the context manager.

    Calls block for some microseconds per document. Pass some dozens of documents at once.

    Raises:
        ConfigurationError: on entering and by each method, if the temporary folder is full or not writable.
    """

    def __enter__(self) -> Self:
        with _translated_errors(), ExitStack() as resources:
            folder = resources.enter_context(TemporaryDirectory(prefix="graphjobs-", ignore_cleanup_errors=True))
            self._file = resources.enter_context(closing(sqlite3.connect(f"{folder}/keys", isolation_level=None)))
            self._file.executescript(_OPEN)
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def check_and_add(self, collection: str, documents: Sequence[DocumentKey]) -> list[DuplicateKind]:
        """Return the kind of each document, and add the unique ones.

        Args:
            collection: jobs or runs.
            documents: in the order of reading. One may duplicate another of the list.
        """
        prefix = _COLLECTION_PREFIXES[collection]
        keyed = [(prefix + key.id.bytes, None if key.run_id is None else _run_id_key(key), key) for key in documents]
        stored = self._find([key for *both, _ in keyed for key in both if key is not None])
        added: dict[bytes, _Hashes] = {}
        kinds = []
        for key, run_id_key, document in keyed:
            hashes = (hash(document.tenant_id), hash(document.identity), hash(document.legacy_id))
            match = stored.get(key)
            if match is not None:
                kinds.append(_kind_under_same_key(match, hashes))
            elif run_id_key in stored:
                kinds.append(DuplicateKind.SAME_RUN_ID)
            else:
                kinds.append(DuplicateKind.UNIQUE)
                added[key] = stored[key] = hashes
                if run_id_key is not None:
                    added[run_id_key] = stored[run_id_key] = (0, 0, 0)
        self._insert(added)
        return kinds

    def contains(self, collection: str, ids: Iterable[tuple[UUID, str]]) -> list[bool]:
        """Return for each id and tenant whether a document of that tenant was added under the id."""
        prefix = _COLLECTION_PREFIXES[collection]
        keyed = [(prefix + uuid.bytes, hash(tenant_id)) for uuid, tenant_id in ids]
        stored = self._find([key for key, _ in keyed])
        return [key in stored and stored[key][0] == tenant for key, tenant in keyed]

    def _find(self, keys: list[bytes]) -> dict[bytes, _Hashes]:
        with _translated_errors():
            rows = self._file.execute(f"{_FIND}({','.join('?' * len(keys))})", keys)
            return {key: (tenant, identity, legacy_id) for key, tenant, identity, legacy_id in rows}

    def _insert(self, added: dict[bytes, _Hashes]) -> None:
        if not added:
            return
        values = [value for key, hashes in added.items() for value in (key, *hashes)]
        with _translated_errors():
            # One statement: between two of them, the thread that reads ahead could take the interpreter.
            self._file.execute(_INSERT + ",".join([_VALUES] * len(added)), values)


def _kind_under_same_key(stored: _Hashes, hashes: _Hashes) -> DuplicateKind:
    if stored[:2] == hashes[:2]:
        return DuplicateKind.COPY
    return DuplicateKind.SAME_ID if stored[2] == hashes[2] else DuplicateKind.SAME_UUID


def _run_id_key(document: DocumentKey) -> bytes:
    # A tenant contains no newline, so two different pairs never make the same text.
    text = f"{document.tenant_id}\n{document.run_id}".encode()
    return _RUN_ID_PREFIX + hashlib.blake2b(text, digest_size=_KEY_BYTES).digest()


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, OSError):
        raise ConfigurationError(
            "the temporary folder, which holds the index of ids, is full or not writable: free some space or set "
            "TMPDIR to another folder"
        ) from None
