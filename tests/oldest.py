"""Runs pytest on a throw-away server of the oldest PostgreSQL supported: what `make test-oldest` calls."""

import os
import sys
from pathlib import Path

import pytest

from graphjobs.database.embedded import throwaway_cluster

_BIN = Path(os.environ.get("GRAPHJOBS_OLDEST_BIN", "/usr/lib/postgresql/15/bin"))


def main() -> int:
    """Starts the server, runs the tests with it named as the test database, and stops it."""
    if not (_BIN / "postgres").is_file():
        sys.exit(f"no PostgreSQL in {_BIN}: install postgresql-15, or set GRAPHJOBS_OLDEST_BIN")
    with throwaway_cluster(bin_dir=_BIN) as cluster:
        os.environ["GRAPHJOBS_TEST_DATABASE_URL"] = cluster.url()
        return int(pytest.main(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
