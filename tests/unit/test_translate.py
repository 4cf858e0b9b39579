"""The translation of SQLSTATEs that no integration test provokes."""

import asyncpg
import pytest

from graphjobs import DatabaseUnavailable, GraphJobsError, OutcomeUnknown
from graphjobs.database.error_translation import translate_error


def _translate(sqlstate: str, *, ambiguous: bool = True) -> GraphJobsError:
    error = asyncpg.PostgresError.new({"C": sqlstate, "M": "a row is quoted here", "S": "ERROR"})
    failure = translate_error(error, ambiguous=ambiguous)
    assert failure is not None
    assert sqlstate == failure.sqlstate
    assert "quoted" not in str(failure)
    return failure


@pytest.mark.parametrize("sqlstate", ["53400", "58030", "58P01", "XX000", "XX001"])
def test_a_failure_of_the_server_makes_the_database_unavailable(sqlstate: str) -> None:
    """The server answered, so nothing was changed and the caller may retry."""
    assert isinstance(_translate(sqlstate), DatabaseUnavailable)


@pytest.mark.parametrize("sqlstate", ["25P04", "57P04"])
def test_a_lost_connection_makes_the_outcome_of_a_write_unknown(sqlstate: str) -> None:
    """Only the outcome of a write in autocommit is unknown."""
    assert isinstance(_translate(sqlstate), OutcomeUnknown)
    assert isinstance(_translate(sqlstate, ambiguous=False), DatabaseUnavailable)
