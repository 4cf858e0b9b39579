"""`alembic` from the repository's root reports drift of every table that the package declares."""

import pytest

from graphjobs.database.schema import Base
from tests.migrations.cli_tools import Done, alembic, ask
from tests.snapshots.statements import modules


@pytest.fixture(scope="module")
def declared_tables() -> list[str]:
    """The full names of the declared tables of all modules."""
    assert list(modules())
    return sorted(Base.metadata.tables)


def test_alembic_check_reports_drift_of_every_declared_table(
    graphjobs_database_url: str, declared_tables: list[str]
) -> None:
    """A column that exists only in the database is drift of its table."""
    clean = alembic("check", url=graphjobs_database_url)
    assert (0, "") == (clean.returncode, _operations(clean))
    for table in declared_tables:
        ask(graphjobs_database_url, f"ALTER TABLE {table} ADD COLUMN drifted integer")
    drifted = alembic("check", url=graphjobs_database_url)
    assert 0 != drifted.returncode
    missing = [table for table in declared_tables if f"'{table.partition('.')[2]}'" not in _operations(drifted)]
    assert [] == missing


def _operations(done: Done) -> str:
    """Return the operations in alembic's output."""
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if "remove_column" in line)
