"""The token file: hashes of bearer tokens, one per line, with tenant and scopes; uses the standard library only.

A token has 256 random bits and is impossible to guess, so SHA-256 is as safe as a slow hash.
"""

import hashlib
import json
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from graphjobs.core.fields import check_name
from graphjobs.core.json_values import DECODED_DEPTH_MAX, nests_deeper
from graphjobs.core.unique_json import unique_object
from graphjobs.errors import ConfigurationError

GRAPH_READ: Final = "graph:read"
GRAPH_WRITE: Final = "graph:write"
GRAPH_COMPLETE: Final = "graph:complete"
POLICY_READ: Final = "policy:read"
POLICY_RUN: Final = "policy:run"
POLICY_EMERGENCY: Final = "policy:emergency"
SCOPES: Final = (GRAPH_READ, GRAPH_WRITE, GRAPH_COMPLETE, POLICY_READ, POLICY_RUN, POLICY_EMERGENCY)

GRACE_SECONDS: Final = 60.0
"""The time that tokens stay valid after their file became unreadable; then none is, until it is readable again."""

_PREFIX: Final = "gj_"
_RETRY_SECONDS: Final = 1.0
# Opening a FIFO without O_NONBLOCK waits for its other end.
_OPEN_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
_BYTES_MAX: Final = 4 * 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_FIELDS: Final = frozenset({"name", "tenant", "scopes", "sha256", "created", "expires"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Grant:
    """The permissions of a token.

    Attributes:
        name: the owner of the token, for the event log.
        tenant_id: the only tenant that the token can access.
        scopes: any of `SCOPES`.
        expires: when the token becomes unknown; None means never.
    """

    name: str
    tenant_id: str
    scopes: frozenset[str]
    expires: datetime | None = None


def add_token(path: Path, *, tenant_id: str, scopes: Iterable[str], name: str, expires: datetime | None = None) -> str:
    """Generate a token and append its hash to the file. A new file is accessible by its owner only.

    Args:
        path: the file.
        tenant_id: the only tenant that the token can access.
        scopes: any of `SCOPES`.
        name: the owner of the token, for the event log.
        expires: when the token becomes unknown, an aware time in the future; None means never.

    Returns:
        The token; it is not stored.

    Raises:
        InvalidJob: the tenant is invalid.
        ConfigurationError: the scopes, the name or the expiry are invalid, others can write the file, or writing it
            failed.
    """
    granted = sorted(set(scopes))
    if not granted or not set(granted) <= set(SCOPES):
        raise ConfigurationError(f"scopes must be one or more of {', '.join(SCOPES)}")
    if not _NAME.fullmatch(name):
        raise ConfigurationError("name must be 1 to 64 letters, digits, dots, dashes, underscores or @")
    if expires is not None:
        if expires.tzinfo is None or expires <= datetime.now(UTC):
            raise ConfigurationError("the expiry of a token must be an aware time in the future")
        # A time of the year 9999 may be one of the year 10000 in UTC.
        expires = min(expires, datetime.max.replace(tzinfo=UTC)).astimezone(UTC)
    token = _PREFIX + secrets.token_urlsafe(32)
    entry = {
        "name": name,
        "tenant": check_name(tenant_id, "tenant"),
        "scopes": granted,
        "sha256": _hash(token),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **({"expires": expires.isoformat(timespec="seconds")} if expires else {}),
    }
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    try:
        # One write of one line: concurrent calls append both lines.
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _OPEN_FLAGS, 0o600)
        try:
            size = _require_safe(file, path).st_size
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

    A file that is unreadable, invalid, or writable by others is an error at the start. Later the tokens stay as they
    were for 60 seconds, as while the file is replaced; then no token is valid until the file is right again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = self._stat()
        self._grants = _read(path)
        self._failing_since: float | None = None
        self._retry_at = 0.0

    def grant(self, token: str) -> Grant | None:
        """Return the permissions of a token, or None for an unknown or expired token."""
        self._reload()
        grant = self._grants.get(_hash(token))
        return None if grant is None or (grant.expires and grant.expires <= datetime.now(UTC)) else grant

    def _reload(self) -> None:
        now, state = time.monotonic(), self._stat()
        if state == self._state and (self._failing_since is None or now < self._retry_at):
            return
        is_changed, self._state, self._retry_at = state != self._state, state, now + _RETRY_SECONDS
        try:
            self._grants = _read(self._path)
            self._failing_since = None
        except ConfigurationError as error:
            if self._failing_since is None:
                self._failing_since = now
            if now - self._failing_since >= GRACE_SECONDS and self._grants:
                self._grants = {}
                _log.error("%s; no token is valid any more", error)
            elif is_changed:
                _log.error("%s; the tokens stay as they were for %.0f seconds", error, GRACE_SECONDS)

    def _stat(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _require_safe(file: int, path: Path) -> os.stat_result:
    """Return the status of an open file.

    Raises:
        ConfigurationError: it is no regular file, others than its owner can write it, or anyone can replace it.
    """
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"the token file {path} must be a regular file")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(f"the token file {path} must be writable by its owner only: run chmod go-w on it")
    for folder in {path.parent, path.resolve().parent}:
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigurationError(
                f"the token file {path} could be replaced by anyone: run chmod o-w on the folder {folder}"
            )
    return status


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _read(path: Path) -> Mapping[str, Grant]:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | _OPEN_FLAGS), "rb") as file:
            _require_safe(file.fileno(), path)
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
            entry: Any = (
                None if nests_deeper(line, DECODED_DEPTH_MAX) else json.loads(line, object_pairs_hook=unique_object)
            )
            name, digest, scopes = entry["name"], entry["sha256"], frozenset(entry["scopes"])
            tenant = check_name(entry["tenant"], "tenant")
            expires = datetime.fromisoformat(entry["expires"]) if "expires" in entry else None
            if expires is not None and expires.tzinfo is None:
                raise ValueError("an expiry without an offset")  # noqa: TRY301  # handled as any other invalid field
            # A misspelt `expires` would be a token without end.
            is_valid = (
                _FIELDS.issuperset(entry)
                and _NAME.fullmatch(name)
                and _HASH.fullmatch(digest)
                and scopes <= set(SCOPES)
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            is_valid = False
        if not is_valid:
            raise ConfigurationError(
                f"line {number} of the token file {path} is not a token: create tokens with `graphjobs tokens add`"
            )
        if digest in grants:
            raise ConfigurationError(
                f"line {number} of the token file {path} is a token of an earlier line: delete one of them"
            )
        grants[digest] = Grant(name, tenant, scopes, expires)
    return grants
