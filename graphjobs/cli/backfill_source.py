"""The source of `graphjobs backfill`: an argument, files by collection, or an address that is on no command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import typer

from graphjobs.backfill.extract.records import COLLECTIONS
from graphjobs.errors import ConfigurationError
from graphjobs.settings import Settings

_ADDRESS_BYTES_MAX: Final = 64 * 1024


class SourceLocation(NamedTuple):
    """The source of a backfill.

    Attributes:
        location: a folder, a file or an address; None for `collections` alone.
        collections: files by their collections.
    """

    location: str | None
    collections: Mapping[str, Path]

    @property
    def folder(self) -> Path | None:
        """The folder or file, of which edits need no backup; None for a server."""
        return None if self.location is None or "://" in self.location else Path(self.location)


def find_source(sources: Sequence[str], files: Sequence[str]) -> SourceLocation:
    """Return the source of the arguments, or else of `GRAPHJOBS_MONGODB_URL` or `GRAPHJOBS_MONGODB_URL_FILE`.

    Raises:
        typer.BadParameter: the arguments name no source or several; the text repeats none, which may be an address
            with a password.
        ConfigurationError: the file of the address is not readable or empty.
    """
    if len(sources) > 1:
        raise typer.BadParameter("name one folder, file or address", param_hint="SOURCE")
    collections = dict(_parse_file(text) for text in files)
    if len(collections) < len(files):
        raise typer.BadParameter("name one file for each collection", param_hint="--collection")
    if sources or collections:
        return SourceLocation(sources[0] if sources else None, collections)
    address = _configured_address()
    if address is None:
        raise typer.BadParameter(
            "name a folder, a file or a mongodb:// address, here or in GRAPHJOBS_MONGODB_URL", param_hint="SOURCE"
        )
    return SourceLocation(address, {})


def _parse_file(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not path or name not in COLLECTIONS:
        raise typer.BadParameter(
            f"it must be NAME=FILE, where NAME is one of {', '.join(COLLECTIONS)}", param_hint="--collection"
        )
    return name, Path(path)


def _configured_address() -> str | None:
    settings = Settings.load()
    if settings.mongodb_url is not None and settings.mongodb_url_file is not None:
        raise ConfigurationError("GRAPHJOBS_MONGODB_URL and GRAPHJOBS_MONGODB_URL_FILE are both set: unset one of them")
    if settings.mongodb_url is not None:
        return settings.mongodb_url.get_secret_value()
    if settings.mongodb_url_file is None:
        return None
    try:
        with settings.mongodb_url_file.open("rb") as file:
            address = file.read(_ADDRESS_BYTES_MAX).decode().strip()
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"GRAPHJOBS_MONGODB_URL_FILE is not readable: {problem}") from None
    if not address.startswith(("mongodb://", "mongodb+srv://")):
        raise ConfigurationError("GRAPHJOBS_MONGODB_URL_FILE must hold an address that starts with mongodb://")
    return address
