"""Run the programs of a PostgreSQL server, such as initdb and pg_ctl, as the system user of the server."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphjobs.errors import ConfigurationError, DatabaseUnavailable

PROGRAM_SECONDS = 20
START_SECONDS = 60


@dataclass(frozen=True)
class ServerPrograms:
    """The programs of one PostgreSQL version, for one data folder.

    Attributes:
        bin_dir: the folder of the programs.
        data_dir: the folder of the data, which the programs get as PGDATA.
        os_user: the system user that runs the programs; None means the user of this process.
    """

    bin_dir: Path
    data_dir: Path
    os_user: str | None

    def owner(self) -> tuple[int, int]:
        """Return the user id and group id that the programs run as."""
        if self.os_user is None:
            return os.geteuid(), os.getegid()
        try:
            entry = pwd.getpwnam(self.os_user)
        except KeyError:
            raise ConfigurationError(f"this system has no user {self.os_user} to run PostgreSQL as") from None
        return entry.pw_uid, entry.pw_gid

    def require_user_name(self) -> None:
        """Check that the user has a name: without one, initdb refuses to run."""
        try:
            pwd.getpwuid(self.owner()[0])
        except KeyError:
            raise ConfigurationError(
                f"the embedded server needs a user with a name, and the user id {self.owner()[0]} has no entry in the "
                "user database: add one, or set GRAPHJOBS_DATABASE_URL to a server"
            ) from None

    def run(
        self, program: str, *arguments: str, text: str = "", output: int | None = None, seconds: int | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run one program in a session and an environment of its own.

        Args:
            program: the name of the program.
            arguments: its arguments.
            text: its standard input.
            output: an open file for both output streams; None captures them.
            seconds: the limit of its run time; by default 20 s, and 80 s for pg_ctl, which itself waits up to 60 s.

        Raises:
            DatabaseUnavailable: the program has not ended in time.
            ConfigurationError: the program could not be started.
        """
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
                # TZ=UTC also saves initdb the search through all time zones.
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "PGDATA": str(self.data_dir)},
                start_new_session=True,
                encoding="utf-8",
                errors="replace",
                timeout=seconds or PROGRAM_SECONDS + (START_SECONDS if program == "pg_ctl" else 0),
                **streams,
            )
        except subprocess.TimeoutExpired:
            raise DatabaseUnavailable(f"{program} of {self.bin_dir} gave no answer in time") from None
        except OSError as error:
            as_user = f" as the user {self.os_user}" if self.os_user else ""
            raise ConfigurationError(
                f"{program} of {self.bin_dir} could not be run{as_user}: {error.strerror}"
            ) from None


def last_line(text: str) -> str:
    """Return the last line of a program's output that is not blank."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
