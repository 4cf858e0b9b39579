"""Mapping in processes of their own, so that it and the writing do not wait for one another.

Both burn CPU in Python, which one process does one at a time. A batch is read here, shared out, mapped there, and put
together again in its order. A process that maps knows no source and no database: it answers what it is asked, one
portion after the other, and ends when nobody is left to ask, however he ended.
"""

import asyncio
import gc
import os
import pickle
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any, BinaryIO, Final

from graphjobs.backfill.batches import Batch, batches_of, is_full
from graphjobs.backfill.extract.records import ReadOffset, SourcePart, SourceRecord
from graphjobs.backfill.extract.sources import Source, open_source
from graphjobs.backfill.transform.legacy_ids import LegacyUuids
from graphjobs.errors import GraphJobsError

MAPPERS: Final = 2
"""How many processes map one part: one that writes keeps up with two, and together they stay below 300 MB."""

SIZE_MIN: Final = 2 * 1024 * 1024
"""From how many bytes on a part is mapped apart: a process takes as long to start as to map some 4,000 documents."""

_OBJECTS_BETWEEN_COLLECTIONS: Final = 50_000
_LENGTH: Final = struct.Struct("<Q")
_PROGRAM: Final = f"from {__name__} import main; main()"
"""Not by -m: what the answers are made of would then be of a module `__main__`."""


@asynccontextmanager
async def open_apart(place: str) -> AsyncIterator["Apart"]:
    """Opens what documents are read from; see `open_source`."""
    async with open_source(place) as source:
        yield Apart(source)


class Apart:
    """A source whose large parts are mapped by processes of their own; see `Source` and `BatchSource`."""

    def __init__(self, source: Source) -> None:
        self.name, self.parts = source.name, source.parts
        self._source = source

    def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        """Gives what a part holds; see `Source`."""
        return self._source.read(part, after)

    def bytes_read(self, part: SourcePart) -> int:
        """Gives how much of a part has been read; see `Source`."""
        return self._source.bytes_read(part)

    async def batches(
        self, part: SourcePart, legacy_uuids: LegacyUuids, after: ReadOffset
    ) -> AsyncGenerator[Batch, None]:
        """Gives what a part holds; see `batches_of`.

        Raises:
            GraphJobsError: a process that maps ended before it should.
        """
        if (part.size_bytes or 0) < SIZE_MIN:
            async with aclosing(batches_of(self._source, part, legacy_uuids, after)) as batches:
                async for batch in batches:
                    yield batch
            return
        async with AsyncExitStack() as stack:
            mappers = [await stack.enter_async_context(_started()) for _ in range(MAPPERS)]
            entries = await stack.enter_async_context(aclosing(self._source.read(part, after)))
            reached, last = after, False
            while not last:
                found, last = await _next(entries)
                batch = Batch(part.collection, part.name, legacy_uuids, reached, reached, last=last)
                share = -(-len(found) // MAPPERS) or 1
                shares = (found[first : first + share] for first in range(0, len(found), share))
                asked = zip(mappers, shares, strict=False)
                batch.join(await _together(*(_mapped(mapper, batch, share) for mapper, share in asked)))
                reached = batch.reached
                yield batch


async def _next(entries: AsyncGenerator[SourceRecord, None]) -> tuple[list[SourceRecord], bool]:
    """Gives the entries of the next batch, and whether they are the last ones."""
    found: list[SourceRecord] = []
    size = 0
    async for each in entries:
        found.append(each)
        size += len(each.raw)
        if is_full(len(found), size):
            return found, False
    return found, True


async def _together(*work: Coroutine[Any, Any, Batch]) -> list[Batch]:
    """Awaits all of it; where one fails, the rest is ended."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _mapped(mapper: Process, batch: Batch, share: list[SourceRecord]) -> Batch:
    """Has entries of a batch mapped. Who is alive is waited for: it waits for nobody else."""
    to, answers = mapper.stdin, mapper.stdout
    if to is None or answers is None:
        raise TypeError("a process that maps should be asked and answer through pipes")
    try:
        to.write(_framed((batch, share)))
        await to.drain()
        (size,) = _LENGTH.unpack(await answers.readexactly(_LENGTH.size))
        mapped: Batch = pickle.loads(await answers.readexactly(size))  # noqa: S301  # our own process
    except (asyncio.IncompleteReadError, ConnectionError):
        code = await mapper.wait()
        ended = f"a process that maps {batch.part} ended (exit code {code})"
        raise GraphJobsError(f"{ended}; what was written stays, run it again to go on") from None
    return mapped


@asynccontextmanager
async def _started() -> AsyncIterator[Process]:
    # -P: whatever lies in the folder we are called from is no module. A session of its own: what interrupts us from a
    # terminal is not for it.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _PROGRAM), stdin=PIPE, stdout=PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        # It holds nothing that could be lost.
        with suppress(ProcessLookupError):
            process.kill()
        # Not wait(), which waits for ever where an answer has filled the pipe, and nobody reads it.
        await asyncio.shield(process.communicate())


def _framed(value: object) -> bytes:
    content = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


def collect_seldom() -> None:
    """Lets the process look for garbage less often: for programs that do nothing else than bring documents.

    What was imported stays: looking through it each time would hold up the event loop. What is read is gone with its
    batch: looking for it after every 700 new objects takes a tenth of the whole time.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


def main() -> None:
    """Maps what whoever started this process asks for, until he asks no more."""
    collect_seldom()
    asks, answers = sys.stdin.buffer, sys.stdout.buffer
    with suppress(BrokenPipeError):
        while content := _asked(asks):
            batch, share = pickle.loads(content)  # noqa: S301  # of whoever started us
            for found in share:
                batch.take(found)
            answers.write(_framed(batch))
            answers.flush()
    # Not by the interpreter's own end, which would complain of what nobody reads any more.
    os._exit(0)


def _asked(asks: BinaryIO) -> bytes:
    """Gives what is asked for; nothing where nobody asks any more, or no whole question."""
    header = asks.read(_LENGTH.size)
    size = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else 0
    content = asks.read(size)
    return content if len(content) == size else b""
