"""Folders and lock files that several processes and two system users share; it opens none that is closed."""

import contextlib
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from graphjobs.errors import ConfigurationError, DatabaseUnavailable

LOCK_SECONDS = 180  # longer than making and starting a cluster may take the one who holds the lock
POLL_SECONDS = 0.05


@contextlib.contextmanager
def locked(path: Path, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Holds the exclusive lock of a file, which is made where there is none.

    Raises:
        DatabaseUnavailable: another process held it all that time.
        ConfigurationError: the file cannot be made.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None
    try:
        deadline = time.monotonic() + seconds
        while not try_lock(lock):
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(f"another process has held {path} for {seconds:.0f} seconds")
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            # Said aloud: a process forked meanwhile shares the lock, and closing alone would leave it that.
            fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)


def try_lock(file: int) -> bool:
    """Takes the exclusive lock of an open file if it is free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_private(path: Path, *, owner: tuple[int, int]) -> None:
    """Makes a folder of mode 0700 that belongs to (uid, gid), or finds it so; refuses any other that is there."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        refuse_unless_private(path, owner=owner)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}") from None
    else:
        if owner != (os.geteuid(), os.getegid()):
            os.chown(path, *owner, follow_symlinks=False)


def refuse_unless_private(path: Path, *, owner: tuple[int, int], mode_max: int = 0o700) -> None:
    """Raises ConfigurationError unless this is a folder of that user's, open to nobody beyond `mode_max`."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be used: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"{path} is not a folder: name another, or remove it")
    if found.st_uid != owner[0]:
        raise ConfigurationError(
            f"{path} belongs to the user with id {found.st_uid}, not to the server's ({owner[0]}): "
            "name a folder that does not exist yet"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o777 & ~mode_max:
        raise ConfigurationError(
            f"{path} is open to others (mode {mode:04o}): close it with chmod {mode_max:o}, or name another folder"
        )


def make_parents(path: Path, *, os_user: str | None) -> None:
    """Makes the folders above a path; refuses, and never opens, an existing one that `os_user` cannot enter."""
    for folder in reversed(path.parents):
        try:
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                if os_user is not None:
                    folder.chmod(0o755)  # just made, and whatever our umask
            found = folder.stat()
        except OSError as error:
            raise ConfigurationError(
                f"the folder {folder} for {path.name} cannot be made or read: {error.strerror}"
            ) from None
        if os_user is None:
            continue
        user = pwd.getpwnam(os_user)
        shift = 6 if found.st_uid == user.pw_uid else 3 if found.st_gid == user.pw_gid else 0
        if not found.st_mode >> shift & 0o1:
            raise ConfigurationError(
                f"{path} cannot be used: the server runs as the user {os_user}, who cannot enter {folder}"
            )
