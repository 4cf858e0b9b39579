"""Reads dump files in batches, in a thread, so that the event loop continues meanwhile."""

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from graphjobs.backfill.extract.bson_framing import bson_records
from graphjobs.backfill.extract.decoding import Encoding, safe_excerpt
from graphjobs.backfill.extract.dump_names import collection_of
from graphjobs.backfill.extract.formats import require_format
from graphjobs.backfill.extract.json_framing import holds_too_many_values, json_records
from graphjobs.backfill.extract.records import (
    END_OFFSET,
    QUARANTINE_MARKER,
    ReadOffset,
    SourceLocation,
    SourcePart,
    SourceRecord,
)
from graphjobs.backfill.extract.streams import EXCERPT_SIZE_MAX, ByteStream, is_gzip, open_stream
from graphjobs.errors import ConfigurationError

BATCH_MAX: Final = 64
"""Records of a batch at most. The next batch is read while the caller processes this one.

With 256 the event loop waited five times as long for its turn, at the same rate.
"""

BATCH_SIZE_MAX: Final = 256 * 1024
"""A batch of this many bytes is full."""

T = TypeVar("T")

_EDGE_SIZE: Final = 64 * 1024


class FileSource:
    """Dump files; see `graphjobs.backfill.extract.sources.Source`."""

    def __init__(self, name: str, files: dict[SourcePart, Path]) -> None:
        self.name = name
        self.parts = tuple(files)
        self._files = files
        self._readers: dict[SourcePart, _FileReader] = {}

    async def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        """Yield the records of a file; see `Source`."""
        reader = await _open_reader(part, self._files[part], after or ReadOffset())
        self._readers[part] = reader
        batch = asyncio.create_task(asyncio.to_thread(reader.read_batch))
        try:
            while (records := await _run_to_completion(batch)) is not None:
                batch = asyncio.create_task(asyncio.to_thread(reader.read_batch))
                for record in records:
                    yield record
        finally:
            try:
                await _wait_ignoring_cancel(batch)  # a batch is short
            finally:
                reader.close()

    def bytes_read(self, part: SourcePart) -> int:
        """Return how many bytes of the file were read; see `Source`."""
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
    """Wait for a thread, also after a cancellation: the thread continues, and uses the file."""
    await _wait_ignoring_cancel(work)
    return work.result()


async def _wait_ignoring_cancel(work: "asyncio.Task[T]") -> None:
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    work.exception()  # marks the exception as retrieved
    if cancelled is not None:
        raise cancelled


