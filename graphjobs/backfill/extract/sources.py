"""Opens and names sources: a folder of dumps, one dump file, or a MongoDB server. Nothing is written to a source."""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Protocol

from graphjobs.backfill.extract.decoding import require_pymongo, safe_excerpt
from graphjobs.backfill.extract.files import FileSource, file_part, read_error
from graphjobs.backfill.extract.mongo_source import SCHEMES, open_mongo
from graphjobs.backfill.extract.records import COLLECTIONS, ReadOffset, SourcePart, SourceRecord
from graphjobs.errors import ConfigurationError

_SUFFIXES: Final = (".bson", ".json", ".jsonl", ".ndjson")
_EDITED: Final = re.compile(r"\.edited(\.\d+)?$")
"""The suffix of a set of edited quarantine entries that was set aside."""


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
async def open_source(path_or_url: str) -> AsyncIterator[Source]:
    """Open a source.

    Args:
        path_or_url: a folder of dump files named after their collections (`graph_jobs.bson`, `policy_runs.json.gz`),
            one such file, or a `mongodb://` or `mongodb+srv://` address that names a database.

    Raises:
        ConfigurationError: the source is of another kind, has none of the collections, or is not readable; or pymongo
            is not installed.
        DatabaseUnavailable: the server does not answer.
    """
    require_pymongo()
    if path_or_url.startswith(SCHEMES):
        async with open_mongo(path_or_url) as mongo_source:
            yield mongo_source
        return
    if "://" in path_or_url:
        raise ConfigurationError("a source is a folder, a file, or an address that starts with mongodb://")
    yield await asyncio.to_thread(_open_files, path_or_url)


def suggest_collections(path_or_url: str) -> dict[str, str]:
    """Return files of a folder that no backfill reads, by name, each with a missing collection of a similar name.

    Args:
        path_or_url: as for `open_source`; for an address or a file the result is empty.
    """
    try:
        names = sorted(path.name for path in Path(path_or_url).iterdir() if path.is_file())
    except (OSError, ValueError):
        return {}
    stems = {name: _collection_stem(name.lower()) or "" for name in names}
    missing = [collection for collection in COLLECTIONS if collection not in map(_collection_stem, names)]
    matches = {name: get_close_matches(stem, missing, n=1, cutoff=0.85) for name, stem in stems.items()}
    return {name: match[0] for name, match in matches.items() if match}


def _open_files(location: str) -> FileSource:
    path = Path(location)
    try:
        if path.is_dir():
            dumps = _find_dumps(path)
        elif path.exists():
            dumps = {_require_collection(path): path}
        else:
            raise ConfigurationError(f"there is no file or folder {safe_excerpt(location)}")
        files = {
            file_part(collection, dumps[collection]): dumps[collection]
            for collection in COLLECTIONS
            if collection in dumps
        }
    except OSError as error:
        raise read_error(path, error) from None
    except ValueError as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError("the path of the source holds a character that is not allowed in a path") from None
    return FileSource(safe_excerpt(location), files)


def _collection_stem(name: str) -> str | None:
    """Return the name of a dump file without its suffixes, or None if it is not a dump by its name."""
    plain = name.removesuffix(".gz")
    return next((plain.removesuffix(suffix) for suffix in _SUFFIXES if plain.endswith(suffix)), None)


def _require_collection(path: Path) -> str:
    stem = _collection_stem(_EDITED.sub("", path.name))
    if stem in COLLECTIONS:
        return stem
    raise ConfigurationError(
        f"{safe_excerpt(path.name)}: a dump must be named after its collection, for example {COLLECTIONS[0]}.bson or "
        f"{COLLECTIONS[0]}.json.gz; the collections are {', '.join(COLLECTIONS)}"
    )


def _find_dumps(folder: Path) -> dict[str, Path]:
    dumps: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = _collection_stem(path.name)
        if stem not in COLLECTIONS or path.is_dir():
            continue
        if stem in dumps:
            raise ConfigurationError(
                f"{safe_excerpt(str(folder))} holds two files for one collection, {dumps[stem].name} and {path.name}: "
                "remove one, or name the file to read"
            )
        dumps[stem] = path
    if not dumps:
        nested = next((path for path in sorted(folder.iterdir()) if path.is_dir() and _has_dumps(path)), None)
        hint = f"; {safe_excerpt(str(nested))} holds some" if nested else ""
        names = ", ".join(f"{collection}.bson" for collection in COLLECTIONS)
        raise ConfigurationError(f"{safe_excerpt(str(folder))} holds no dump ({names}, or .json, also with .gz){hint}")
    return dumps


def _has_dumps(folder: Path) -> bool:
    if not os.access(folder, os.R_OK | os.X_OK):
        return False
    return any(_collection_stem(path.name) in COLLECTIONS for path in folder.iterdir())
