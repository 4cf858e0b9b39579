"""Run pytest on the oldest supported PostgreSQL and behind pgbouncer, both of the system; `make test-oldest`."""

import os
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

from graphjobs.database.embedded.server import throwaway_cluster

_BIN = Path(os.environ.get("GRAPHJOBS_TEST_OLDEST_BIN", "/usr/lib/postgresql/15/bin"))
_PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_SKIPPED: Final = (
    # These start their own servers, so one run is enough.
    *(f"integration/test_{name}.py" for name in ("embedded", "plugin", "wheel")),
    "faults/test_failover.py",
    # These use no server.
    *("unit", *(f"backfill/test_{name}.py" for name in ("dumps", "duplicates", "dry_run"))),
    # These test layers above the statements: commands, routes, examples, processes.
    *("docs", "web", "snapshots/test_cli_json_keys.py"),
    *(f"integration/test_{name}.py" for name in ("cli_db", "cli_policy", "cli_web", "demo")),
    *(f"worker/test_{name}.py" for name in ("cli_worker", "processes")),
    *(f"backfill/test_{name}.py" for name in ("parallel_mapping", "resume_after_kill")),
)


def main() -> int:
    """Start the server, run the tests on it, and stop it."""
    if not (_BIN / "postgres").is_file():
        sys.exit(f"no PostgreSQL in {_BIN}: install postgresql-15, or set GRAPHJOBS_TEST_OLDEST_BIN")
    if _PGBOUNCER is None:
        sys.exit("no pgbouncer on the PATH: install pgbouncer")
    # All test processes share this server.
    with throwaway_cluster(bin_dir=_BIN, options={"max_connections": "400"}) as cluster:
        os.environ["GRAPHJOBS_TEST_DATABASE_URL"] = cluster.url()
        os.environ["GRAPHJOBS_TEST_PROGRAMS"] = str(_BIN)
        os.environ["GRAPHJOBS_TEST_PGBOUNCER"] = _PGBOUNCER
        return int(pytest.main([*(f"--ignore=tests/{path}" for path in _SKIPPED), *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
