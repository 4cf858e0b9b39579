"""Create, start, inspect and stop one PostgreSQL cluster on this machine, with the server's own programs.

This module knows no wheel, no default folder and no asyncio. Its methods block (call them in a thread). It ends only
the programs that it runs and, with `pg_ctl stop`, the server of its own data folder.
"""

import glob
import hashlib
import logging
import os
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from graphjobs.database.embedded.postmaster import drop_stale, find_postmaster
from graphjobs.database.embedded.private_dirs import locked, make_parents, make_private, read_regular, require_private
from graphjobs.database.embedded.programs import START_SECONDS, ServerPrograms, last_line
from graphjobs.errors import ConfigurationError, DatabaseUnavailable

logger = logging.getLogger(__name__)

SUPERUSER = "graphjobs"
PORT = 5432  # only a part of the socket's name; always passed, so that PGPORT has no effect

STOP_SECONDS = 60
INITDB_SECONDS = 120
POLL_SECONDS = 0.05
LOG_BYTES_MAX = 1024 * 1024
SOCKET_PATH_BYTES_MAX = 103  # the limit is 107 on Linux and 103 on macOS

# Exit codes of pg_isready; 1 means that the server is starting or stopping.
_ACCEPTS, _NO_ANSWER = 0, 2
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._~-]+")


@dataclass(frozen=True)
class ClusterStatus:
    """The state of a cluster at one moment.

    Attributes:
        running: whether the server accepts connections.
        pid: the process id of the postmaster; None without a live one.
        version: the version of the running server ("18.4"), or the major version of the data of a stopped one ("18");
            None without data.
        data_dir: the folder of the data.
        socket_dir: the folder of the Unix socket.
    """

    running: bool
    pid: int | None
    version: str | None
    data_dir: Path
    socket_dir: Path


