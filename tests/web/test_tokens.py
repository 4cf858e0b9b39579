"""The token file: who may write it, what becomes of its tokens when it is unreadable, and when they expire."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from graphjobs.errors import ConfigurationError
from graphjobs.web import tokens
from graphjobs.web.tokens import GRAPH_READ, TokenFile, add_token
from tests.migrations.cli_tools import graphjobs


def _add(path: Path, expires: datetime | None = None) -> str:
    return add_token(path, tenant_id="acme", scopes=[GRAPH_READ], name="ci", expires=expires)


def _replace_with(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


_UNSAFE: dict[str, Callable[[Path], object]] = {
    "writable by the group": lambda path: path.chmod(0o620),
    "writable by all": lambda path: path.chmod(0o606),
    "a FIFO": _replace_with(os.mkfifo),
    "a folder": _replace_with(Path.mkdir),
    "a device": _replace_with(lambda path: path.symlink_to("/dev/null")),
    "missing": Path.unlink,
    "invalid": lambda path: path.write_text("{}\n"),
    "an expiry without an offset": lambda path: path.write_text(
        path.read_text().replace('"created"', '"expires": "2999-01-01T00:00:00", "created"')
    ),
    "a misspelt expiry": lambda path: path.write_text(
        path.read_text().replace('"created"', '"expiry": "2020-01-01T00:00:00Z", "created"')
    ),
    "a field twice": lambda path: path.write_text(path.read_text().replace('"created"', '"tenant": "b", "created"')),
    "a token twice": lambda path: path.write_text(path.read_text() * 2),
    "an expiry that is no text": lambda path: path.write_text(
        path.read_text().replace('"created"', '"expires": 1, "created"')
    ),
}


@pytest.mark.parametrize("name", _UNSAFE)
def test_an_unsafe_file_is_refused_and_its_tokens_end_after_the_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """At first the tokens stay: the file may be just being replaced. A file that is right again is used at once."""
    path = tmp_path / "tokens"
    token = _add(path)
    content = path.read_bytes()
    file = TokenFile(path)
    _UNSAFE[name](path)
    with pytest.raises(ConfigurationError, match="token file"):
        TokenFile(path)
    for _ in range(3):
        assert file.grant(token) is not None
    assert 1 == len(caplog.records)
    monkeypatch.setattr(tokens, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(tokens, "_RETRY_SECONDS", 0.0)
    file._retry_at = 0.0
    for _ in range(3):
        assert file.grant(token) is None
    assert "no token is valid any more" in caplog.records[1].message
    right = tmp_path / "right"
    right.touch(mode=0o600)
    right.write_bytes(content)
    if path.is_dir():
        path.rmdir()
    right.rename(path)
    assert file.grant(token) is not None


@pytest.mark.parametrize("name", ["writable by all", "a FIFO", "a device"])
def test_no_token_is_added_to_an_unsafe_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tokens"
    _add(path)
    _UNSAFE[name](path)
    with pytest.raises(ConfigurationError, match="token file"):
        _add(path)


def test_a_file_that_anyone_can_replace_is_refused(tmp_path: Path) -> None:
    """Its folder is open to all, also behind a link; a sticky folder is safe, as /tmp is."""
    folder, link = tmp_path / "open", tmp_path / "link"
    folder.mkdir()
    path = folder / "tokens"
    _add(path)
    link.symlink_to(path)
    folder.chmod(0o707)
    for name in (path, link):
        for use in (TokenFile, _add):
            with pytest.raises(ConfigurationError, match="chmod o-w on the folder"):
                use(name)
    folder.chmod(0o1707)
    TokenFile(link)


def test_a_token_is_unknown_once_it_has_expired(tmp_path: Path) -> None:
    """Another one of the same file stays."""
    path = tmp_path / "tokens"
    expiring, lasting = _add(path, datetime.now(UTC) + timedelta(days=1)), _add(path)
    assert TokenFile(path).grant(expiring) is not None
    first, second = path.read_text().splitlines()
    expired = {**json.loads(first), "expires": "2020-01-01T00:00:00+00:00"}
    path.write_text(f"{json.dumps(expired)}\n{second}\n")
    file = TokenFile(path)
    assert (True, False) == (file.grant(expiring) is None, file.grant(lasting) is None)
    for invalid in (datetime.now(UTC) - timedelta(seconds=1), datetime(2999, 1, 1)):  # noqa: DTZ001  # naive
        with pytest.raises(ConfigurationError, match="expiry"):
            _add(path, invalid)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--expires-in", "30d"), 0),
        (("--expires", "2999-12-31"), 0),
        (("--expires", "2999-12-31T10:00:00+02:00"), 0),
        (("--expires", "9999-12-31T23:59:00-14:00"), 0),
        (("--expires-in", "soon"), 2),
        (("--expires-in", "d"), 2),
        (("--expires", "2999-12-31T10:00:00"), 3),
        (("--expires", "2020-12-31"), 3),
        (("--expires-in", "-1d"), 3),
        (("--expires", "tomorrow"), 2),
        (("--expires-in", "1d", "--expires", "2999-12-31"), 2),
    ],
)
def test_the_command_sets_an_expiry(tmp_path: Path, options: tuple[str, ...], code: int) -> None:
    path = tmp_path / "tokens"
    done = graphjobs("tokens", "add", "--tenant", "acme", "--file", path, "--scope", GRAPH_READ, *options)
    assert (code, code == 0) == (done.returncode, path.exists())
    if code == 0:
        assert datetime.fromisoformat(json.loads(path.read_text())["expires"]) > datetime.now(UTC)
