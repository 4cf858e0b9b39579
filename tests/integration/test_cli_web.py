"""`graphjobs serve` and `graphjobs tokens`, as a shell meets them."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

_PROGRAM = Path(sys.executable).with_name("graphjobs")
_SECONDS = 30


def _graphjobs(*arguments: str | Path, url: str = "") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "GRAPHJOBS_DATABASE_URL": url, "COLUMNS": "160"}
    return subprocess.run(
        [_PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
    )


def _token(file: Path, tenant: str = "acme", *more: str) -> str:
    done = _graphjobs("tokens", "add", "--tenant", tenant, "--file", file, "--scope", "graph:read", *more)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.strip()


@contextmanager
def _serving(url: str, *arguments: str | Path) -> Iterator[tuple[str, "subprocess.Popen[str]", list[str]]]:
    """Runs the service on a free port; gives its address, the process, and what it said on the way."""
    process = subprocess.Popen(
        [_PROGRAM, "serve", "--port", "0", *arguments],
        env={**os.environ, "GRAPHJOBS_DATABASE_URL": url},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    said: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if found := re.match(r"serving on (http://\S+)", line):
                yield found.group(1), process, said
                break
        else:
            pytest.fail(f"it did not serve: {said}")
    finally:
        process.terminate()
        process.communicate(timeout=_SECONDS)


def test_a_token_is_printed_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    """The file is its owner's alone, and a line each."""
    file = tmp_path / "tokens"
    first, second = _token(file), _token(file, "globex", "--scope", "graph:write", "--name", "ci")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert first != second
    assert not {token for token in (first, second) if token in file.read_text()}
    assert [("acme", ["graph:read"], "token"), ("globex", ["graph:read", "graph:write"], "ci")] == [
        (line["tenant"], line["scopes"], line["name"]) for line in lines
    ]


def test_a_last_line_that_was_left_open_is_closed(tmp_path: Path) -> None:
    """Two tokens in one line would be none."""
    file = tmp_path / "tokens"
    _token(file)
    file.write_text(file.read_text().rstrip("\n"))
    _token(file)
    assert 2 == len([json.loads(line) for line in file.read_text().splitlines()])


def test_a_signal_right_after_it_serves_ends_it_in_order(graphjobs_database_url: str) -> None:
    """Not swallowed, and not the death of the process."""
    for _ in range(5):
        with _serving(graphjobs_database_url) as (_address, process, _said):
            process.terminate()
            process.communicate(timeout=_SECONDS)
        assert 0 == process.returncode


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("--scope", "graph:admin"), "graph:read, graph:write"),
        (("--scope", "graph:read", "--name", "a b"), "name"),
        (("--scope", "graph:read", "--tenant", ""), "tenant"),
        (("--scope", "graph:read", "--file", "/nowhere/tokens"), "/nowhere/tokens"),
    ],
)
def test_a_token_that_cannot_be_is_one_sentence(tmp_path: Path, change: tuple[str, ...], word: str) -> None:
    """And no file is made."""
    file = tmp_path / "tokens"
    done = _graphjobs("tokens", "add", "--tenant", "acme", "--file", file, *change)
    assert done.returncode in (1, 3)
    assert word in done.stderr
    assert 1 == done.stderr.count("\n")
    assert not file.exists()


def test_without_a_token_file_it_serves_and_says_what_that_means(graphjobs_database_url: str) -> None:
    """Health needs no token; all else is 401; SIGTERM ends it with 0."""
    with _serving(graphjobs_database_url) as (address, process, said):
        with httpx.Client(base_url=address) as client:
            codes = [client.get(path).status_code for path in ("/healthz", "/readyz", "/graphs/jobs")]
        process.terminate()
        process.communicate(timeout=_SECONDS)
    assert [200, 200, 401] == codes
    assert "no token file was given" in said[0]
    assert 0 == process.returncode


def test_with_a_token_file_each_sees_its_own_tenant(graphjobs_database_url: str, tmp_path: Path) -> None:
    """A token that is added while it serves is known at once."""
    file = tmp_path / "tokens"
    writer = _token(file, "acme", "--scope", "graph:write")
    body = {"sbomId": "s", "sbomVersionId": "v", "sbomDigest": "sha256:" + "a" * 64}
    with _serving(graphjobs_database_url, "--tokens", file) as (address, _process, said):
        other = _token(file, "globex")
        with httpx.Client(base_url=address) as client:
            heads = [{"authorization": f"Bearer {token}"} for token in (writer, other)]
            asked = client.post("/graphs/build", json=body, headers=heads[0])
            refused = client.post("/graphs/build", json=body, headers=heads[1])
            pages = [client.get("/graphs/jobs", headers=head).json()["jobs"] for head in heads]
    assert (202, 403) == (asked.status_code, refused.status_code)
    assert [[asked.json()], []] == pages
    assert ["serving on"] == [line[:10] for line in said]


def test_what_keeps_it_from_serving_is_one_sentence_and_a_code(graphjobs_database_url: str, tmp_path: Path) -> None:
    """A broken token file, a missing one, an address that is taken or none, a database that is away."""
    broken = tmp_path / "broken"
    broken.write_text("[" * 200_000)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        away = "postgresql://nobody@127.0.0.1:1/none"
        ends = [
            _graphjobs("serve", "--tokens", broken, url=graphjobs_database_url),
            _graphjobs("serve", "--tokens", tmp_path / "missing", url=graphjobs_database_url),
            _graphjobs("serve", "--tokens", "/dev/null", "--port", port, url=graphjobs_database_url),
            _graphjobs("serve", "--tokens", "/dev/null", "--host", "no such host", url=graphjobs_database_url),
            _graphjobs("serve", "--tokens", "/dev/null", url=away),
        ]
    assert [3, 3, 3, 3, 4] == [end.returncode for end in ends], [end.stderr for end in ends]
    for end, word in zip(ends, ("line 1", "missing", port, "no such host", ""), strict=True):
        assert word in end.stderr
        assert 1 == end.stderr.count("\n"), end.stderr
