"""The output and exit codes of `graphjobs serve` and `graphjobs tokens`."""

import json
import re
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.migrations.cli_tools import beside_python, environment, graphjobs

_SECONDS = 30


def _token(file: Path, tenant: str = "acme", *options: str) -> str:
    done = graphjobs("tokens", "add", "--tenant", tenant, "--file", file, "--scope", "graph:read", *options)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.strip()


@contextmanager
def _serving(url: str, *arguments: str | Path) -> Iterator[tuple[str, "subprocess.Popen[str]", list[str]]]:
    """Run the service on a free port; return its address, its process, and the lines that it printed."""
    process = subprocess.Popen(
        [beside_python("graphjobs"), "serve", "--port", "0", *arguments],
        env=environment(GRAPHJOBS_DATABASE_URL=url),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    lines: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if match := re.match(r"serving on (http://\S+)", line):
                yield match.group(1), process, lines
                break
        else:
            pytest.fail(f"the service did not start: {lines}")
    finally:
        process.terminate()
        process.communicate(timeout=_SECONDS)


def test_a_token_is_printed_and_stored_as_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    first, second = _token(file), _token(file, "globex", "--scope", "graph:write", "--name", "ci")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert first != second
    assert not {token for token in (first, second) if token in file.read_text()}
    assert [("acme", ["graph:read"], "token"), ("globex", ["graph:read", "graph:write"], "ci")] == [
        (line["tenant"], line["scopes"], line["name"]) for line in lines
    ]


def test_a_last_line_without_a_newline_is_terminated(tmp_path: Path) -> None:
    """Two tokens in one line would be invalid."""
    file = tmp_path / "tokens"
    _token(file)
    file.write_text(file.read_text().rstrip("\n"))
    _token(file)
    assert 2 == len([json.loads(line) for line in file.read_text().splitlines()])


def test_a_signal_immediately_after_the_start_is_an_orderly_shutdown(graphjobs_database_url: str) -> None:
    """The signal is neither ignored nor fatal."""
    for _ in range(5):
        with _serving(graphjobs_database_url) as (_address, process, _lines):
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
def test_an_invalid_token_is_one_sentence(tmp_path: Path, change: tuple[str, ...], word: str) -> None:
    file = tmp_path / "tokens"
    done = graphjobs("tokens", "add", "--tenant", "acme", "--file", file, *change)
    assert done.returncode in (2, 3)
    assert word in done.stderr
    assert 1 == done.stderr.count("\n")
    assert not file.exists()


def test_without_a_token_file_the_service_starts_with_a_message(graphjobs_database_url: str) -> None:
    with _serving(graphjobs_database_url) as (address, process, lines):
        with httpx.Client(base_url=address) as client:
            codes = [client.get(path).status_code for path in ("/healthz", "/readyz", "/graphs/jobs")]
        process.terminate()
        process.communicate(timeout=_SECONDS)
    assert [200, 200, 401] == codes
    assert "without a token file" in lines[0]
    assert 0 == process.returncode


def test_a_token_accesses_its_own_tenant_only(graphjobs_database_url: str, tmp_path: Path) -> None:
    """A token that is added while the service runs is accepted immediately."""
    file = tmp_path / "tokens"
    writer = _token(file, "acme", "--scope", "graph:write")
    body = {"sbomId": "s", "sbomVersionId": "v", "sbomDigest": "sha256:" + "a" * 64}
    with _serving(graphjobs_database_url, "--tokens", file) as (address, _process, lines):
        other = _token(file, "globex")
        with httpx.Client(base_url=address) as client:
            headers = [{"authorization": f"Bearer {token}"} for token in (writer, other)]
            accepted = client.post("/graphs/build", json=body, headers=headers[0])
            refused = client.post("/graphs/build", json=body, headers=headers[1])
            pages = [client.get("/graphs/jobs", headers=header).json()["jobs"] for header in headers]
    assert (202, 403) == (accepted.status_code, refused.status_code)
    assert [[accepted.json()], []] == pages
    assert ["serving on"] == [line[:10] for line in lines]


def test_a_failed_start_is_one_sentence_with_an_exit_code(graphjobs_database_url: str, tmp_path: Path) -> None:
    """An invalid or missing token file, an address that is invalid or in use, and an unavailable database."""
    invalid = tmp_path / "invalid"
    invalid.write_text("[" * 200_000)
    empty = tmp_path / "empty"
    empty.touch(mode=0o600)
    with closing(socket.create_server(("127.0.0.1", 0))) as used:
        port = str(used.getsockname()[1])
        unavailable = "postgresql://nobody@127.0.0.1:1/none"
        results = [
            graphjobs("serve", "--tokens", invalid, url=graphjobs_database_url),
            graphjobs("serve", "--tokens", tmp_path / "missing", url=graphjobs_database_url),
            graphjobs("serve", "--tokens", empty, "--port", port, url=graphjobs_database_url),
            graphjobs("serve", "--tokens", empty, "--host", "no such host", url=graphjobs_database_url),
            graphjobs("serve", "--tokens", empty, url=unavailable),
        ]
    assert [3, 3, 3, 3, 4] == [done.returncode for done in results], [done.stderr for done in results]
    for done, word in zip(results, ("line 1", "missing", port, "no such host", ""), strict=True):
        assert word in done.stderr
        assert 1 == done.stderr.count("\n"), done.stderr
