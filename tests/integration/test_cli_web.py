"""`graphjobs tokens` and `graphjobs serve` as a script sees them: what they say, answer, and end with."""

import hashlib
import json
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest

from tests.migrations.programs import SECONDS_MAX, Done, beside_python, environment, many_graphjobs

Command: TypeAlias = Callable[..., Done]

_MARK = "serving on http://127.0.0.1:"


@pytest.fixture(scope="module")
def graphjobs() -> Iterator[Command]:
    """The command, for calls that end by themselves."""
    with many_graphjobs() as command:
        yield command


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a token file may be made."""
    return tmp_path / "tokens"


class Server:
    """A server in a process of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]", said: Path) -> None:
        self.process = process
        self._said = said
        self.url = ""

    @property
    def said(self) -> str:
        """What it has written on standard error."""
        return self._said.read_text()

    def wait_until_it_serves(self) -> None:
        """Waits for the line that tells its port."""
        until = time.monotonic() + SECONDS_MAX
        while _MARK not in self.said or not self.said.split(_MARK)[1].count("\n"):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{int(self.said.split(_MARK)[1].split()[0])}"

    def get(self, path: str, token: str = "") -> httpx.Response:
        """Asks for a path, with a token where one is given."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.get(self.url + path, headers=headers, timeout=SECONDS_MAX, trust_env=False)

    def ends_by(self, number: signal.Signals) -> int:
        """Sends a signal, and gives the code it ends with."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS_MAX)


