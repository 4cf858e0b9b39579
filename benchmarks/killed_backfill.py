"""Program that runs a backfill and counts the documents it reads in a file, which remains after a kill."""

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
    """A source that counts the records it yields."""

    def __init__(self, source: Source, count: mmap.mmap) -> None:
        self.name, self.parts = source.name, source.parts
        self._source, self._count = source, count
        self._number = 0

    async def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        """Yield the records of a part; see `Source`."""
        async with aclosing(self._source.read(part, after)) as records:
            async for record in records:
                self._number += 1
                COUNT.pack_into(self._count, 0, self._number)
                yield record

    def bytes_read(self, part: SourcePart) -> int:
        """Return the bytes of a part that were read; see `Source`."""
        return self._source.bytes_read(part)


async def main(location: str, file: Path) -> None:
    """Run a backfill as the command does, without a progress bar."""
    with file.open("r+b") as count_file, mmap.mmap(count_file.fileno(), COUNT.size) as count:
        parallel_mapping.relax_gc()
        async with open_storage() as storage, open_source(location) as source:
            await run_backfill(storage, parallel_mapping.ParallelSource(_Counted(source, count)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
