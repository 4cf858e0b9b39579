"""Translate errors of the driver and of SQLAlchemy into errors of graphjobs: by SQLSTATE, not by class or text.

Source of the codes: PostgreSQL manual, appendix A. No text repeats the driver's message, which may quote a row.
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

_CONFIGURATION: Final = {
    "28000": "the database refused the login: check the user and pg_hba.conf",
    "28P01": "the database refused the password: check GRAPHJOBS_DATABASE_URL",
    "3D000": "the database does not exist on the server: create it, or check GRAPHJOBS_DATABASE_URL",
    "42501": "the database role lacks a privilege on the schema scheduler: grant it, or use its owner",
}
_EVENT_KEYS: Final = {"graph_job_events_pkey": "graph_job_events", "policy_run_events_pkey": "policy_run_events"}
_MISSING_RELATION: Final = {"42P01", "3F000", "42703"}
_UNAVAILABLE: Final = {
    "25006": "the database is read-only, such as a standby",
    "40001": "the transaction could not be serialized with others",
    "40P01": "the database ended a deadlock",
    "55000": "the database does not take connections",
    "55P03": "a lock was not free within GRAPHJOBS_LOCK_TIMEOUT",
    "57014": "the statement was ended after GRAPHJOBS_STATEMENT_TIMEOUT or by an administrator",
    "57P03": "the database is starting up or shutting down",
    "53100": "the database's disk is full",
    "53200": "the database is out of memory",
    "53300": "the database has too many connections",
    "25P02": "the transaction has failed before: roll it back and begin again",
}
_CONNECTION_LOST: Final = {"57P01", "57P02", "57P04", "57P05", "25P03", "25P04"}
_ENDS_CONNECTION: Final = {"25006", "57P01", "57P02", "57P03", "57P04", "57P05"}
_SERVER_FAILURE_CLASSES: Final = ("53", "58", "XX")
"""Insufficient resources, system errors and internal errors."""


def translate_error(error: BaseException, *, ambiguous: bool) -> GraphJobsError | None:
    """Return the error to raise instead, or None for an error that graphjobs does not translate.

    Args:
        error: the error of the driver, SQLAlchemy or the event loop.
        ambiguous: True for a write in autocommit: after a lost connection its outcome is unknown.
            False for a read, and inside a transaction that is not committed.
    """
    if isinstance(error, GraphJobsError):
        return error
    if isinstance(error, exc.PendingRollbackError):
        return DatabaseUnavailable(f"{_UNAVAILABLE['25P02']}; nothing was changed, try again")
    if isinstance(error, exc.TimeoutError):
        return DatabaseUnavailable("the pool had no free connection in time: raise GRAPHJOBS_POOL_SIZE, or wait")
    driver_error = _driver_error(error)
    if isinstance(driver_error, asyncpg.InvalidCachedStatementError):
        # Its SQLSTATE, 0A000, covers all unsupported features, for which a retry does not help.
        return DatabaseUnavailable("a schema change invalidated a cached plan; nothing was changed, try again")
    sqlstate = getattr(driver_error, "sqlstate", None)
    if isinstance(sqlstate, str) and not isinstance(driver_error, asyncpg.InterfaceError):
        constraint = getattr(driver_error, "constraint_name", None)
        return _by_sqlstate(sqlstate, constraint=constraint, ambiguous=ambiguous)
    if isinstance(driver_error, asyncpg.DataError):
        return InvalidJob("a value does not match the type of its database column", sqlstate="22000")
    if isinstance(driver_error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        # An InterfaceError reports a closed or closing connection; its other causes are mistakes of this package.
        return _connection_error(None, ambiguous=ambiguous)
    return None


def ends_connection(error: BaseException) -> bool:
    """Return whether a connection with this error, and others to the same server, must not be used again.

    A read-only server (25006) was the primary before a failover. After a time-out of the client the server is silent.
    """
    driver_error = _driver_error(error)
    sqlstate = getattr(driver_error, "sqlstate", None)
    if isinstance(sqlstate, str):
        return sqlstate in _ENDS_CONNECTION or sqlstate.startswith("08")
    return isinstance(driver_error, OSError | TimeoutError)


def _driver_error(error: BaseException) -> BaseException:
    """Unwrap the error of the driver from those of SQLAlchemy and its adapter."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _by_sqlstate(sqlstate: str, *, constraint: str | None, ambiguous: bool) -> GraphJobsError:
    if sqlstate in _CONFIGURATION:
        return ConfigurationError(_CONFIGURATION[sqlstate], sqlstate=sqlstate)
    if sqlstate == "23505" and constraint in _EVENT_KEYS:
        table = f"scheduler.{_EVENT_KEYS[constraint]}"
        advance = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"  # noqa: S608
        return DatabaseUnavailable(
            f"the sequence of {table}.id is behind the table, as after a restore; nothing was changed: run {advance}",
            sqlstate=sqlstate,
            constraint=constraint,
        )
    if sqlstate in _MISSING_RELATION:
        return SchemaOutOfDate(found=None, expected=REVISION, sqlstate=sqlstate)
    if sqlstate in _UNAVAILABLE:
        return DatabaseUnavailable(f"{_UNAVAILABLE[sqlstate]}; nothing was changed, try again", sqlstate=sqlstate)
    if sqlstate in _CONNECTION_LOST or sqlstate.startswith("08"):
        return _connection_error(sqlstate, ambiguous=ambiguous)
    if sqlstate.startswith(_SERVER_FAILURE_CLASSES):
        return DatabaseUnavailable(
            f"the database failed (SQLSTATE {sqlstate}); nothing was changed, try again; see its log",
            sqlstate=sqlstate,
        )
    if sqlstate.startswith("22"):
        return InvalidJob(f"the database refused a value (SQLSTATE {sqlstate})", sqlstate=sqlstate)
    return GraphJobsError(
        f"the database answered with SQLSTATE {sqlstate}; see its log", sqlstate=sqlstate, constraint=constraint
    )


def _connection_error(sqlstate: str | None, *, ambiguous: bool) -> GraphJobsError:
    if ambiguous:
        return OutcomeUnknown(
            "the connection ended before the answer to a write: read the job before trying again", sqlstate=sqlstate
        )
    return DatabaseUnavailable(
        "the connection to the database ended; nothing was changed, try again", sqlstate=sqlstate
    )
