"""Reading and mapping in a process of their own, so that they and the writing do not wait for one another.

Both burn CPU in Python, which one process does one at a time. The other process is asked for one batch after
the other, and reads no further than it is asked to. It ends with whoever asks, however that
ends.
"""

import asyncio
import gc
import os
import pickle
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias

from graphjobs.backfill.batches import Batch, batches_of
from graphjobs.backfill.extended import Found, Part, Position
from graphjobs.backfill.identities import LegacyUuids
from graphjobs.backfill.sources import Source, open_source
from graphjobs.errors import ConfigurationError, GraphJobsError

SIZE_MIN: Final = 2 * 1024 * 1024
"""From how many bytes on a part is read apart: a process takes as long to start as some 4,000 documents."""

_OBJECTS_BETWEEN_COLLECTIONS: Final = 50_000
Opening: TypeAlias = Callable[[str], AbstractAsyncContextManager[Source]]

_LENGTH: Final = struct.Struct("<Q")
_MORE: Final = b"\n"
READER: Final = f"from {__name__} import main; main()"
"""What the other process runs. Not by -m: what the answers are made of would then be of a module `__main__`."""


class _Order(NamedTuple):
    """What the other process is asked for: the batches of a part after a position."""

    place: str
    part: Part
    legacy_uuids: LegacyUuids
    after: Position


class _Answer(NamedTuple):
    """A batch and how much of the part has been read, or why there is none."""

    batch: Batch | None
    read_bytes: int
    error: GraphJobsError | None = None


@asynccontextmanager
async def open_apart(place: str) -> AsyncIterator["Apart"]:
    """Opens what documents are read from; see `open_source`."""
    async with open_source(place) as source:
        yield Apart(place, source)


class Apart:
    """A source whose large parts are read by a process of their own; see `Source` and `BatchSource`.

    Args:
        place: what it was opened by, which the other process opens again.
        source: it, opened.
        reader: what the other process runs.
    """

    def __init__(self, place: str, source: Source, *, reader: str = READER) -> None:
        self.name, self.parts = source.name, source.parts
        self._place, self._source, self._reader = place, source, reader
        self._read_bytes: dict[Part, int] = {}

    def read(self, part: Part, after: Position | None = None) -> AsyncGenerator[Found, None]:
        """Gives what a part holds, read here; see `Source`."""
        return self._source.read(part, after)

    def bytes_read(self, part: Part) -> int:
        """Gives how much of a part has been read; see `Source`."""
        return self._read_bytes.get(part) or self._source.bytes_read(part)

    async def batches(self, part: Part, legacy_uuids: LegacyUuids, after: Position) -> AsyncGenerator[Batch, None]:
        """Gives what a part holds; see `batches_of`.

        Raises:
            GraphJobsError: the other process ended before it should.
        """
        if (part.size_bytes or 0) < SIZE_MIN:
            async with aclosing(batches_of(self._source, part, legacy_uuids, after)) as batches:
                async for batch in batches:
                    yield batch
            return
        async with _started(self._reader, _Order(self._place, part, legacy_uuids, after)) as process:
            last = False
            while not last:
                answer = await _asked(process, part)
                if answer.error is not None:
                    raise answer.error
                if answer.batch is None:
                    raise TypeError("an answer should be a batch, or tell why there is none")
                self._read_bytes[part] = answer.read_bytes
                last = answer.batch.last
                yield answer.batch


@asynccontextmanager
async def _started(reader: str, order: _Order) -> AsyncIterator[Process]:
    # A session of its own: what interrupts us from a terminal is not for it.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", reader, stdin=PIPE, stdout=PIPE, start_new_session=True
    )
    try:
        with suppress(ConnectionError):  # it has ended already, which the first question tells
            # The address may hold a password, which the arguments of a program would show to everybody.
            await _write(process, _framed(order))
        yield process
    finally:
        # It only reads, so that nothing is lost with it.
        with suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())


async def _asked(process: Process, part: Part) -> _Answer:
    """Asks for the next batch. Who is alive is waited for: a source may be slow."""
    output = _require(process.stdout)
    try:
        await _write(process, _MORE)
        (size,) = _LENGTH.unpack(await output.readexactly(_LENGTH.size))
        answer: _Answer = pickle.loads(await output.readexactly(size))  # noqa: S301  # our own process
    except (asyncio.IncompleteReadError, ConnectionError):
        code = await process.wait()
        ended = f"the process that reads {part.name} ended (exit code {code})"
        raise GraphJobsError(f"{ended}; what was written stays, run it again to go on") from None
    return answer


async def _write(process: Process, text: bytes) -> None:
    to = _require(process.stdin)
    to.write(text)
    await to.drain()


def _require(stream: Any) -> Any:
    if stream is None:
        raise TypeError("the other process should be asked and answer through pipes")
    return stream


def _framed(value: object) -> bytes:
    content = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


async def _serve(opening: Opening, order: _Order, asks: BinaryIO, answers: BinaryIO) -> None:
    try:
        async with opening(order.place) as source:
            # The size of a collection that is written to changes, and it is the same one.
            part = next((each for each in source.parts if each.fingerprint == order.part.fingerprint), None)
            if part is None:
                raise ConfigurationError(f"{order.part.name} has changed while it was read: begin again")
            async with aclosing(batches_of(source, part, order.legacy_uuids, order.after)) as batches:
                while await asyncio.to_thread(asks.read, len(_MORE)):
                    batch = await anext(batches)
                    answers.write(_framed(_Answer(batch, source.bytes_read(part))))
                    answers.flush()
    except GraphJobsError as error:
        answers.write(_framed(_Answer(None, 0, error)))
        answers.flush()


def collect_seldom() -> None:
    """Lets the process look for garbage less often: for programs that do nothing else than bring documents.

    What was imported stays: looking through it each time would hold up the event loop. What is read is gone with its
    batch: looking for it after every 700 new objects takes a tenth of the whole time.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


def main(opening: Opening = open_source) -> None:
    """Answers whoever started this process, until he asks no more.

    Args:
        opening: opens what documents are read from.
    """
    collect_seldom()
    asks, answers = sys.stdin.buffer, sys.stdout.buffer
    with suppress(BrokenPipeError):
        (size,) = _LENGTH.unpack(asks.read(_LENGTH.size))
        asyncio.run(_serve(opening, pickle.loads(asks.read(size)), asks, answers))  # noqa: S301  # whoever started us
    # Not by the interpreter's own end, which would complain of what nobody reads any more.
    os._exit(0)
