"""`alembic` from the repository's root sees the drift of every table that the package declares."""

import pytest

from graphjobs.database.schema import Base
from tests.migrations.cli_tools import Done, alembic, ask
from tests.snapshots.statements import modules


@pytest.fixture(scope="module")
def declared_tables() -> list[str]:
    """The full names of all declared tables, whichever module declares them."""
    assert list(modules())
    return sorted(Base.metadata.tables)


def test_alembic_check_names_each_declared_table_that_has_drifted(
    graphjobs_database_url: str, declared_tables: list[str]
) -> None:
    """A column that only the database has is drift of its table; without it there is none."""
    clean = alembic("check", url=graphjobs_database_url)
    assert (0, "") == (clean.returncode, _operations(clean))
    for table in declared_tables:
        ask(graphjobs_database_url, f"ALTER TABLE {table} ADD COLUMN drifted integer")
    drifted = alembic("check", url=graphjobs_database_url)
    assert 0 != drifted.returncode
    unseen = [table for table in declared_tables if f"'{table.partition('.')[2]}'" not in _operations(drifted)]
    assert [] == unseen


def _operations(done: Done) -> str:
    """Return what alembic would change, as its error names it."""
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if "remove_column" in line)
