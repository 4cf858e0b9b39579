"""The token file: hashes of bearer tokens, one per line, with tenant and scopes; uses the standard library only.

A token has 256 random bits and is impossible to guess, so SHA-256 is as safe as a slow hash.
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
    """The permissions of a token.

    Attributes:
        name: the owner of the token, for the event log.
        tenant_id: the only tenant that the token can access.
        scopes: any of `SCOPES`.
    """

    name: str
    tenant_id: str
    scopes: frozenset[str]


def add_token(path: Path, *, tenant_id: str, scopes: Iterable[str], name: str) -> str:
    """Generate a token and append its hash to the file. A new file is accessible by its owner only.

    Returns:
        The token; it is not stored.

    Raises:
        InvalidJob: the tenant is invalid.
        ConfigurationError: the scopes or the name are invalid, or writing the file failed.
    """
    granted = sorted(set(scopes))
    if not granted or not set(granted) <= set(SCOPES):
        raise ConfigurationError(f"scopes must be one or more of {', '.join(SCOPES)}")
    if not _NAME.fullmatch(name):
        raise ConfigurationError("name must be 1 to 64 letters, digits, dots, dashes, underscores or @")
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
        # One write of one line: concurrent calls append both lines.
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(file).st_size
            # An editor may have removed the newline of the last line.
            unterminated = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            os.write(file, ("\n" * unterminated + line).encode())
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise ConfigurationError(f"writing the token file {path} failed: {error.strerror}") from None
    return token


class TokenFile:
    """The tokens of a file. The file is read again after each change, so tokens can be added and revoked at any time.

    An unreadable file is an error at the start; later the tokens stay as they were.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = self._stat()
        self._grants = _read(path)

    def grant(self, token: str) -> Grant | None:
        """Return the permissions of a token, or None for an unknown token."""
        state = self._stat()
        if state != self._state:
            self._state = state
            try:
                self._grants = _read(self._path)
            except ConfigurationError as error:
                _log.error("%s; the tokens stay as they were", error)
        return self._grants.get(_hash(token))

    def _stat(self) -> tuple[int, ...]:
        try:
            stat = self._path.stat()
        except OSError:
            return ()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _read(path: Path) -> Mapping[str, Grant]:
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"reading the token file {path} failed: {error.strerror}") from None
    if len(content) > _BYTES_MAX:
        raise ConfigurationError(f"the token file {path} must have at most {_BYTES_MAX:,} bytes")
    grants: dict[str, Grant] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry: Any = None if nests_deeper(line, DECODED_DEPTH_MAX) else json.loads(line)
            name, digest, scopes = entry["name"], entry["sha256"], frozenset(entry["scopes"])
            tenant = check_name(entry["tenant"], "tenant")
            is_valid = _NAME.fullmatch(name) and _HASH.fullmatch(digest) and scopes <= set(SCOPES)
        except (ValueError, KeyError, TypeError):
            is_valid = False
        if not is_valid:
            raise ConfigurationError(
                f"line {number} of the token file {path} is not a token: create tokens with `graphjobs tokens add`"
            )
        grants[digest] = Grant(name, tenant, scopes)
    return grants
