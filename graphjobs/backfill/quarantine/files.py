"""The quarantine as files that people mend and a backfill reads again: one for each collection that something waits of.

The table is the truth, and the files are a picture of it, which each run draws anew.
"""

import asyncio
import json
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from uuid import UUID

from graphjobs.backfill.extract.records import COLLECTIONS
from graphjobs.backfill.quarantine import store
from graphjobs.backfill.quarantine.entries import TAG, as_written, line_of
from graphjobs.backfill.transactions import snapshot
from graphjobs.database.executor import Executor
from graphjobs.errors import ConfigurationError
from graphjobs.storage import Storage

_PAGE_ENTRIES: Final = 100
_BEFORE_ALL: Final = UUID(int=0)
_OURS: Final = re.compile(rb"\s*(\{\s*" + json.dumps(TAG).encode() + rb"|$)")
_BEGINNING_BYTES: Final = 256


async def check_folder(folder: Path) -> None:
    """Sees to it that files can be written there, before work is begun that ends with that.

    Raises:
        ConfigurationError: they cannot, or there is another file in their place.
    """

    def check() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
            for collection in COLLECTIONS:
                _require_ours(folder / f"{collection}.json")
        finally:
            with suppress(OSError):
                folder.rmdir()  # an empty one would tell of documents that wait

    try:
        await asyncio.to_thread(check)
    except OSError as error:
        raise _unwritable(folder, error) from None


class Written(NamedTuple):
    """What became of the files.

    Attributes:
        files: those that were written, by collection; none where nothing waits.
        aside: where those were put that somebody has mended, and that nobody has read since.
    """

    files: dict[str, Path]
    aside: list[Path]


async def write_quarantine(storage: Storage, folder: Path, *, read: Path | None = None) -> Written:
    """Writes what waits to `graph_jobs.json` and so on, a document a line, each with its reason under `_quarantine`.

    A document that is mended there and read again by `graphjobs backfill FOLDER` answers its entry. A file of ours is
    written over, or removed where nothing of its collection waits any more; any other is left alone.

    Args:
        storage: where to look.
        folder: where to write.
        read: a folder or a file that has just been read: what was mended there need not be kept.

    Raises:
        ConfigurationError: a file cannot be written, or is none of ours.
        DatabaseUnavailable: the database cannot now.
    """
    written = Written({}, [])
    async with snapshot(storage, readonly=True) as executor:
        waiting = await store.waiting(executor)
        for collection in COLLECTIONS:
            path = folder / f"{collection}.json"
            try:
                written.aside.extend(await asyncio.to_thread(_keep_edited, path, read))
                if collection in waiting:
                    await _write(executor, collection, path)
                    written.files[collection] = path
                elif await asyncio.to_thread(_is_ours, path):
                    await asyncio.to_thread(path.unlink)
            except OSError as error:
                raise _unwritable(path, error) from None
    return written


async def _write(executor: Executor, collection: str, path: Path) -> None:
    partial = path.with_suffix(".json.part")
    file = await asyncio.to_thread(_opened, path, partial)
    try:
        after = _BEFORE_ALL
        while entries := await store.entries(executor, collection, after, limit=_PAGE_ENTRIES):
            await asyncio.to_thread(file.writelines, [f"{line_of(entry)}\n".encode() for entry in entries])
            after = entries[-1].id
        await asyncio.to_thread(_published, file, partial, path)
    finally:
        with suppress(OSError):
            file.close()
        with suppress(FileNotFoundError):
            partial.unlink()


def _opened(path: Path, partial: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    _require_ours(path)
    return partial.open("wb")


def _require_ours(path: Path) -> None:
    if path.exists() and not _is_ours(path):
        raise ConfigurationError(
            f"{path} is there already, and its first line is none of a quarantine's: mend that, or name another folder"
        )


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _OURS.match(file.read(_BEGINNING_BYTES)) is not None


def _keep_edited(path: Path, read: Path | None) -> list[Path]:
    """Puts a file of ours aside that somebody has mended, and that nobody has read since; gives where."""
    if not _is_ours(path) or (read is not None and read.resolve() in (path.resolve(), path.parent.resolve())):
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        edited = not all(as_written(line.rstrip("\n")) for line in file)
    if not edited:
        return []
    number, aside = 1, path.with_name(f"{path.name}.edited")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.edited.{number}")
    path.rename(aside)
    return [aside]


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{path} cannot be written: {error.strerror or type(error).__name__}; what waits stays in the database, name "
        "another folder"
    )


def _published(file: BinaryIO, partial: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
    partial.replace(path)
