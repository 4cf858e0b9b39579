"""The collection that a file holds by its name, as mongodump, mongoexport, Compass and people name files. No I/O."""

import re
import shlex
from typing import Final

from graphjobs.backfill.extract.records import COLLECTIONS

SUFFIXES: Final = (".bson", ".json", ".jsonl", ".ndjson")
_EDITED: Final = re.compile(r"\.edited(\.\d+)?$")
"""The suffix of a set of edited quarantine entries that was set aside."""

_SEPARATORS: Final = re.compile(r"[-_ ]+|(?<=[a-z0-9])(?=[A-Z])")
_GZIP: Final = re.compile(r"\.gz$", re.IGNORECASE)
_METADATA: Final = re.compile(r"(?:.+\.)?(?:metadata|prelude)\.json(?:\.gz)?")

_COMMANDS: Final = {
    ".zst": "zstd -d",
    ".zstd": "zstd -d",
    ".bz2": "bunzip2",
    ".xz": "unxz",
    ".lz4": "unlz4",
    ".zip": "unzip",
    ".7z": "7z x",
    ".tgz": "tar -xf",
    ".tar.gz": "tar -xf",
    ".tar": "tar -xf",
}


def dump_stem(name: str) -> str | None:
    """Return the name of a dump file without its suffixes, or None if it is not a dump by its name."""
    plain = _GZIP.sub("", _EDITED.sub("", name))
    return next((plain[: -len(suffix)] for suffix in SUFFIXES if plain.lower().endswith(suffix)), None)


def collection_of(name: str) -> str | None:
    """Return the collection of a dump file: of `graph_jobs.bson`, `scheduler.graph_jobs.json`, `graph-jobs.json.gz`."""
    stem = None if is_metadata(name) else dump_stem(name)
    return None if stem is None else collection_of_stem(stem)


def collection_of_stem(stem: str) -> str | None:
    """Return the collection of a name without suffixes, with or without its database, in any case and separators."""
    name = _SEPARATORS.sub("_", stem.rpartition(".")[2]).lower()
    return name if name in COLLECTIONS else None


def is_metadata(name: str) -> bool:
    """Return whether a file describes dumps and holds no documents: `metadata.json`, `graph_jobs.metadata.json`."""
    return _METADATA.fullmatch(name.lower()) is not None


def is_dump(name: str) -> bool:
    """Return whether a file in the folder of a collection holds its documents, whatever its name."""
    return not name.startswith(".") and not is_metadata(name) and dump_stem(name) is not None


def describe_unreadable(name: str) -> tuple[str | None, str] | None:
    """Return the collection of a file that must be converted first, if its name shows it, and what to run.

    None for a file that may be readable.
    """
    plain = name.lower()
    for suffix, command in _COMMANDS.items():
        if plain.endswith(suffix):
            inner = name[: -len(suffix)]
            return collection_of(inner) or collection_of_stem(inner), f"run `{command} {quote_name(name)}`"
    if plain.removesuffix(".gz").endswith((".csv", ".tsv")):
        collection = collection_of_stem(_GZIP.sub("", name)[:-4])
        return collection, f"CSV has no types: {export_command(collection)}"
    if plain.removesuffix(".gz").endswith((".archive", ".agz")):
        return None, archive_command(name)
    return None


def export_command(collection: str | None) -> str:
    """Return the sentence with the command that exports a collection with its types."""
    name = collection or "COLLECTION"
    return f"run `mongoexport --uri URI --collection {name} --out {name}.json`"


def archive_command(name: str) -> str:
    """Return the sentence with the commands that make an archive of mongodump readable."""
    packed = " --gzip" if name.lower().endswith((".gz", ".agz")) else ""
    return (
        f"only mongorestore reads it: run `mongorestore --uri URI{packed} --archive={quote_name(name)}`, then "
        "`mongodump --uri URI --out FOLDER` without --archive"
    )


def quote_name(name: str) -> str:
    """Return a file name for a command of a shell."""
    return shlex.quote(name if name.isprintable() else "FILE")
