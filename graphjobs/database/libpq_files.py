"""Read the files of libpq, by its rules: the service file and the password file."""

import logging
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from graphjobs.errors import ConfigurationError

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_FIELDS: Final = 5
_FIELD: Final = re.compile(r"(?:\\.|[^:\\])*(?:\\$)?", re.DOTALL)

_log = logging.getLogger(__name__)


def home_file(name: str) -> str:
    """Return the path of a file in the home folder; without one it is a file that does not exist."""
    return os.path.expanduser(f"~/{name}")  # noqa: PTH111  # Path.home() fails without a home


def read_service(service: str) -> list[tuple[str, str]]:
    """Return the parameters of a service in their order, from the file of the user or of the system.

    Raises:
        ConfigurationError: no file has the service, or the file or a line of the service is unreadable.
    """
    files = [os.environ.get("PGSERVICEFILE") or home_file(".pg_service.conf")]
    if os.environ.get("PGSYSCONFDIR"):
        files.append(str(Path(os.environ["PGSYSCONFDIR"]) / "pg_service.conf"))
    for file in files:
        found = _read_service(file, service)
        if found is not None:
            return found
    raise ConfigurationError("GRAPHJOBS_DATABASE_URL is invalid: no service file has the service that it names")


def _read_service(file: str, service: str) -> list[tuple[str, str]] | None:
    try:
        text = Path(file).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is invalid"
        raise ConfigurationError(f"the service file {file} is unreadable: {reason}") from None
    found: list[tuple[str, str]] | None = None
    for number, line in enumerate((line.strip() for line in text.split("\n")), start=1):
        if line.startswith("["):
            if found is not None:
                break
            if line == f"[{service}]":
                found = []
        elif found is not None and line and not line.startswith("#"):
            name, separator, value = line.partition("=")
            if not separator or name == "service" or not re.fullmatch(r"[a-z_]+", name):
                raise ConfigurationError(
                    f"line {number} of the service file {file} is invalid: it must be name=value, without blanks "
                    "around the name, and not another service"
                )
            found.append((name, value))
    return found


def find_password(file: str, host: str, port: int, database: str, user: str) -> str | None:
    """Return the password of the first line of a password file that matches; None without one.

    A file that others may read is not used, and a warning says so.

    Args:
        file: the path.
        host: the host as the URL names it: a name, an address, or the folder of a Unix socket.
        port: the port.
        database: the database.
        user: the role.
    """
    try:
        mode = Path(file).stat().st_mode
        if not stat.S_ISREG(mode):
            _log.warning("the password file %s is not a plain file, and is not used", file)
            return None
        if mode & _OTHERS:
            _log.warning("the password file %s is not used: others may read it; set its mode to 0600", file)
            return None
        lines = Path(file).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except (OSError, ValueError):
        return None
    for line in lines:
        fields = _split(line)
        if line.startswith("#") or len(fields) < _FIELDS:
            continue
        # For libpq a socket is its folder, and localhost if that is the default one, which depends on the build.
        hosts = {host, "localhost"} if host.startswith(("/", "@")) else {host}
        if (fields[0] == "*" or fields[0] in hosts) and all(
            field in ("*", value) for field, value in zip(fields[1:4], (str(port), database, user), strict=True)
        ):
            return fields[4] or None
    return None


def _split(line: str) -> Sequence[str]:
    """Split a line at colons. A backslash escapes the next character."""
    fields: list[str] = []
    start = 0
    while len(fields) < _FIELDS:
        match = _FIELD.match(line, start)
        if match is None:  # pragma: no cover  # the pattern matches the empty text
            break
        fields.append(re.sub(r"\\(.)", r"\1", match[0], flags=re.DOTALL))
        start = match.end() + 1
        if start > len(line):
            break
    return fields
