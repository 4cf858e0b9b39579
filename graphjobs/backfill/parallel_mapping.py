"""Mapping in separate processes, so that mapping and writing use two CPU cores.

This process reads a batch, divides it among mappers, and joins their results in order. A mapper uses no source and no
database. It answers one request at a time, and ends when its input is closed, in whatever way its parent ended.
"""

import asyncio
import copyreg
import gc
import io
import os
import pickle
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, get_args

from pydantic import BaseModel

from graphjobs.backfill.batches import Batch, is_full, read_batches
from graphjobs.backfill.extract.records import ReadOffset, SourcePart, SourceRecord
from graphjobs.backfill.extract.sources import Source, open_source
from graphjobs.backfill.transform.mapping import MappedValue
from graphjobs.backfill.transform.uuids import LegacyUuids
from graphjobs.core.fields import FrozenModel
from graphjobs.errors import GraphJobsError
from graphjobs.policy_runs.models import PolicyRunInputs

MAPPERS: Final = 2
"""Mappers per part: two are as fast as the writer, and all processes together need less than 300 MB."""

SIZE_MIN: Final = 2 * 1024 * 1024
"""The bytes from which a part is mapped in parallel: a process starts as slowly as it maps some 4,000 documents."""

_OBJECTS_BETWEEN_COLLECTIONS: Final = 50_000
_LENGTH: Final = struct.Struct("<Q")
_PROGRAM: Final = f"from {__name__} import main; main()"
"""Not run with -m: the classes of the pickled results would then belong to the module `__main__`."""


@asynccontextmanager
async def open_parallel(
    location: str | None, *, collections: Mapping[str, Path] | None = None
) -> AsyncIterator["ParallelSource"]:
    """Open a source; see `open_source`."""
    async with open_source(location, collections=collections) as source:
        yield ParallelSource(source)


class ParallelSource:
    """A source that maps large parts in separate processes; see `Source` and `BatchSource`."""

    def __init__(self, source: Source) -> None:
        self.name, self.parts = source.name, source.parts
        self._source = source

    def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        """Yield the records of a part; see `Source`."""
        return self._source.read(part, after)

    def bytes_read(self, part: SourcePart) -> int:
        """Return the bytes of a part that were read; see `Source`."""
        return self._source.bytes_read(part)

    async def batches(
        self, part: SourcePart, legacy_uuids: LegacyUuids, start: ReadOffset
    ) -> AsyncGenerator[Batch, None]:
        """Yield the batches of a part; see `read_batches`.

        Raises:
            GraphJobsError: a mapper process ended unexpectedly.
        """
        if (part.size_bytes or 0) < SIZE_MIN:
            async with aclosing(read_batches(self._source, part, legacy_uuids, start)) as batches:
                async for batch in batches:
                    yield batch
            return
        async with AsyncExitStack() as stack:
            mappers = [await stack.enter_async_context(_start_mapper()) for _ in range(MAPPERS)]
            reading = await stack.enter_async_context(aclosing(self._source.read(part, start)))
            end, is_last = start, False
            while not is_last:
                records, is_last = await _read_records(reading)
                batch = Batch(part.collection, part.name, legacy_uuids, end, end, is_last=is_last)
                size = -(-len(records) // MAPPERS) or 1
                shares = (records[first : first + size] for first in range(0, len(records), size))
                requests = zip(mappers, shares, strict=False)
                batch.join(await _gather_or_cancel(*(_map(mapper, batch, share) for mapper, share in requests)))
                end = batch.end
                yield batch


async def _read_records(reading: AsyncGenerator[SourceRecord, None]) -> tuple[list[SourceRecord], bool]:
    """Return the records of the next batch, and whether they are the last ones."""
    records: list[SourceRecord] = []
    size = 0
    async for record in reading:
        records.append(record)
        size += len(record.raw)
        if is_full(len(records), size):
            return records, False
    return records, True


async def _gather_or_cancel(*work: Coroutine[Any, Any, Batch]) -> list[Batch]:
    """Await all coroutines, and cancel the others if one fails."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _map(mapper: Process, batch: Batch, share: list[SourceRecord]) -> Batch:
    """Send records to a mapper and return its batch. There is no time-out: a mapper waits for no other process."""
    requests, results = mapper.stdin, mapper.stdout
    if requests is None or results is None:
        raise TypeError("a mapper needs pipes for stdin and stdout")
    try:
        requests.write(_encode((batch, share)))
        await requests.drain()
        (size,) = _LENGTH.unpack(await results.readexactly(_LENGTH.size))
        mapped: Batch = pickle.loads(await results.readexactly(size))  # noqa: S301  # from our own process
    except (asyncio.IncompleteReadError, ConnectionError):
        code = await mapper.wait()
        raise GraphJobsError(
            f"a mapper process of {batch.part} ended (exit code {code}); written batches stay, run it again to resume"
        ) from None
    return mapped


@asynccontextmanager
async def _start_mapper() -> AsyncIterator[Process]:
    # -P: files of the current folder are not imported as modules. The session of its own keeps it from Ctrl-C.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _PROGRAM), stdin=PIPE, stdout=PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        # The process has nothing to lose.
        with suppress(ProcessLookupError):
            process.kill()
        # Not wait(): it would never return if a result fills the pipe and is not read.
        await asyncio.shield(process.communicate())


def _reduce(value: FrozenModel) -> tuple[object, ...]:
    """Pickle a value such that it is not validated when it is restored, which would double the time."""
    new = copyreg.__newobj__  # type: ignore[attr-defined]
    return new, (type(value),), value.__getstate__(), None, None, BaseModel.__setstate__


class _Pickler(pickle.Pickler):
    """Pickles what one of our own processes sends to the other."""

    dispatch_table: ClassVar[Mapping[type, Any]] = {  # type: ignore[misc]
        **copyreg.dispatch_table,
        **dict.fromkeys((*get_args(MappedValue), PolicyRunInputs), _reduce),
    }


def _encode(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    content = buffer.getvalue()
    return _LENGTH.pack(len(content)) + content


def relax_gc() -> None:
    """Collect garbage less often, in a process that only runs a backfill.

    Imported modules stay, and a search through them each time would delay the event loop. The objects of a batch are
    freed with it: a search after every 700 new objects takes a tenth of the whole time.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


def main() -> None:
    """Map the requests of the parent process until its pipe is closed."""
    relax_gc()
    requests, results = sys.stdin.buffer, sys.stdout.buffer
    with suppress(BrokenPipeError):
        while content := _read_request(requests):
            batch, share = pickle.loads(content)  # noqa: S301  # from the parent process
            for record in share:
                batch.add(record)
            results.write(_encode(batch))
            results.flush()
    # Not the interpreter's own exit, which would report the closed pipe.
    os._exit(0)


def _read_request(requests: BinaryIO) -> bytes:
    """Return the next request; empty at the end of the pipe, or if a request is incomplete."""
    header = requests.read(_LENGTH.size)
    size = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else 0
    content = requests.read(size)
    return content if len(content) == size else b""
