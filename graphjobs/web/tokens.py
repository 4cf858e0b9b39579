"""The token file: bearer tokens as hashes, a line each, with tenant and scopes; standard library only.

A token is 256 random bits, so its SHA-256 is as good as a slow hash would be: there is nothing to guess from.
"""

import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from graphjobs.core.fields import check_name
from graphjobs.core.json_values import DECODED_DEPTH_MAX, nests_deeper
from graphjobs.errors import ConfigurationError

GRAPH_READ: Final = "graph:read"
GRAPH_WRITE: Final = "graph:write"
POLICY_READ: Final = "policy:read"
POLICY_RUN: Final = "policy:run"
SCOPES: Final = (GRAPH_READ, GRAPH_WRITE, POLICY_READ, POLICY_RUN)

_PREFIX: Final = "gj_"
_BYTES_MAX: Final = 4 * 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is good for.

    Attributes:
        name: whose it is, for the log of events.
        tenant_id: the one tenant it speaks for.
        scopes: what it may do.
    """

    name: str
    tenant_id: str
    scopes: frozenset[str]


def add_token(path: Path, *, tenant_id: str, scopes: Iterable[str], name: str) -> str:
    """Makes a token, and appends its hash to the file, which is made for its owner alone if it is not there.

    Returns:
        The token; it is stored nowhere.

    Raises:
        InvalidJob: the tenant cannot be one.
        ConfigurationError: a scope or name that cannot be, or a file that cannot be written.
    """
    granted = sorted(set(scopes))
    unknown = [scope for scope in granted if scope not in SCOPES]
    if unknown or not granted:
        raise ConfigurationError(f"a token's scopes are one or more of {', '.join(SCOPES)}")
    if not _NAME.fullmatch(name):
        raise ConfigurationError("a token's name is 1 to 64 letters, digits, dots, dashes, underscores or @")
    token = _PREFIX + secrets.token_urlsafe(32)
    entry = {
        "name": name,
        "tenant": check_name(tenant_id, "tenant"),
        "scopes": granted,
        "sha256": _hash(token),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    try:
        # One write of one line: two at once append both.
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(file).st_size
            # Whoever edited the file may have left its last line open.
            broken_off = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            os.write(file, ("\n" * broken_off + line).encode())
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise ConfigurationError(f"the token file {path} cannot be written: {error.strerror}") from None
    return token


class TokenFile:
    """The tokens of a file, read again whenever it has changed, so that one can be added or taken away any time.

    A file that cannot be read at the start is refused; one that is broken later leaves the tokens as they were.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = self._look()
        self._grants = _read(path)

    def grant(self, token: str) -> Grant | None:
        """Gives what a token is good for, or None where it is none."""
        state = self._look()
        if state != self._state:
            self._state = state
            try:
                self._grants = _read(self._path)
            except ConfigurationError as error:
                _log.error("%s; the tokens stay as they were", error)
        return self._grants.get(_hash(token))

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _read(path: Path) -> Mapping[str, Grant]:
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"the token file {path} cannot be read: {error.strerror}") from None
    if len(content) > _BYTES_MAX:
        raise ConfigurationError(f"the token file {path} is larger than {_BYTES_MAX:,} bytes")
    grants: dict[str, Grant] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry: Any = None if nests_deeper(line, DECODED_DEPTH_MAX) else json.loads(line)
            name, digest, scopes = entry["name"], entry["sha256"], frozenset(entry["scopes"])
            tenant = check_name(entry["tenant"], "tenant")
            sound = _NAME.fullmatch(name) and _HASH.fullmatch(digest) and scopes <= set(SCOPES)
        except (ValueError, KeyError, TypeError):
            sound = None
        if not sound:
            raise ConfigurationError(
                f"line {number} of the token file {path} is no token: make them with `graphjobs tokens add`"
            )
        grants[digest] = Grant(name, tenant, scopes)
    return grants
