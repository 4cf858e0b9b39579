"""One PostgreSQL cluster on this machine, run by its own programs: made, started, asked and stopped.

This room knows no wheel, no default folder and no asyncio. Its methods block (call them in a thread), and the only
processes it ever ends are its own helpers and, through `pg_ctl stop`, the server of its own data folder.
"""

import glob
import hashlib
import logging
import os
import pwd
import re
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from graphjobs.database.embedded.postmaster import drop_stale, find_postmaster
from graphjobs.database.embedded.private_dirs import locked, make_parents, make_private, refuse_unless_private
from graphjobs.errors import ConfigurationError, DatabaseUnavailable

logger = logging.getLogger(__name__)

SUPERUSER = "graphjobs"
PORT = 5432  # only a part of the socket's name; said everywhere, so that nobody's PGPORT changes it

START_SECONDS = 60
STOP_SECONDS = 60
INITDB_SECONDS = 120
HELPER_SECONDS = 20
POLL_SECONDS = 0.05
LOG_BYTES_MAX = 1024 * 1024
SOCKET_PATH_BYTES_MAX = 103  # Linux takes 107 and macOS 103

_ACCEPTS = 0  # pg_isready: 0 accepts, 1 answers but starts or stops, 2 no answer
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._~-]+")


@dataclass(frozen=True)
class ClusterStatus:
    """What a cluster was doing at the moment it was asked.

    Attributes:
        running: whether its server accepted connections.
        pid: its postmaster's process id; None where none is alive.
        version: the server's version ("18.4") where it runs, else the data's major version ("18"); None where there
            is no data yet.
        data_dir: where its data are.
        socket_dir: the folder of its Unix socket.
    """

    running: bool
    pid: int | None
    version: str | None
    data_dir: Path
    socket_dir: Path


