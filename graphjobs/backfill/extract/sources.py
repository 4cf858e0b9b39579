"""Opens and names sources: a folder of dumps, one dump file, or a MongoDB server. Nothing is written to a source."""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Protocol

from graphjobs.backfill.extract.decoding import require_pymongo, safe_excerpt
from graphjobs.backfill.extract.dump_names import (
    collection_of,
    collection_of_stem,
    describe_unreadable,
    dump_stem,
    is_dump,
)
from graphjobs.backfill.extract.files import FileSource, file_part, read_error, require_readable
from graphjobs.backfill.extract.mongo_source import SCHEMES, open_mongo
from graphjobs.backfill.extract.records import COLLECTIONS, ReadOffset, SourcePart, SourceRecord
from graphjobs.errors import ConfigurationError

_ADDRESS: Final = re.compile(r"\W*mongo\w*(\+srv)?\W*:|.*@", re.IGNORECASE | re.DOTALL)
"""Matches text that may be an address with a password, so that no message repeats it."""

_NESTED_MAX: Final = 6
"""The levels of folders that are searched for a hint: an export of Atlas has five above its database."""


class Source(Protocol):
    """Documents of some collections, in a stable order.

    Attributes:
        name: name for messages, without a password.
        parts: the collections in the order in which to read them: jobs, policy runs, events.
    """

    name: str
    parts: tuple[SourcePart, ...]

    def read(self, part: SourcePart, after: ReadOffset | None = None) -> AsyncGenerator[SourceRecord, None]:
        """Yield the records of a part in its order.

        Close the generator (`contextlib.aclosing`) if it is not read to its end.

        Args:
            part: one of `parts`.
            after: the `location.next` of the last record that was read; None for the whole part. It is valid as long as
                the part's fingerprint does not change.

        Raises:
            ConfigurationError: the part is not readable, or the position is after its end.
            DatabaseUnavailable: the server does not answer. Reading can continue after the last record.
        """
        ...

    def bytes_read(self, part: SourcePart) -> int:
        """Return how many bytes of `part.size_bytes` were read, for a progress bar."""
        ...


@asynccontextmanager
async def open_source(
    path_or_url: str | None, *, collections: Mapping[str, Path] | None = None
) -> AsyncIterator[Source]:
    """Open a source.

    Args:
        path_or_url: a folder of dump files named after their collections (`graph_jobs.bson`, `policy_runs.json.gz`,
            `scheduler.graph-jobs.json`) or with a folder of files for each, one such file, or a `mongodb://` or
            `mongodb+srv://` address that names a database. None for the files of `collections` alone.
        collections: files of any name by their collections. They take the place of files in the folder.

    Raises:
        ConfigurationError: the source is of another kind, has none of the collections, or is not readable; or pymongo
            is not installed.
        DatabaseUnavailable: the server does not answer.
    """
    require_pymongo()
    if path_or_url is not None and path_or_url.startswith(SCHEMES):
        if collections:
            raise ConfigurationError("a file of a collection and a mongodb:// address are two sources: name one")
        async with open_mongo(path_or_url) as mongo_source:
            yield mongo_source
        return
    if path_or_url is not None and "://" in path_or_url:
        raise ConfigurationError("a source is a folder, a file, or an address that starts with mongodb://")
    yield await asyncio.to_thread(_open_files, path_or_url, collections or {})


def suggest_collections(path_or_url: str) -> dict[str, str]:
    """Return files of a folder that no backfill reads, by name, each with a missing collection of a similar name.

    Args:
        path_or_url: as for `open_source`; for an address or a file the result is empty.
    """
    try:
        names = sorted(path.name for path in Path(path_or_url).iterdir() if path.is_file())
    except (OSError, ValueError):
        return {}
    stems = {name: (dump_stem(name) or "").lower() for name in names}
    missing = [collection for collection in COLLECTIONS if collection not in map(collection_of, names)]
    matches = {name: _similar_collections(stem, missing) for name, stem in stems.items()}
    return {name: match[0] for name, match in matches.items() if match}


def _similar_collections(stem: str, missing: list[str]) -> list[str]:
    """Return the missing collection that a name contains, such as `graph_jobs (1)`, or that it resembles."""
    name = re.sub(r"[\W_]+", "_", stem)
    contained = [collection for collection in missing if collection in name]
    return contained or get_close_matches(stem, missing, n=1, cutoff=0.85)