@dataclass(frozen=True)
class Cluster:
    """A data folder, and the programs that serve it on a private Unix socket.

    The server trusts every user that can open the socket, so only the server's user can open its folder. Several
    processes may use an equal Cluster concurrently: a lock file beside the data orders their starts and stops.

    Attributes:
        bin_dir: the folder of initdb, pg_ctl, pg_isready, postgres and psql, all of one version (15 or newer).
        data_dir: the absolute path of the data; its parent also holds a lock file and a log of the same name.
        socket_dir: the folder of the socket, `socket_dir_for(data_dir)`.
        os_user: the system user that runs the programs; None means the user of this process, which must not be root.
        options: server settings for the start; they override the defaults of this module.
    """

    bin_dir: Path
    data_dir: Path
    socket_dir: Path
    os_user: str | None = None
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def programs(self) -> ServerPrograms:
        """The programs, bound to the data folder and the user of the server."""
        return ServerPrograms(self.bin_dir, self.data_dir, self.os_user)

    @property
    def log_path(self) -> Path:
        """The server's log, beside the data; a start truncates it when it is larger than 1 MiB."""
        return self.data_dir.with_name(f"{self.data_dir.name}.log")

    @property
    def lock_path(self) -> Path:
        """The lock file that orders starts and stops; never removed, or two processes could hold the lock."""
        return self.data_dir.with_name(f"{self.data_dir.name}.lock")

    def url(self, database: str = "postgres") -> str:
        """Return the `postgresql://` URL of one database of this cluster, whether it runs or not."""
        host = quote(os.fsencode(self.socket_dir), safe="/")
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={host}&port={PORT}"

    def start(self) -> None:
        """Create the cluster if it does not exist, and start its server unless it accepts connections already.

        The server outlives this process, its terminal and its process group.

        Raises:
            ConfigurationError: the folder is unusable, or holds other files or data of another major version.
            DatabaseUnavailable: the server did not start within 60 seconds; the message names its log.
        """
        if self._ping() == _ACCEPTS:
            return
        make_parents(self.data_dir, os_user=self.os_user)
        with locked(self.lock_path):
            self._check_data()
            if not (self.data_dir / "PG_VERSION").exists():
                self._initdb()
            make_private(self.socket_dir, owner=self.programs.owner())
            self._start_server()

    def stop(self) -> None:
        """Stop the server and end its connections; do nothing when it does not run.

        Raises:
            ConfigurationError: the data belong to another user.
            DatabaseUnavailable: the server has not stopped within 60 seconds.
        """
        try:
            require_private(self.data_dir, owner=self.programs.owner())
        except FileNotFoundError:
            return
        with locked(self.lock_path):
            # pg_ctl signals the process in the pid file, so check first that it is this server.
            if find_postmaster(self.data_dir) is None:
                return
            try:
                done = self.programs.run("pg_ctl", "stop", "-s", "-m", "fast", "-w", "-t", str(STOP_SECONDS))
            except DatabaseUnavailable:
                done = None
            if (done is None or done.returncode != 0) and find_postmaster(self.data_dir) is not None:
                raise DatabaseUnavailable(f"PostgreSQL has not stopped yet: {self._failure_reason(0)}")

    def status(self) -> ClusterStatus:
        """Return the state of the cluster, as the server reports it."""
        running = self._ping() == _ACCEPTS
        version = self._ask("SHOW server_version").split(" ")[0] if running else self._data_version()
        return ClusterStatus(running, find_postmaster(self.data_dir), version, self.data_dir, self.socket_dir)

    def create_database_if_missing(self, name: str) -> None:
        """Create an empty database unless it exists; safe to call from several processes concurrently."""
        exists = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = :'name')"
        if self._ask(exists, name=name) == "t":
            return
        with locked(self.lock_path):
            try:
                self._ask("SELECT format('CREATE DATABASE %I', :'name') \\gexec", name=name)
            except DatabaseUnavailable:
                # Another process created it first, or the statement of a killed process continued without the lock.
                if self._ask(exists, name=name) != "t":
                    raise

    def _start_server(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._ping() != _ACCEPTS:
            if find_postmaster(self.data_dir) is None:
                drop_stale(self.data_dir / "postmaster.pid", self.socket_dir / f".s.PGSQL.{PORT}.lock")
                log_start, started = self._pg_ctl_start()
                if started:
                    logger.info(
                        "PostgreSQL started on %s with trust authentication on a private Unix socket: "
                        "for this machine only",
                        self.socket_dir,
                    )
                    return
                # The backends of a killed postmaster hold its shared memory for a moment, and PostgreSQL refuses.
                waiting = "shared memory block" in self._log_since(log_start)
                if find_postmaster(self.data_dir) is None and not waiting:
                    raise DatabaseUnavailable(f"PostgreSQL did not start: {self._failure_reason(log_start)}")
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"PostgreSQL did not start within {START_SECONDS} seconds: {self._failure_reason(0)}"
                )
            time.sleep(POLL_SECONDS)

    def _pg_ctl_start(self) -> tuple[int, bool]:
        """Start the server; return the previous length of its log, and whether the start succeeded."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
            "port": str(PORT),
            # Callers get their errors; in the log they would take space and could quote stored values.
            "log_min_messages": "log",
            "log_checkpoints": "off",
            **self.options,
        }
        # pg_ctl passes these to a shell. The folder is one of them (and not pg_ctl's own -D, which quotes badly), so
        # that the command line identifies the process.
        arguments = ["-D", str(self.data_dir)]
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        log = os.open(self.log_path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(log).st_size > LOG_BYTES_MAX:
                os.ftruncate(log, 0)
            log_start = os.fstat(log).st_size
            seconds = str(START_SECONDS)
            try:
                done = self.programs.run(
                    "pg_ctl", "start", "-s", "-w", "-t", seconds, "-o", shlex.join(arguments), output=log
                )
            except DatabaseUnavailable:
                return log_start, False
        finally:
            os.close(log)
        return log_start, done.returncode == 0

    def _check_data(self) -> None:
        """Check that the data folder is absent, empty, or holds data of this version; change nothing in it."""
        try:
            require_private(self.data_dir, owner=self.programs.owner())
        except FileNotFoundError:
            return
        data, program = self._data_version(), self._program_version()
        if data is None and any(self.data_dir.iterdir()):
            raise ConfigurationError(
                f"{self.data_dir} holds files but no PostgreSQL data: name an empty folder or one that does not exist"
            )
        if data not in (None, program):
            raise ConfigurationError(
                f"the data in {self.data_dir} are of PostgreSQL {data} and this is PostgreSQL {program}: "
                "name another folder, or migrate the data with pg_dump"
            )

    def _initdb(self) -> None:
        """Create the data in a temporary folder and rename it, so that a kill leaves no incomplete data folder."""
        self.programs.require_user_name()
        prefix = f"{self.data_dir.name}.begun-"
        for abandoned in self.data_dir.parent.glob(f"{glob.escape(prefix)}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        # A new name for each run: the initdb of a killed caller may still write to its own folder.
        incomplete = self.data_dir.with_name(prefix + secrets.token_hex(4))
        make_private(incomplete, owner=self.programs.owner())
        # --no-locale sorts text by code point on every machine, and keeps messages English.
        arguments = ["--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--no-locale"]
        if self.options.get("fsync") == "off":
            arguments.append("--no-sync")
        done = self.programs.run("initdb", *arguments, "-D", str(incomplete), seconds=INITDB_SECONDS)
        if done.returncode != 0:
            raise ConfigurationError(f"PostgreSQL could not create its data folder: {last_line(done.stderr)}")
        try:
            incomplete.rename(self.data_dir)
        except OSError as error:
            raise ConfigurationError(
                f"the data could not be moved to {self.data_dir} ({error.strerror}): name a folder inside it"
            ) from None

    def _ping(self) -> int:
        """Return the exit code of pg_isready; never connect to a socket in a folder that is not private."""
        try:
            require_private(self.socket_dir, owner=self.programs.owner())
        except FileNotFoundError:
            return _NO_ANSWER
        return self.programs.run("pg_isready", "-q", "-t", "5", "-h", str(self.socket_dir), "-p", str(PORT)).returncode

    def _ask(self, sql: str, **values: str) -> str:
        """Run SQL through psql, with `values` as its variables, and return its output."""
        arguments = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-h", str(self.socket_dir), "-p", str(PORT), "-U", SUPERUSER]
        for name, value in values.items():
            arguments += ["-v", f"{name}={value}"]
        done = self.programs.run("psql", *arguments, "-d", "postgres", "-f", "-", text=sql)
        if done.returncode != 0:
            raise DatabaseUnavailable(f"PostgreSQL on {self.socket_dir} refused a statement: {last_line(done.stderr)}")
        return done.stdout.strip()

    def _data_version(self) -> str | None:
        try:
            return read_regular(self.data_dir / "PG_VERSION").strip()
        except OSError:
            return None

    def _program_version(self) -> str:
        """Return the major version of the programs."""
        done = self.programs.run("postgres", "--version")
        version = re.search(r"\) (\d+)", done.stdout)
        if version is None:
            raise ConfigurationError(f"the PostgreSQL of {self.bin_dir} does not run: {last_line(done.stderr)}")
        return version[1]

    def _log_since(self, start: int) -> str:
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(start, log.seek(0, os.SEEK_END) - 64 * 1024))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _failure_reason(self, log_start: int) -> str:
        """Return the last fatal line of the log, or else its last line, and the path of the log."""
        log = self._log_since(log_start)
        fatal = "\n".join(line for line in log.splitlines() if "FATAL:" in line or "PANIC:" in line)
        return f"{last_line(fatal or log)} (its log is {self.log_path})"


def socket_dir_for(data_dir: Path) -> Path:
    """Return the folder of the socket: beside the data, or in /tmp for a path that is too long for a socket.

    A path that needs quotes in a URL or in PostgreSQL's list of folders goes to /tmp too. TMPDIR has no effect, since
    every process must compute the same path.
    """
    beside = data_dir.with_name(f"{data_dir.name}.socket")
    length = len(os.fsencode(beside / f".s.PGSQL.{PORT}"))
    if length <= SOCKET_PATH_BYTES_MAX and _PLAIN_PATH.fullmatch(str(beside)):
        return beside
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:24]
    return Path("/tmp").resolve() / f"graphjobs-{name}"  # noqa: S108 - created with mode 0700, refused if not ours
