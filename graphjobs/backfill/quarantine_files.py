"""The quarantine as files that people mend and a backfill reads again: one for each collection that something waits of.

The table is the truth, and the files are a picture of it, which each run draws anew.
"""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from graphjobs.backfill import ledger
from graphjobs.backfill.extended import COLLECTIONS
from graphjobs.backfill.quarantine import TAG, line_of
from graphjobs.backfill.transactions import snapshot
from graphjobs.database.executor import Executor
from graphjobs.errors import ConfigurationError
from graphjobs.storage import Storage

_PAGE_ENTRIES: Final = 16  # a document may have 16 MiB
_BEFORE_ALL: Final = UUID(int=0)
_OURS: Final = f'{{"{TAG}"'.encode()


async def write_quarantine(storage: Storage, folder: Path) -> dict[str, Path]:
    """Writes what waits to `graph_jobs.json` and so on, a document a line, each with its reason under `_quarantine`.

    A document that is mended there and read again by `graphjobs backfill FOLDER` answers its entry. A file of ours
    is written over, or removed where nothing of its collection waits any more; any other is left alone.

    Returns:
        The files, by collection; none where nothing waits.

    Raises:
        ConfigurationError: a file cannot be written, or is none of ours.
        DatabaseUnavailable: the database cannot now.
    """
    written: dict[str, Path] = {}
    async with snapshot(storage, readonly=True) as executor:
        waiting = await ledger.waiting(executor)
        for collection in COLLECTIONS:
            path = folder / f"{collection}.json"
            try:
                if collection in waiting:
                    await _write(executor, collection, path)
                    written[collection] = path
                elif await asyncio.to_thread(_is_ours, path):
                    await asyncio.to_thread(path.unlink)
            except OSError as error:
                raise ConfigurationError(
                    f"{path} cannot be written: {error.strerror or type(error).__name__}; what waits stays in the "
                    "database, so name another folder"
                ) from None
    return written


async def _write(executor: Executor, collection: str, path: Path) -> None:
    partial = path.with_suffix(".json.part")
    file = await asyncio.to_thread(_opened, path, partial)
    try:
        after = _BEFORE_ALL
        while entries := await ledger.entries(executor, collection, after, limit=_PAGE_ENTRIES):
            await asyncio.to_thread(file.writelines, [f"{line_of(entry)}\n".encode() for entry in entries])
            after = entries[-1].id
        await asyncio.to_thread(_published, file, partial, path)
    finally:
        file.close()
        with suppress(FileNotFoundError):
            partial.unlink()


def _opened(path: Path, partial: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not _is_ours(path):
        raise ConfigurationError(f"{path} is there already, and no file of a quarantine: name another folder")
    return partial.open("wb")


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_OURS)) == _OURS


def _published(file: BinaryIO, partial: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
    partial.replace(path)
