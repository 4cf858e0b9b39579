"""Quarantine files, which people edit and a backfill reads again: one per collection with pending documents.

The table is the truth. Each run writes the files again from it.
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

from graphjobs.backfill.extract.records import COLLECTIONS, QUARANTINE_MARKER
from graphjobs.backfill.quarantine import store
from graphjobs.backfill.quarantine.entries import TAG, is_unedited, to_line
from graphjobs.backfill.transactions import snapshot
from graphjobs.database.executor import Executor
from graphjobs.errors import ConfigurationError
from graphjobs.storage import Storage

FIRST_PAGE: Final = UUID(int=0)
_PAGE_ENTRIES: Final = 100
_FIRST_LINE: Final = re.compile(rb"\s*(\{\s*" + json.dumps(TAG).encode() + rb"|$)")
_FIRST_BYTES: Final = 256


async def check_folder(folder: Path) -> None:
    """Check that files can be written, before the work that ends with them.

    Raises:
        ConfigurationError: the folder is not writable, or has a file that is not a quarantine file.
    """

    def check() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
            for collection in COLLECTIONS:
                _require_quarantine_file(folder / f"{collection}.json")
        finally:
            with suppress(OSError):
                folder.rmdir()  # an empty folder would look like pending documents

    try:
        await asyncio.to_thread(check)
    except OSError as error:
        raise _not_writable(folder, error) from None


class QuarantineFiles(NamedTuple):
    """The result of `write_quarantine`.

    Attributes:
        files: the written files by collection; empty if no document is pending.
        backups: copies of files with edits that were not imported.
    """

    files: dict[str, Path]
    backups: list[Path]


async def write_quarantine(storage: Storage, folder: Path, *, imported: Path | None = None) -> QuarantineFiles:
    """Write pending documents to `graph_jobs.json` and so on: one document per line, with its tag `_quarantine`.

    `graphjobs backfill FOLDER` imports edited lines and resolves their entries. A quarantine file is overwritten, or
    removed if no document of its collection is pending. Other files stay.

    Args:
        storage: the storage to read.
        folder: the folder of the files.
        imported: a folder or file that was just imported: its edits need no backup.

    Raises:
        ConfigurationError: a file is not writable, or is not a quarantine file.
        DatabaseUnavailable: the database is unavailable.
    """
    written = QuarantineFiles({}, [])
    async with snapshot(storage, readonly=True) as executor:
        pending = await store.count_pending(executor)
        for collection in COLLECTIONS:
            path = folder / f"{collection}.json"
            try:
                written.backups.extend(await asyncio.to_thread(_back_up_edits, path, imported))
                if collection in pending:
                    await asyncio.to_thread(_mark, folder)
                    await _write(executor, collection, path)
                    written.files[collection] = path
                elif await asyncio.to_thread(_is_quarantine_file, path):
                    await asyncio.to_thread(path.unlink)
            except OSError as error:
                raise _not_writable(path, error) from None
        if not written.files:
            await asyncio.to_thread(_unmark, folder)
    return written


def _mark(folder: Path) -> None:
    """Mark a folder as a quarantine: the tags of its lines count, and those of any other source do not."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / QUARANTINE_MARKER
    if not marker.exists():
        marker.write_text("The tags of the lines in this folder name entries of the quarantine of graphjobs.\n")


def _unmark(folder: Path) -> None:
    """Remove the mark of a folder without quarantine files."""
    if not folder.is_dir() or any(".json" in path.name for path in folder.iterdir()):
        return
    with suppress(OSError):
        (folder / QUARANTINE_MARKER).unlink()


async def _write(executor: Executor, collection: str, path: Path) -> None:
    partial = path.with_suffix(".json.part")
    file = await asyncio.to_thread(_open, path, partial)
    try:
        after = FIRST_PAGE
        while entries := await store.list_pending(executor, collection, after, limit=_PAGE_ENTRIES):
            await asyncio.to_thread(file.writelines, [f"{to_line(entry)}\n".encode() for entry in entries])
            after = entries[-1].id
        await asyncio.to_thread(_publish, file, partial, path)
    finally:
        with suppress(OSError):
            file.close()
        with suppress(FileNotFoundError):
            partial.unlink()


def _open(path: Path, partial: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    _require_quarantine_file(path)
    return partial.open("wb")


def _publish(file: BinaryIO, partial: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
    partial.replace(path)


def _require_quarantine_file(path: Path) -> None:
    if path.exists() and not _is_quarantine_file(path):
        raise ConfigurationError(
            f"{path} exists and is not a quarantine file: repair its first line, or name another folder"
        )


def _is_quarantine_file(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _FIRST_LINE.match(file.read(_FIRST_BYTES)) is not None


def _back_up_edits(path: Path, imported: Path | None) -> list[Path]:
    """Rename a quarantine file with edits that were not imported, and return its new path."""
    is_imported = imported is not None and imported.resolve() in (path.resolve(), path.parent.resolve())
    if not _is_quarantine_file(path) or is_imported:
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        if all(is_unedited(line.rstrip("\n")) for line in file):
            return []
    number, backup = 1, path.with_name(f"{path.name}.edited")
    while os.path.lexists(backup):
        number += 1
        backup = path.with_name(f"{path.name}.edited.{number}")
    path.rename(backup)
    return [backup]


def _not_writable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is not writable: {error.strerror or type(error).__name__}; name another folder (pending documents "
        "stay in the database)"
    )
