"""Where documents come from: a folder of dumps, one dump, or a server; each is read from wherever reading ended.

This room opens sources and hands out what is found in batches, so that the event loop goes on meanwhile. It writes
nothing, and what a document means is not known here.
"""

import asyncio
import hashlib
import os
import re
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, Final, Protocol, TypeVar

from graphjobs.backfill.extract.bson_framing import (
    CHUNK_SIZE,
    ByteStream,
    GzipStream,
    PlainStream,
    detect_format,
    is_gzip,
)
from graphjobs.backfill.extract.decoding import Encoding, require_pymongo, safe_excerpt
from graphjobs.backfill.extract.json_framing import raw_records
from graphjobs.backfill.extract.mongo_source import SCHEMES, open_mongo
from graphjobs.backfill.extract.records import (
    COLLECTIONS,
    END_OFFSET,
    ReadOffset,
    SourceLocation,
    SourcePart,
    SourceRecord,
)
from graphjobs.errors import ConfigurationError

BATCH_MAX: Final = 64
"""The most documents of a batch; one is read while the one before is dealt with.

Of 256 the event loop waited five times as long for its turn, at the same rate.
"""

BATCH_SIZE_MAX: Final = 256 * 1024
"""The bytes after which a batch is full, whatever its documents."""

T = TypeVar("T")

_SUFFIXES: Final = (".bson", ".json", ".jsonl", ".ndjson")
_EDITED: Final = re.compile(r"\.edited(\.\d+)?$")
"""What is mended and was put aside has this behind the name of its collection."""

_EDGE_SIZE: Final = 64 * 1024


class Source(Protocol):
    """Documents of some collections, in an order that is always the same.

    Attributes:
        name: what people know it by; it holds no password.
        parts: what it holds, in the order they are to be read: jobs, policy runs, events.
    """

    name: str
    parts: tuple[SourcePart, ...]

    def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        """Gives what a part holds, in its order.

        Close it (`contextlib.aclosing`) where it is not read to its end.

        Args:
            part: one of `parts`.
            after: the `place.next` of what was read last; all, if it is not given. It holds as long as the part's
                fingerprint does.

        Raises:
            ConfigurationError: the part cannot be read (any more), or the position lies past its end.
            DatabaseUnavailable: the server does not answer; to be read on later, after what was read last.
        """
        ...

    def bytes_read(self, part: SourcePart) -> int:
        """Gives how much of `part.size_bytes` has been read, for a progress bar."""
        ...


@asynccontextmanager
async def open_source(path_or_url: str) -> AsyncIterator[Source]:
    """Opens what documents are read from.

    Args:
        path_or_url: a folder of dump files named after their collections (`graph_jobs.bson`, `policy_runs.json.gz`),
            one such file, or a `mongodb://` or `mongodb+srv://` address that names a database.

    Raises:
        ConfigurationError: it is none of these, holds none of the collections, or cannot be read; or pymongo is not
            installed.
        DatabaseUnavailable: the server does not answer.
    """
    require_pymongo()
    if path_or_url.startswith(SCHEMES):
        async with open_mongo(path_or_url) as live:
            yield live
        return
    if "://" in path_or_url:
        raise ConfigurationError("a source is a folder, a file, or an address that starts with mongodb://")
    yield await asyncio.to_thread(_open_files, path_or_url)


def suggest_collections(path_or_url: str) -> dict[str, str]:
    """Gives files of a folder that no backfill reads, but would under the name of a collection that is missing there.

    Args:
        path_or_url: as for `open_source`; an address, or a file, has none.
    """
    try:
        names = sorted(path.name for path in Path(path_or_url).iterdir() if path.is_file())
    except (OSError, ValueError):
        return {}
    stems = {name: _collection_stem(name.lower()) or "" for name in names}
    missing = [each for each in COLLECTIONS if each not in map(_collection_stem, names)]
    alike = {name: get_close_matches(stem, missing, n=1, cutoff=0.85) for name, stem in stems.items()}
    return {name: found[0] for name, found in alike.items() if found}