class _FileReader:
    """A blocking reader of one file. One thread uses it at a time.

    It does not decode: two threads that both run Python code take turns, which is slow.
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
        """Close the file."""
        self._file.close()

    @property
    def read_bytes(self) -> int:
        """Bytes read from the file."""
        return self._stream.read_bytes

    def read_batch(self) -> list[SourceRecord] | None:
        """Return the next records, which may be an empty list before the end; None at the end."""
        try:
            return self._next_batch()
        except OSError as error:
            raise read_error(self._path, error) from None

    def _open_records(self, after: ReadOffset) -> "Iterator[SourceRecord | None]":
        try:
            is_packed = is_gzip(self._file)
            file_format = require_format(self._file, self._path, self._part.collection)
            if not is_packed and os.fstat(self._file.fileno()).st_size < after.offset < END_OFFSET:
                raise ConfigurationError(f"{self._part.name} ends before the position at byte {after.offset:,}")
            self._stream: ByteStream = open_stream(self._file, 0 if after.offset == END_OFFSET else after.offset)
        except OSError as error:
            raise read_error(self._path, error) from None
        if after.offset == END_OFFSET:
            return iter(())
        if is_packed:  # no way to enter it at an offset
            return self._read_records(file_format, ReadOffset(), skipped=after.ordinal)
        return self._read_records(file_format, after, skipped=0)

    def _read_records(self, file_format: str, start: ReadOffset, *, skipped: int) -> "Iterator[SourceRecord | None]":
        is_bson = file_format == "bson"
        encoding: Encoding = "bson" if is_bson else "json"
        ordinal = start.ordinal
        for record in (
            bson_records(self._stream, start.offset)
            if is_bson
            else json_records(self._stream, start.offset, layout=file_format)
        ):
            ordinal += record is not None
            if record is None or ordinal <= skipped:
                yield None
                continue
            at, end, raw, problem = record
            if encoding == "json" and problem is None and holds_too_many_values(raw):
                raw = raw[:EXCERPT_SIZE_MAX]
                problem = "it holds more values than a document of MongoDB; only its beginning is kept"
            next_offset = ReadOffset(ordinal, END_OFFSET if end is None else end)
            location = SourceLocation(self._part.name, ordinal, at, next_offset)
            yield SourceRecord(
                self._part.collection, location, encoding, raw, problem, is_quarantine=self._part.is_quarantine
            )

    def _next_batch(self) -> list[SourceRecord] | None:
        batch: list[SourceRecord] = []
        steps, size = 0, 0
        for steps, record in enumerate(self._records, start=1):
            if record is not None:
                batch.append(record)
                size += len(record.raw)
            if steps == BATCH_MAX or size >= BATCH_SIZE_MAX:
                return batch
        if not steps:
            # If the file was overwritten during the read, this is not the end of the original file.
            _require_unchanged(self._file, self._path, self._part)
        return batch if steps else None


def file_part(collection: str, path: Path, name: str | None = None) -> SourcePart:
    """Return a file as a part of a source, by default with the name of the file.

    Raises:
        ConfigurationError: the file is not readable, or its format is unknown.
    """
    name = name or path.name
    with _open_file(path) as file:
        require_format(file, path, collection)
        fingerprint = _fingerprint(file, collection, name)
        size = os.fstat(file.fileno()).st_size
        return SourcePart(collection, name, fingerprint, size, is_quarantine=_is_quarantine(collection, path))


def require_readable(path: Path) -> None:
    """Check the format of a file.

    Raises:
        ConfigurationError: the file is not readable, or its format is unknown; the message says what to do.
    """
    with _open_file(path) as file:
        require_format(file, path)


def _is_quarantine(collection: str, path: Path) -> bool:
    """Return whether a file is one that a quarantine writes, or its edited copy, in a folder marked as a quarantine."""
    name = f"{collection}.json"
    is_named = path.name == name or path.name.startswith(f"{name}.edited")
    return is_named and (path.parent / QUARANTINE_MARKER).is_file()


def read_error(path: Path, error: OSError) -> ConfigurationError:
    """Return the error of a file or folder that is not readable."""
    return ConfigurationError(f"{safe_excerpt(str(path))} is not readable: {error.strerror or type(error).__name__}")


def _open_file(path: Path) -> BinaryIO:
    try:
        # O_NONBLOCK: opening a pipe without a writer would block for ever.
        file = open(path, "rb", buffering=0, opener=_open_nonblocking)  # noqa: SIM115  # the caller closes it
    except OSError as error:
        raise read_error(path, error) from None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise ConfigurationError(f"{safe_excerpt(str(path))} is a pipe or a device, not a regular file")


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_unchanged(file: BinaryIO, path: Path, part: SourcePart) -> None:
    """Check the fingerprint: a `ReadOffset` is meaningless in another file of the same name."""
    if _fingerprint(file, part.collection, part.name) != part.fingerprint:
        raise ConfigurationError(f"{safe_excerpt(str(path))} has changed while it was read: begin again")


def _fingerprint(file: BinaryIO, collection: str, name: str) -> str:
    # A file of any name is another part for each collection.
    label = name if collection_of(name) == collection else f"{collection} {name}"
    status = os.fstat(file.fileno())
    digest = hashlib.sha256(f"{label} {status.st_size} {status.st_mtime_ns} ".encode(errors="replace"))
    file.seek(0)
    digest.update(file.read(_EDGE_SIZE))
    file.seek(max(0, status.st_size - _EDGE_SIZE))
    digest.update(file.read(_EDGE_SIZE))
    return f"sha256:{digest.hexdigest()}"
