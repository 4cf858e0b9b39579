"""What the driver and SQLAlchemy raise, put into the errors of graphjobs: by SQLSTATE, never by class or text.

Source of the codes: PostgreSQL manual, appendix A. Nothing of a driver's message is repeated, for it may quote a row.
"""

from typing import Final

import asyncpg
from sqlalchemy import exc

from graphjobs.database.schema import REVISION
from graphjobs.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    GraphJobsError,
    InvalidJob,
    OutcomeUnknown,
    SchemaOutOfDate,
)

_REFUSED: Final = {
    "28000": "the database refused the login: check the user, and what pg_hba.conf allows",
    "28P01": "the database refused the password: check GRAPHJOBS_DATABASE_URL",
    "3D000": "there is no such database on the server: create it, or check GRAPHJOBS_DATABASE_URL",
    "42501": "the database role lacks a privilege on the schema scheduler: grant it, or use its owner",
    "42704": "the server does not know a setting it was given: check the query of GRAPHJOBS_DATABASE_URL",
}
_NOT_THERE: Final = {"42P01", "3F000", "42703"}
_NOT_NOW: Final = {
    "25006": "the database is read-only, as a standby is",
    "40001": "the transaction could not be serialized with others",
    "40P01": "the database ended a deadlock",
    "55000": "the database does not take connections",
    "55P03": "a lock was not free within GRAPHJOBS_LOCK_TIMEOUT",
    "57014": "the statement was ended after GRAPHJOBS_STATEMENT_TIMEOUT, or by hand",
    "57P03": "the database is starting up or shutting down",
    "53100": "the database's disk is full",
    "53200": "the database is out of memory",
    "53300": "the database has too many connections",
    "25P02": "the transaction had failed before: roll it back and begin again",
}
_LOST: Final = {"57P01", "57P02", "57P04", "57P05", "25P03", "25P04"}
_OF_THE_SERVER: Final = ("53", "58", "XX")
"""Classes of what befalls the server itself: resources, the system, its own insides."""


def translate_error(error: BaseException, *, ambiguous: bool) -> GraphJobsError | None:
    """Gives the error to raise instead, or None where it is none of ours to translate.

    Args:
        error: what the driver, SQLAlchemy or the event loop raised.
        ambiguous: True where a write was sent on its own, so that a lost connection leaves its outcome open.
            False for a read, and inside a transaction, which nothing has committed yet.
    """
    if isinstance(error, GraphJobsError):
        return error
    if isinstance(error, exc.TimeoutError):
        return DatabaseUnavailable("no connection of the pool came free in time: raise GRAPHJOBS_POOL_SIZE, or wait")
    driver_error = _driver_error(error)
    if isinstance(driver_error, asyncpg.InvalidCachedStatementError):
        # Its SQLSTATE, 0A000, is that of all that is not supported, which no second try would mend.
        return DatabaseUnavailable("a plan was outdated by a change of the schema; nothing was changed, try again")
    sqlstate = getattr(driver_error, "sqlstate", None)
    if isinstance(sqlstate, str) and not isinstance(driver_error, asyncpg.InterfaceError):
        constraint = getattr(driver_error, "constraint_name", None)
        return _by_sqlstate(sqlstate, constraint=constraint, ambiguous=ambiguous)
    if isinstance(driver_error, asyncpg.DataError):
        return InvalidJob("a value cannot be sent to the database as its column's type", sqlstate="22000")
    if isinstance(driver_error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        # An InterfaceError is about a connection that is closed, or closing; the rest of it would be our own mistake.
        return _lost(None, ambiguous=ambiguous)
    return None


def _driver_error(error: BaseException) -> BaseException:
    """SQLAlchemy wraps its adapter's error, which wraps the driver's."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _by_sqlstate(sqlstate: str, *, constraint: str | None, ambiguous: bool) -> GraphJobsError:
    if sqlstate in _REFUSED:
        return ConfigurationError(_REFUSED[sqlstate], sqlstate=sqlstate)
    if sqlstate in _NOT_THERE:
        return SchemaOutOfDate(found=None, expected=REVISION, sqlstate=sqlstate)
    if sqlstate in _NOT_NOW:
        return DatabaseUnavailable(f"{_NOT_NOW[sqlstate]}; nothing was changed, try again", sqlstate=sqlstate)
    if sqlstate in _LOST or sqlstate.startswith("08"):
        return _lost(sqlstate, ambiguous=ambiguous)
    if sqlstate.startswith(_OF_THE_SERVER):
        return DatabaseUnavailable(
            f"the database failed (SQLSTATE {sqlstate}); nothing was changed, try again; its log says more",
            sqlstate=sqlstate,
        )
    if sqlstate.startswith("22"):
        return InvalidJob(f"the database refused a value (SQLSTATE {sqlstate})", sqlstate=sqlstate)
    return GraphJobsError(
        f"the database answered with SQLSTATE {sqlstate}; its log says more", sqlstate=sqlstate, constraint=constraint
    )


def _lost(sqlstate: str | None, *, ambiguous: bool) -> GraphJobsError:
    if ambiguous:
        return OutcomeUnknown(
            "the connection ended before the answer to a write: read the job before trying again", sqlstate=sqlstate
        )
    return DatabaseUnavailable(
        "the connection to the database ended; nothing was changed, try again", sqlstate=sqlstate
    )