class FileSource:
    """Dump files; see `Source`."""

    def __init__(self, name: str, files: dict[SourcePart, Path]) -> None:
        self.name = name
        self.parts = tuple(files)
        self._files = files
        self._readers: dict[SourcePart, _FileReader] = {}

    async def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        """Gives what a part holds; see `Source`."""
        reader = await _open_reader(part, self._files[part], after or ReadOffset())
        self._readers[part] = reader
        batch = asyncio.create_task(asyncio.to_thread(reader.read_batch))
        try:
            while (entries := await _run_to_completion(batch)) is not None:
                # The next one is read while this one is dealt with.
                batch = asyncio.create_task(asyncio.to_thread(reader.read_batch))
                for each in entries:
                    yield each
        finally:
            try:
                await _wait_ignoring_cancel(batch)  # a batch is short
            finally:
                reader.close()

    def bytes_read(self, part: SourcePart) -> int:
        """Gives how much of the file has been read; see `Source`."""
        reader = self._readers.get(part)
        return reader.read_bytes if reader else 0


async def _open_reader(part: SourcePart, path: Path, after: ReadOffset) -> "_FileReader":
    opening = asyncio.create_task(asyncio.to_thread(_FileReader, part, path, after))
    try:
        return await _run_to_completion(opening)
    except asyncio.CancelledError:
        if opening.exception() is None:
            opening.result().close()
        raise


async def _run_to_completion(work: "asyncio.Task[T]") -> T:
    """Waits for what a thread does, also when this is cancelled meanwhile: the thread cannot be, and holds the file."""
    await _wait_ignoring_cancel(work)
    return work.result()


async def _wait_ignoring_cancel(work: "asyncio.Task[T]") -> None:
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    work.exception()  # looked at: who waits no longer is not told
    if cancelled is not None:
        raise cancelled


class _FileReader:
    """One file on its way; it blocks, and belongs to one thread at a time.

    What lies there is decoded elsewhere: two threads that both want to run Python take turns, and that takes long.
    """

    def __init__(self, part: SourcePart, path: Path, after: ReadOffset) -> None:
        self._part = part
        self._path = path
        self._file = _open_file(path)
        try:
            _require_unchanged(self._file, path, part)
            self._records = self._open_records(after)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @property
    def read_bytes(self) -> int:
        """How far the file has been read."""
        return self._stream.read_bytes

    def read_batch(self) -> list[SourceRecord] | None:
        """Gives what comes next, which may be nothing for now; None at the end."""
        try:
            return self._next_batch()
        except OSError as error:
            raise _read_error(self._path, error) from None

    def _open_records(self, after: ReadOffset) -> "Iterator[SourceRecord | None]":
        try:
            packed = is_gzip(self._file)
            kind = _require_format(self._file, self._path)
            size = os.fstat(self._file.fileno()).st_size
            if not packed and size < after.offset < END_OFFSET:
                raise ConfigurationError(f"{self._part.name} ends before the position at byte {after.offset:,}")
            skipped = after.ordinal if packed else 0
            self._stream: ByteStream = (
                GzipStream(self._file)
                if packed
                else PlainStream(self._file, 0 if after.offset == END_OFFSET else after.offset)
            )
        except OSError as error:
            raise _read_error(self._path, error) from None
        if after.offset == END_OFFSET:
            return iter(())
        return self._read_records(kind, 0 if packed else after.offset, 0 if packed else after.ordinal, skipped)

    def _read_records(self, kind: str, offset: int, ordinal: int, skipped: int) -> "Iterator[SourceRecord | None]":
        name, collection = self._part.name, self._part.collection
        form: Encoding = "bson" if kind == "bson" else "json"
        for frame in raw_records(kind, self._stream, offset):
            if frame is None:
                yield None
                continue
            ordinal += 1
            if ordinal <= skipped:
                yield None
                continue
            start, end, raw, fault = frame
            place = SourceLocation(name, ordinal, start, ReadOffset(ordinal, END_OFFSET if end is None else end))
            yield SourceRecord(collection, place, form, raw, fault)

    def _next_batch(self) -> list[SourceRecord] | None:
        batch: list[SourceRecord] = []
        looked, size = 0, 0
        for looked, found in enumerate(self._records, start=1):
            if found is not None:
                batch.append(found)
                size += len(found.raw)
            if looked == BATCH_MAX or size >= BATCH_SIZE_MAX:
                return batch
        if not looked:
            # What is written over while it is read may end anywhere, and its end is not the end of what was begun.
            _require_unchanged(self._file, self._path, self._part)
        return batch if looked else None


