"""Folders and lock files that several processes and two system users share; never open a closed folder."""

import contextlib
import errno
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from graphjobs.errors import ConfigurationError, DatabaseUnavailable

LOCK_SECONDS = 180  # longer than the creation and start of a cluster, during which the lock is held
POLL_SECONDS = 0.05
_READ_BYTES_MAX = 4096


@contextlib.contextmanager
def locked(path: Path, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the exclusive lock of a file, and create a missing file.

    Raises:
        DatabaseUnavailable: another process held the lock for `seconds`.
        ConfigurationError: the file is not writable.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path} is not writable: {error.strerror}") from None
    try:
        deadline = time.monotonic() + seconds
        while not try_lock(lock):
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(f"another process has held {path} for {seconds:.0f} seconds")
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            # Unlock explicitly: a process forked meanwhile shares the lock, and a close alone would keep it locked.
            fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)


def try_lock(file: int) -> bool:
    """Lock an open file exclusively; return False if it is locked already."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_private(path: Path, *, owner: tuple[int, int]) -> None:
    """Create a folder with mode 0700 for an owner (uid, gid); refuse an existing folder that is not private."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        try:
            require_private(path, owner=owner)
            return
        except FileNotFoundError:  # as good as missing
            pass
    except OSError as error:
        raise ConfigurationError(f"the folder {path} could not be created: {error.strerror}") from None
    if owner != (os.geteuid(), os.getegid()):
        os.chown(path, *owner, follow_symlinks=False)


def require_private(path: Path, *, owner: tuple[int, int], mode_max: int = 0o700) -> None:
    """Check that a path is a folder of this owner, with no permission beyond `mode_max`.

    Raises:
        FileNotFoundError: the path does not exist; or it is empty, because a process of this user was killed after it
            had created it, and before it changed the owner.
        ConfigurationError: the folder is not private.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(f"{path} is not accessible: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"{path} is not a folder: name another, or remove it")
    if status.st_uid != owner[0]:
        if status.st_uid == os.geteuid() and not status.st_mode & 0o077 and not any(path.iterdir()):
            raise FileNotFoundError(errno.ENOENT, "it is not complete", str(path))
        raise ConfigurationError(
            f"{path} belongs to the user with id {status.st_uid}, not to the server's user ({owner[0]}): "
            "name a folder that does not exist yet"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o777 & ~mode_max:
        raise ConfigurationError(
            f"{path} is open to others (mode {mode:04o}): close it with chmod {mode_max:o}, or name another folder"
        )


def read_regular(path: Path) -> str:
    """Return the start of a file of another user; follow no link, and wait for no pipe or device.

    Raises:
        OSError: the file does not exist, is unreadable, or is not a regular file.
    """
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return os.read(file, _READ_BYTES_MAX).decode(errors="replace")
    finally:
        os.close(file)


def make_parents(path: Path, *, os_user: str | None) -> None:
    """Create the folders above a path; refuse, and never open, an existing one that `os_user` cannot enter."""
    for folder in reversed(path.parents):
        try:
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                if os_user is not None:
                    folder.chmod(0o755)  # just created; ignore the umask
            status = folder.stat()
        except OSError as error:
            raise ConfigurationError(
                f"the folder {folder} for {path.name} could not be created or read: {error.strerror}"
            ) from None
        if os_user is None:
            continue
        user = pwd.getpwnam(os_user)
        shift = 6 if status.st_uid == user.pw_uid else 3 if status.st_gid == user.pw_gid else 0
        if not status.st_mode >> shift & 0o1:
            raise ConfigurationError(
                f"{path} is unusable: the server runs as the user {os_user}, who cannot enter {folder}"
            )