@contextmanager
def serving(folder: Path, url: str, *arguments: str) -> Iterator[Server]:
    """Starts `graphjobs serve` on a free port, waits until it serves, and ends it whatever comes."""
    said = folder / "said"
    with (
        said.open("wb") as err,
        subprocess.Popen(
            [beside_python("graphjobs"), "serve", "--port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=err,
            stderr=err,
            env=environment(GRAPHJOBS_DATABASE_URL=url),
        ) as process,
    ):
        try:
            server = Server(process, said)
            server.wait_until_it_serves()
            yield server
        finally:
            process.terminate()
            try:
                process.wait(SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()


def _add(graphjobs: Command, file: Path, *more: str, tenant: str = "acme", scope: str = "graph:read") -> str:
    """Makes a token, and gives it."""
    done = graphjobs("tokens", "add", "--tenant", tenant, "--file", str(file), "--scope", scope, *more)
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.count("\n") == 1
    return done.stdout.strip()


def _failed(done: Done, *, code: int, words: str) -> None:
    """The command ended with that code and one sentence that holds these words."""
    assert code == done.returncode, done.stderr
    assert "" == done.stdout
    assert words in done.stderr
    assert done.stderr.startswith("graphjobs: ")
    assert done.stderr.count("\n") == 1


def test_a_token_is_printed_once_and_kept_as_a_hash(graphjobs: Command, file: Path) -> None:
    """The file is its owner's alone, and does not hold the token."""
    token = _add(graphjobs, file, "--scope", "graph:write", "--name", "ci@acme")
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert token not in file.read_text()
    (line,) = file.read_text().splitlines()
    entry = json.loads(line)
    assert hashlib.sha256(token.encode()).hexdigest() == entry.pop("sha256")
    assert entry.pop("created")
    assert {"name": "ci@acme", "tenant": "acme", "scopes": ["graph:read", "graph:write"]} == entry


def test_tokens_are_appended(graphjobs: Command, file: Path) -> None:
    """The first stays as it was, and no two are alike."""
    first = _add(graphjobs, file)
    before = file.read_text()
    second = _add(graphjobs, file, tenant="ünïted")
    assert first != second
    assert file.read_text().startswith(before)
    assert ["acme", "ünïted"] == [json.loads(line)["tenant"] for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("wrong", "code", "words"),
    [
        ({"scope": "graph:all"}, 3, "graph:read, graph:write"),
        ({"scope": ""}, 3, "graph:read, graph:write"),
        ({"name": "two words"}, 3, "a token's name is"),
        ({"name": ""}, 3, "a token's name is"),
        ({"name": "n" * 65}, 3, "a token's name is"),
        ({"tenant": ""}, 1, "tenant"),
        ({"tenant": "a\nb"}, 1, "tenant"),
        ({"tenant": "t" * 257}, 1, "tenant"),
    ],
)
def test_a_token_that_cannot_be_is_refused(
    graphjobs: Command, file: Path, wrong: dict[str, str], code: int, words: str
) -> None:
    """One sentence, and no file."""
    given = {"tenant": "acme", "scope": "graph:read", "name": "n", "file": str(file)} | wrong
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    _failed(graphjobs("tokens", "add", *options), code=code, words=words)
    assert not file.exists()


def test_a_file_that_cannot_be_written_is_named(graphjobs: Command, tmp_path: Path) -> None:
    """A folder that is not there, or one in the file's place."""
    for file in (tmp_path / "nowhere" / "tokens", tmp_path):
        done = graphjobs("tokens", "add", "--tenant", "acme", "--file", str(file), "--scope", "graph:read")
        _failed(done, code=3, words=f"the token file {file} cannot be written")


def test_what_a_token_needs_is_asked_for(graphjobs: Command, file: Path) -> None:
    """Without a scope the call is not understood."""
    done = graphjobs("tokens", "add", "--tenant", "acme", "--file", str(file))
    assert (2, "") == (done.returncode, done.stdout)
    assert not file.exists()


def test_without_a_token_file_it_serves_and_says_so(graphjobs_database_url: str, tmp_path: Path) -> None:
    """Health needs no token; everything else is answered 401."""
    with serving(tmp_path, graphjobs_database_url) as server:
        assert "no token file was given" in server.said
        assert [200, 401] == [server.get(path).status_code for path in ("/healthz", "/graphs/jobs")]
        assert server.get("/graphs/jobs", "gj_some").status_code == 401
        assert server.ends_by(signal.SIGTERM) == 0
        assert "Traceback" not in server.said


def test_a_token_opens_the_door_also_one_added_while_it_runs(
    graphjobs: Command, graphjobs_database_url: str, file: Path, tmp_path: Path
) -> None:
    """And one that was taken away does not; a file that breaks leaves the tokens as they were."""
    first = _add(graphjobs, file)
    with serving(tmp_path, graphjobs_database_url, "--tokens", str(file)) as server:
        assert "no token file" not in server.said
        answer = server.get("/graphs/jobs", first)
        assert answer.status_code == 200, answer.text
        assert server.get("/graphs/jobs").status_code == 401

        second = _add(graphjobs, file, "--name", "second")
        assert [200, 200] == [server.get("/graphs/jobs", token).status_code for token in (first, second)]

        whole = file.read_text()
        file.write_text(whole + "no token\n")
        assert [200, 200] == [server.get("/graphs/jobs", token).status_code for token in (first, second)]
        assert "line 3 of the token file" in server.said

        file.write_text(whole.splitlines()[1] + "\n")
        assert [401, 200] == [server.get("/graphs/jobs", token).status_code for token in (first, second)]
        # Neither the log nor what it says on errors tells a token.
        assert not any(token in server.said for token in (first, second))
        assert server.ends_by(signal.SIGINT) == 0


@pytest.mark.parametrize(
    "content",
    [
        "no token",
        "{}",
        "[]",
        "\udcff",
        '{"name": "n", "tenant": "t", "scopes": ["graph:all"], "sha256": "' + "0" * 64 + '"}',
        '{"name": "n", "tenant": "", "scopes": [], "sha256": "' + "0" * 64 + '"}',
        '{"name": 1, "tenant": "t", "scopes": [], "sha256": "' + "0" * 64 + '"}',
        '{"name": "n", "tenant": "t", "scopes": [], "sha256": "0"}',
    ],
)
def test_a_broken_token_file_ends_with_3(
    graphjobs: Command, graphjobs_database_url: str, file: Path, content: str
) -> None:
    """The line is named, and its content is not shown."""
    _add(graphjobs, file)
    with file.open("a", errors="surrogateescape") as more:
        more.write(f"\n{content}\n")
    done = graphjobs("serve", "--port", "0", "--tokens", str(file), url=graphjobs_database_url)
    _failed(done, code=3, words=f"line 3 of the token file {file} is no token")
    assert content not in done.stderr.replace("is no token", "")


def test_a_token_file_that_is_not_there_ends_with_3(
    graphjobs: Command, graphjobs_database_url: str, file: Path
) -> None:
    """A mistyped path shall not be a server that knows nobody."""
    done = graphjobs("serve", "--port", "0", "--tokens", str(file), url=graphjobs_database_url)
    _failed(done, code=3, words=f"the token file {file} cannot be read")


def test_a_port_that_is_taken_ends_with_3(graphjobs: Command, graphjobs_database_url: str, file: Path) -> None:
    """The sentence names it."""
    _add(graphjobs, file)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = graphjobs("serve", "--port", str(port), "--tokens", str(file), url=graphjobs_database_url)
    _failed(done, code=3, words=f"cannot listen on 127.0.0.1 port {port}")


def test_an_address_that_is_none_ends_with_3(graphjobs: Command, graphjobs_database_url: str, file: Path) -> None:
    """Such as that of another machine, or no address at all."""
    _add(graphjobs, file)
    for host in ("192.0.2.1", "a..b"):
        done = graphjobs("serve", "--host", host, "--port", "0", "--tokens", str(file), url=graphjobs_database_url)
        _failed(done, code=3, words=f"cannot listen on {host} port 0")


def test_a_database_that_is_away_ends_with_4(graphjobs: Command, file: Path) -> None:
    """Before it listens."""
    _add(graphjobs, file)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    url = f"postgresql://somebody:secret@127.0.0.1:{port}/nothing"
    done = graphjobs("serve", "--port", "0", "--tokens", str(file), url=url)
    _failed(done, code=4, words="")
    assert "secret" not in done.stderr
    assert "serving on" not in done.stderr