def _open_files(location: str) -> FileSource:
    path = Path(location)
    try:
        if path.is_dir():
            found = _find_dumps(path)
        elif path.exists():
            found = {_require_collection(path): path}
        else:
            raise ConfigurationError(f"there is no file or folder {safe_excerpt(location)}")
        parts = {
            _file_part(collection, found[collection]): found[collection]
            for collection in COLLECTIONS
            if collection in found
        }
    except OSError as error:
        raise _read_error(path, error) from None
    except ValueError as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError("the path of the source holds characters that no path can hold") from None
    return FileSource(safe_excerpt(location), parts)


def _collection_stem(name: str) -> str | None:
    """Gives the collection a file is named after, whichever it is; None for what is no dump by its name."""
    plain = name.removesuffix(".gz")
    return next((plain.removesuffix(suffix) for suffix in _SUFFIXES if plain.endswith(suffix)), None)


def _require_collection(path: Path) -> str:
    stem = _collection_stem(_EDITED.sub("", path.name))
    if stem in COLLECTIONS:
        return stem
    raise ConfigurationError(
        f"{safe_excerpt(path.name)}: a dump should be named after its collection, as {COLLECTIONS[0]}.bson or "
        f"{COLLECTIONS[0]}.json.gz; known are {', '.join(COLLECTIONS)}"
    )


def _find_dumps(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = _collection_stem(path.name)
        if stem not in COLLECTIONS or path.is_dir():
            continue
        if stem in found:
            raise ConfigurationError(
                f"{safe_excerpt(str(folder))} holds two files for one collection, {found[stem].name} and {path.name}: "
                "leave one, or name the file to be read"
            )
        found[stem] = path
    if not found:
        within = next((path for path in sorted(folder.iterdir()) if path.is_dir() and _holds_dumps(path)), None)
        hint = f"; there are some in {safe_excerpt(str(within))}" if within else ""
        names = ", ".join(f"{collection}.bson" for collection in COLLECTIONS)
        raise ConfigurationError(f"{safe_excerpt(str(folder))} holds no dump ({names}, or .json, also with .gz){hint}")
    return found


def _holds_dumps(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK) and any(
        _collection_stem(path.name) in COLLECTIONS for path in folder.iterdir()
    )


def _file_part(collection: str, path: Path) -> SourcePart:
    with _open_file(path) as file:
        _require_format(file, path)
        return SourcePart(collection, path.name, _fingerprint(file, path), os.fstat(file.fileno()).st_size)


def _require_unchanged(file: BinaryIO, path: Path, part: SourcePart) -> None:
    """A position holds under one fingerprint: in another file of the same name it points anywhere."""
    if _fingerprint(file, path) != part.fingerprint:
        raise ConfigurationError(f"{safe_excerpt(str(path))} has changed while it was read: begin again")


def _fingerprint(file: BinaryIO, path: Path) -> str:
    status = os.fstat(file.fileno())
    digest = hashlib.sha256(f"{path.name} {status.st_size} {status.st_mtime_ns} ".encode(errors="replace"))
    file.seek(0)
    digest.update(file.read(_EDGE_SIZE))
    file.seek(max(0, status.st_size - _EDGE_SIZE))
    digest.update(file.read(_EDGE_SIZE))
    return f"sha256:{digest.hexdigest()}"


def _open_file(path: Path) -> BinaryIO:
    try:
        # A pipe may have no end, or make us wait for ever: none is opened in earnest.
        file = open(path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115  # closed by who asked
    except OSError as error:
        raise _read_error(path, error) from None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise ConfigurationError(f"{safe_excerpt(str(path))} is a pipe or a device, not a regular file")


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_error(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{safe_excerpt(str(path))} cannot be read: {error.strerror or type(error).__name__}")


def _require_format(file: BinaryIO, path: Path) -> str:
    flow: ByteStream = GzipStream(file) if is_gzip(file) else PlainStream(file)
    kind = detect_format(flow.read(CHUNK_SIZE), path.name.removesuffix(".gz"))
    match kind:
        case "archive":
            told = "is an archive of mongodump, which only mongorestore reads: dump with --out instead of --archive"
        case "utf-16":
            told = "is text in UTF-16: save it as UTF-8"
        case None:
            told = "is neither BSON nor JSON"
        case _:
            return kind
    raise ConfigurationError(f"{safe_excerpt(str(path))} {told}")