@dataclass(frozen=True)
class Cluster:
    """A data folder, and the programs that serve it on a private Unix socket.

    Whoever can open the socket is trusted, so its folder is open to the server's user alone. Several processes may
    hold an equal Cluster and call it at once: a lock beside the data orders their starts and stops.

    Attributes:
        bin_dir: the folder of initdb, pg_ctl, pg_isready, postgres and psql, all of one version (15 or newer).
        data_dir: the data, an absolute path; its parent also takes a lock and a log of the same name.
        socket_dir: the folder of the socket, as `socket_dir_for(data_dir)` gives it.
        os_user: the system user the programs run as; None means this process's own, which must not be root.
        options: server settings given at its start, over this room's own.
    """

    bin_dir: Path
    data_dir: Path
    socket_dir: Path
    os_user: str | None = None
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def log_path(self) -> Path:
        """The server's log: beside the data, and emptied at a start that finds it over 1 MiB."""
        return self.data_dir.with_name(f"{self.data_dir.name}.log")

    @property
    def lock_path(self) -> Path:
        """The file whose lock orders starts and stops; never removed, or two processes could hold it."""
        return self.data_dir.with_name(f"{self.data_dir.name}.lock")

    def url(self, database: str = "postgres") -> str:
        """The `postgresql://` URL of one database of this cluster, whether it runs or not."""
        host = quote(os.fsencode(self.socket_dir), safe="/")
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={host}&port={PORT}"

    def start(self) -> None:
        """Makes the cluster where there is none yet, and starts its server unless it accepts connections already.

        The server belongs to nobody: it outlives this process, its terminal and its process group.

        Raises:
            ConfigurationError: the folder cannot hold the data, holds something else, or another major version.
            DatabaseUnavailable: the server did not come up in 60 seconds; the sentence names its log.
        """
        if self._ping() == _ACCEPTS:
            return
        make_parents(self.data_dir, os_user=self.os_user)
        with locked(self.lock_path):
            self._check_data()
            if not (self.data_dir / "PG_VERSION").exists():
                self._initdb()
            make_private(self.socket_dir, owner=self.owner())
            self._start_server()

    def stop(self) -> None:
        """Stops the server, ending its clients' connections; does nothing where none runs.

        Raises:
            ConfigurationError: the data are another user's.
            DatabaseUnavailable: it has not stopped within 60 seconds.
        """
        try:
            refuse_unless_private(self.data_dir, owner=self.owner())
        except FileNotFoundError:
            return
        with locked(self.lock_path):
            # pg_ctl signals whatever process the pid file names, so that must be known to be ours.
            if find_postmaster(self.data_dir) is None:
                return
            try:
                done = self._run("pg_ctl", "stop", "-s", "-m", "fast", "-w", "-t", str(STOP_SECONDS))
            except DatabaseUnavailable:
                done = None
            if (done is None or done.returncode != 0) and find_postmaster(self.data_dir) is not None:
                raise DatabaseUnavailable(f"PostgreSQL has not stopped yet: {self._last_words(0)}")

    def status(self) -> ClusterStatus:
        """Asks the server, and never believes a file alone."""
        running = self._ping() == _ACCEPTS
        version = self._ask("SHOW server_version").split(" ")[0] if running else self._data_version()
        return ClusterStatus(running, find_postmaster(self.data_dir), version, self.data_dir, self.socket_dir)

    def create_database_if_missing(self, name: str) -> None:
        """Makes an empty database of this name, unless there is one; safe to call from several processes at once."""
        exists = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = :'name')"
        if self._ask(exists, name=name) == "t":
            return
        with locked(self.lock_path):
            try:
                self._ask("SELECT format('CREATE DATABASE %I', :'name') \\gexec", name=name)
            except DatabaseUnavailable:
                # Another process was first; or one that was killed, and whose statement went on without a lock.
                if self._ask(exists, name=name) != "t":
                    raise

    def _start_server(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._ping() != _ACCEPTS:
            if find_postmaster(self.data_dir) is None:
                drop_stale(self.data_dir / "postmaster.pid", self.socket_dir / f".s.PGSQL.{PORT}.lock")
                log_start, failed = self._pg_ctl_start()
                if not failed:
                    logger.info(
                        "PostgreSQL started on %s with trust authentication on a private Unix socket: "
                        "for this machine only",
                        self.socket_dir,
                    )
                    return
                # The processes of a killed postmaster hold its memory until they notice; PostgreSQL then refuses.
                waiting = "shared memory block" in self._log_since(log_start)
                if find_postmaster(self.data_dir) is None and not waiting:
                    raise DatabaseUnavailable(f"PostgreSQL did not start: {self._last_words(log_start)}")
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"PostgreSQL has not come up in {START_SECONDS} seconds: {self._last_words(0)}"
                )
            time.sleep(POLL_SECONDS)

    def _pg_ctl_start(self) -> tuple[int, bool]:
        """Starts the server on its log; gives the log's length before, and whether that failed."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
            "port": str(PORT),
            # Callers get their errors; here they would only grow the log, and bring stored values into it.
            "log_min_messages": "log",
            "log_checkpoints": "off",
            **self.options,
        }
        # pg_ctl gives these to a shell. The folder is among them (and not pg_ctl's own -D, which quotes badly), so
        # that the process can be told from others by its command line.
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
                done = self._run("pg_ctl", "start", "-s", "-w", "-t", seconds, "-o", shlex.join(arguments), output=log)
            except DatabaseUnavailable:
                return log_start, True
        finally:
            os.close(log)
        return log_start, done.returncode != 0

    def _check_data(self) -> None:
        """Refuses a folder that cannot become or is not these programs' data; changes nothing of it."""
        if not self.data_dir.exists():
            return
        refuse_unless_private(self.data_dir, owner=self.owner())
        found, program = self._data_version(), self._program_version()
        if found is None and any(self.data_dir.iterdir()):
            raise ConfigurationError(
                f"{self.data_dir} holds files but no PostgreSQL data: name an empty folder or one that does not exist"
            )
        if found not in (None, program):
            raise ConfigurationError(
                f"the data in {self.data_dir} are of PostgreSQL {found} and this is PostgreSQL {program}: "
                "name another folder, or move the data over with pg_dump"
            )

    def _initdb(self) -> None:
        """Makes the data beside their place and moves them there whole, so that a kill leaves no half of them."""
        name = f"{self.data_dir.name}.begun-"
        for left in self.data_dir.parent.glob(f"{glob.escape(name)}*"):
            shutil.rmtree(left, ignore_errors=True)
        # Always a new name: the initdb of a caller who was killed may still be at work in its own.
        begun = self.data_dir.with_name(name + secrets.token_hex(4))
        make_private(begun, owner=self.owner())
        # Without a locale text sorts by code point, the same on every machine, and messages are English.
        arguments = ["--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--no-locale"]
        if self.options.get("fsync") == "off":
            arguments.append("--no-sync")
        done = self._run("initdb", *arguments, "-D", str(begun), seconds=INITDB_SECONDS)
        if done.returncode != 0:
            raise ConfigurationError(f"PostgreSQL could not make its data folder: {_last_line(done.stderr)}")
        try:
            begun.rename(self.data_dir)
        except OSError as error:
            raise ConfigurationError(
                f"the data could not be moved to {self.data_dir} ({error.strerror}): name a folder inside of it"
            ) from None

    def _ping(self) -> int:
        """What pg_isready answers; a socket in a folder that is not ours is never asked."""
        try:
            refuse_unless_private(self.socket_dir, owner=self.owner())
        except FileNotFoundError:
            return 2
        return self._run("pg_isready", "-q", "-t", "5", "-h", str(self.socket_dir), "-p", str(PORT)).returncode

    def _ask(self, sql: str, **values: str) -> str:
        """Runs SQL through psql, with `values` as its variables, and gives what it printed."""
        arguments = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-h", str(self.socket_dir), "-p", str(PORT), "-U", SUPERUSER]
        for name, value in values.items():
            arguments += ["-v", f"{name}={value}"]
        done = self._run("psql", *arguments, "-d", "postgres", "-f", "-", text=sql)
        if done.returncode != 0:
            raise DatabaseUnavailable(f"PostgreSQL on {self.socket_dir} refused: {_last_line(done.stderr)}")
        return done.stdout.strip()

    def _run(
        self, program: str, *arguments: str, text: str = "", output: int | None = None, seconds: int | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs one program of the server's as its user, in a session and an environment of its own."""
        waits = program == "pg_ctl"
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "input": text}
        if output is not None:
            streams = {"stdout": output, "stderr": output, "stdin": subprocess.DEVNULL}
        if self.os_user is not None:
            uid, gid = self.owner()
            streams |= {"user": uid, "group": gid, "extra_groups": []}
        try:
            return subprocess.run(
                [str(self.bin_dir / program), *arguments],
                check=False,
                cwd="/",
                # UTC here also spares initdb a search through all time zones.
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "PGDATA": str(self.data_dir)},
                start_new_session=True,
                encoding="utf-8",
                errors="replace",
                timeout=seconds or HELPER_SECONDS + (START_SECONDS if waits else 0),
                **streams,
            )
        except subprocess.TimeoutExpired:
            raise DatabaseUnavailable(f"{program} of {self.bin_dir} gave no answer in time") from None
        except OSError as error:
            whose = f" as the user {self.os_user}" if self.os_user else ""
            raise ConfigurationError(f"{program} of {self.bin_dir} could not be run{whose}: {error.strerror}") from None

    def owner(self) -> tuple[int, int]:
        """The user id and group id the server runs as."""
        if self.os_user is None:
            return os.geteuid(), os.getegid()
        try:
            entry = pwd.getpwnam(self.os_user)
        except KeyError:
            raise ConfigurationError(f"this system has no user {self.os_user} to run PostgreSQL as") from None
        return entry.pw_uid, entry.pw_gid

    def _data_version(self) -> str | None:
        try:
            return (self.data_dir / "PG_VERSION").read_text().strip()
        except OSError:
            return None

    def _program_version(self) -> str:
        """The major version of the programs."""
        done = self._run("postgres", "--version")
        found = re.search(r"\) (\d+)", done.stdout)
        if found is None:
            raise ConfigurationError(f"the PostgreSQL of {self.bin_dir} does not run: {_last_line(done.stderr)}")
        return found[1]

    def _log_since(self, start: int) -> str:
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(start, log.seek(0, os.SEEK_END) - 64 * 1024))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _last_words(self, log_start: int) -> str:
        """The line of the log that says most about a failure, and where to read on."""
        lines = [line.strip() for line in self._log_since(log_start).splitlines() if line.strip()]
        telling = [line for line in lines if "FATAL:" in line or "PANIC:" in line] or lines or ["it said nothing"]
        return f"{telling[-1]} (its log is {self.log_path})"


def socket_dir_for(data_dir: Path) -> Path:
    """The folder of the socket for these data: beside them, or in /tmp where that path is too long for a socket.

    A path that a URL or PostgreSQL's list of folders would have to quote goes to /tmp too. It is /tmp whatever TMPDIR
    says: every process must come to the same answer.
    """
    beside = data_dir.with_name(f"{data_dir.name}.socket")
    length = len(os.fsencode(beside / f".s.PGSQL.{PORT}"))
    if length <= SOCKET_PATH_BYTES_MAX and _PLAIN_PATH.fullmatch(str(beside)):
        return beside
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:24]
    return Path("/tmp").resolve() / f"graphjobs-{name}"  # noqa: S108 - made 0700, and refused where it is not ours


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
