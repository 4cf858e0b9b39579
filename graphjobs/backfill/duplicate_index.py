"""What was read before, as far as documents meet in it: in a file, so that memory stays flat however many they are."""

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

_SORTS: Final = {JOBS: b"j", RUNS: b"r"}
_NAMES: Final = b"n"

# One transaction that never ends: nobody reads the file later, so that pages are written only when memory is short.
_OPEN: Final = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA cache_size = -{_CACHE_KIB};
CREATE TABLE seen (
    key BLOB PRIMARY KEY, tenant INTEGER NOT NULL, whose INTEGER NOT NULL, old_id INTEGER NOT NULL
) WITHOUT ROWID;
BEGIN;
"""
_LOOK: Final = "SELECT key, tenant, whose, old_id FROM seen WHERE key IN "
_NOTE: Final = "INSERT INTO seen VALUES "
_VALUES: Final = "(?, ?, ?, ?)"

_Row: TypeAlias = tuple[int, int, int]
"""Hashes of 64 bits; they are only compared with those under the same key."""


class Met(Enum):
    """What a document meets among those before it."""

    NOTHING = auto()
    COPY = auto()
    """One of its tenant's that it is another copy of: the same, or as it stood at another time."""
    SAME_ID = auto()
    """Another one, which had the same id."""
    SAME_UUID = auto()
    """Another one, whose id was another and became the same."""
    SAME_NAME = auto()
    """Another one of its tenant's, under another id."""


class Known(NamedTuple):
    """What a document is known by.

    Attributes:
        id: what it comes under.
        tenant_id: whose it is.
        whose: what two copies of one document have in common besides.
        old_id: the id it had.
        name: what nothing else of its tenant may be called; None where it has no name.
    """

    id: UUID
    tenant_id: str
    whose: Hashable
    old_id: Hashable
    name: str | None = None


class Seen:
    """Notes what comes, and tells what meets it; a context manager, and its file is gone after it.

    It blocks, for some microseconds a document. Give it some dozens at once.

    Raises:
        ConfigurationError: on entering and by each method: the temporary folder is full, or cannot be written.
    """

    def __enter__(self) -> Self:
        with _told(), ExitStack() as opened:
            folder = opened.enter_context(TemporaryDirectory(prefix="graphjobs-", ignore_cleanup_errors=True))
            self._file = opened.enter_context(closing(sqlite3.connect(f"{folder}/seen", isolation_level=None)))
            self._file.executescript(_OPEN)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def meet(self, collection: str, documents: Sequence[Known]) -> list[Met]:
        """Tells of each what it meets, and notes those that meet nothing.

        Args:
            collection: jobs or runs.
            documents: in the order they come; one may meet another of them.
        """
        sort = _SORTS[collection]
        keyed = [(sort + each.id.bytes, None if each.name is None else _name_key(each), each) for each in documents]
        before = self._look([key for *both, _ in keyed for key in both if key is not None])
        new: dict[bytes, _Row] = {}
        told = []
        for key, name, each in keyed:
            row = (hash(each.tenant_id), hash(each.whose), hash(each.old_id))
            there = before.get(key)
            if there is not None:
                copy = there[:2] == row[:2]
                told.append(Met.COPY if copy else Met.SAME_ID if there[2] == row[2] else Met.SAME_UUID)
            elif name in before:
                told.append(Met.SAME_NAME)
            else:
                told.append(Met.NOTHING)
                new[key] = before[key] = row
                if name is not None:
                    new[name] = before[name] = (0, 0, 0)
        self._note(new)
        return told

    def holds(self, collection: str, ids: Iterable[tuple[UUID, str]]) -> list[bool]:
        """Tells of each id, with its tenant, whether one of that tenant's was noted under it."""
        sort = _SORTS[collection]
        keyed = [(sort + uuid.bytes, hash(tenant_id)) for uuid, tenant_id in ids]
        before = self._look([key for key, _ in keyed])
        return [key in before and before[key][0] == tenant for key, tenant in keyed]

    def _look(self, keys: list[bytes]) -> dict[bytes, _Row]:
        with _told():
            rows = self._file.execute(f"{_LOOK}({','.join('?' * len(keys))})", keys)
            return {key: (tenant, whose, old_id) for key, tenant, whose, old_id in rows}

    def _note(self, new: dict[bytes, _Row]) -> None:
        if not new:
            return
        values = [value for key, row in new.items() for value in (key, *row)]
        with _told():
            # One statement: between two, the thread that reads on might take its turn.
            self._file.execute(_NOTE + ",".join([_VALUES] * len(new)), values)


def _name_key(document: Known) -> bytes:
    # A tenant holds no newline, so that no two names meet.
    text = f"{document.tenant_id}\n{document.name}".encode()
    return _NAMES + hashlib.blake2b(text, digest_size=_KEY_BYTES).digest()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, OSError):
        raise ConfigurationError(
            "the temporary folder is full or cannot be written, and ids that were read are noted there: make room, or "
            "let TMPDIR name another folder"
        ) from None
