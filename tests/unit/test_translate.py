"""What an SQLSTATE becomes, where no test elsewhere brings the server to say it."""

import asyncpg
import pytest

from graphjobs import DatabaseUnavailable, GraphJobsError, OutcomeUnknown
from graphjobs.database.error_translation import translate_error


def _said(sqlstate: str, *, ambiguous: bool = True) -> GraphJobsError:
    error = asyncpg.PostgresError.new({"C": sqlstate, "M": "a row is quoted here", "S": "ERROR"})
    failure = translate_error(error, ambiguous=ambiguous)
    assert failure is not None
    assert sqlstate == failure.sqlstate
    assert "quoted" not in str(failure)
    return failure


@pytest.mark.parametrize("sqlstate", ["53400", "58030", "58P01", "XX000", "XX001"])
def test_what_befalls_the_server_itself_is_no_fault_of_what_was_asked(sqlstate: str) -> None:
    """It answered, so nothing was changed; and a job's end is tried again, not failed for it."""
    assert isinstance(_said(sqlstate), DatabaseUnavailable)


@pytest.mark.parametrize("sqlstate", ["25P04", "57P04"])
def test_what_ends_the_connection_leaves_a_write_open(sqlstate: str) -> None:
    """And only a write that was sent on its own."""
    assert isinstance(_said(sqlstate), OutcomeUnknown)
    assert isinstance(_said(sqlstate, ambiguous=False), DatabaseUnavailable)