def _open_files(location: str | None, by_collection: Mapping[str, Path]) -> FileSource:
    unknown = next((collection for collection in by_collection if collection not in COLLECTIONS), None)
    if unknown is not None:
        raise ConfigurationError(f"{safe_excerpt(unknown)} is no collection; they are {', '.join(COLLECTIONS)}")
    path = Path(location) if location is not None else next(iter(by_collection.values()), Path())
    try:
        dumps: dict[str, list[Path]] = {}
        if location is not None:
            dumps = _find_dumps(path, by_collection) if path.is_dir() else {_require_collection(path): [path]}
        dumps |= {collection: [file] for collection, file in by_collection.items()}
        files = {
            file_part(collection, file, _part_name(file, path)): file
            for collection in COLLECTIONS
            for file in dumps.get(collection, ())
        }
    except OSError as error:
        raise read_error(path, error) from None
    except ValueError as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError("the path of the source holds a character that is not allowed in a path") from None
    return FileSource(safe_excerpt(location or ", ".join(str(file) for file in by_collection.values())), files)


def _part_name(file: Path, folder: Path) -> str:
    return f"{file.parent.name}/{file.name}" if file.parent.parent == folder else file.name


def _require_collection(path: Path) -> str:
    if not path.exists():
        if _ADDRESS.match(str(path)):
            raise ConfigurationError("the source is no file and no folder, and an address starts with mongodb://")
        raise ConfigurationError(f"there is no file or folder {safe_excerpt(str(path))}")
    collection = collection_of(path.name)
    if collection is not None:
        return collection
    unreadable = describe_unreadable(path.name)
    if unreadable is not None:
        raise ConfigurationError(f"{safe_excerpt(path.name)} must be converted first: {unreadable[1]}")
    require_readable(path)  # an archive of mongodump may have any name
    raise ConfigurationError(
        f"{safe_excerpt(path.name)}: a dump must be named after its collection, for example {COLLECTIONS[0]}.bson or "
        f"{COLLECTIONS[0]}.json.gz, or be named by --collection {COLLECTIONS[0]}=FILE; the collections are "
        f"{', '.join(COLLECTIONS)}"
    )


def _find_dumps(folder: Path, by_collection: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Return the dumps of a folder. Several files for one collection are its parts only in a folder of their own."""
    dumps: dict[str, list[Path]] = {}
    names: dict[str, str] = {}
    for name, collection, files in _list_dumps(folder):
        if collection in by_collection:
            continue
        if collection in dumps:
            raise ConfigurationError(
                f"{safe_excerpt(str(folder))} holds two files for one collection, {names[collection]} and {name}: "
                f"remove one, or name the file to read by --collection {collection}=FILE"
            )
        dumps[collection], names[collection] = files, name
    for path in sorted(folder.iterdir()):
        unreadable = describe_unreadable(path.name)
        if unreadable is None or path.is_dir():
            continue
        if (not dumps and not by_collection) or (
            unreadable[0] is not None and unreadable[0] not in {*dumps, *by_collection}
        ):
            raise ConfigurationError(f"{safe_excerpt(str(path))} must be converted first: {unreadable[1]}")
    if not dumps and not by_collection:
        nested = next(_nested_dumps(folder, _NESTED_MAX), None)
        hint = f"; its folder {safe_excerpt(str(nested.relative_to(folder)))} holds some" if nested else ""
        for name, collection in suggest_collections(str(folder)).items():
            hint = f"; if {safe_excerpt(name)} is one, name it by --collection {collection}=FILE"
        wanted = ", ".join(f"{collection}.bson" for collection in COLLECTIONS)
        raise ConfigurationError(f"{safe_excerpt(str(folder))} holds no dump ({wanted}, or .json, also with .gz){hint}")
    return dumps


def _list_dumps(folder: Path) -> Iterator[tuple[str, str, list[Path]]]:
    """Yield the name, the collection and the files of each dump in a folder."""
    found = False
    for path in sorted(folder.iterdir()):
        is_folder = path.is_dir()
        # An edited file of the quarantine is read only if it is named: its edits may be imported already.
        collection = collection_of_stem(path.name) if is_folder else collection_of(path.name)
        if collection is None or (not is_folder and ".edited" in path.name):
            continue
        files = _files_of(path) if is_folder else [path]
        if files:
            found = True
            yield path.name, collection, files
    own = collection_of_stem(folder.name)
    if not found and own is not None and (files := _files_of(folder)):
        yield folder.name, own, files


def _files_of(folder: Path) -> list[Path]:
    """Return the files of a folder that holds one collection, as an export of Atlas writes them."""
    return sorted(path for path in folder.iterdir() if is_dump(path.name) and path.is_file())


def _nested_dumps(folder: Path, levels: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.is_symlink() or not os.access(path, os.R_OK | os.X_OK):
            continue
        if next(_list_dumps(path), None):
            yield path
        elif levels > 1:
            yield from _nested_dumps(path, levels - 1)
