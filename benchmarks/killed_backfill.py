"""A backfill that is to be killed: it counts in a file what it reads, which outlives it; run as a program."""

import asyncio
import mmap
import struct
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Final

from graphjobs.backfill import parallel_mapping
from graphjobs.backfill.extract.records import ReadOffset, SourcePart, SourceRecord
from graphjobs.backfill.extract.sources import Source, open_source
from graphjobs.backfill.runner import run_backfill
from graphjobs.storage import open_storage

COUNT: Final = struct.Struct("<q")


class _Counted:
    """A source that counts what it hands out."""

    def __init__(self, source: Source, count: mmap.mmap) -> None:
        self.name, self.parts = source.name, source.parts
        self._source, self._count = source, count
        self._number = 0

    async def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        """Gives what a part holds; see `Source`."""
        async with aclosing(self._source.read(part, after)) as entries:
            async for found in entries:
                self._number += 1
                COUNT.pack_into(self._count, 0, self._number)
                yield found

    def bytes_read(self, part: SourcePart) -> int:
        """Gives how much of a part has been read; see `Source`."""
        return self._source.bytes_read(part)


async def main(place: str, file: Path) -> None:
    """Runs a backfill to its end, if it is let; as the command does, but for its bar."""
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), COUNT.size) as count:
        parallel_mapping.collect_seldom()
        async with open_storage() as storage, open_source(place) as source:
            await run_backfill(storage, parallel_mapping.Apart(_Counted(source, count)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
